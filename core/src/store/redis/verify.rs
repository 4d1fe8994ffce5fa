//! The books: a batch's outcomes counted anew, from the entries themselves.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;

use redis::{Pipeline, RedisResult};

use super::entries::Window;
use super::plan::PAGE;
use super::{PROGRESS, Redis, number, progress_of};
use crate::batch::BatchId;
use crate::outcome::Status;
use crate::store::page::{Entry, visit};
use crate::store::{Books, StoreError, StoreErrorKind};

const ACTION: &str = "verify a batch";

/// Read at once. While some are counted, so many more are on their way.
const BYTES: usize = 4 << 20;

/// Which items were seen: a bit each, on pages that exist where there is one.
#[derive(Default)]
struct Seen {
    pages: BTreeMap<u64, Box<[u64; (PAGE / 64) as usize]>>,
}

impl Seen {
    /// Whether it was not seen before.
    fn insert(&mut self, index: u64) -> bool {
        let page = self.pages.entry(index / PAGE).or_insert_with(|| Box::new([0; (PAGE / 64) as usize]));
        let (word, bit) = ((index % PAGE / 64) as usize, 1 << (index % 64));
        let is_new = page[word] & bit == 0;
        page[word] |= bit;
        is_new
    }

    /// The ranges that were seen, ascending, not touching.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (page, words) in &self.pages {
            for (place, word) in words.iter().enumerate() {
                let start = page * PAGE + place as u64 * 64;
                let mut left = *word;
                while left != 0 {
                    let first = u64::from(left.trailing_zeros());
                    let run = u64::from((left >> first).trailing_ones());
                    push(&mut ranges, start + first, start + first + run);
                    left = left.checked_shr(u32::try_from(first + run).unwrap_or(64)).unwrap_or(0);
                    left = left.checked_shl(u32::try_from(first + run).unwrap_or(64)).unwrap_or(0);
                }
            }
        }
        ranges
    }
}

fn push(ranges: &mut Vec<(u64, u64)>, from: u64, to: u64) {
    match ranges.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => ranges.push((from, to)),
    }
}

/// An item that was dead and was given another life.
#[derive(Default)]
struct Life {
    revived: u64,
    outcomes: u64,
    last: Option<Status>,
}

/// The outcomes of a batch as they are counted.
#[derive(Default)]
struct Count {
    seen: Seen,
    lives: HashMap<u64, Life>,
    counts: [u64; Status::ALL.len()],
    doubled: u64,
}

impl Count {
    fn enter(&mut self, index: u64, status: Status) {
        if let Some(life) = self.lives.get_mut(&index) {
            life.outcomes += 1;
            life.last = Some(status);
            return;
        }
        if !self.seen.insert(index) {
            self.doubled += 1;
        }
        self.counts[status as usize] += 1;
    }

    /// Of an item that was revived *n* times, *n* outcomes count no more.
    fn end_lives(&mut self) {
        for (index, life) in std::mem::take(&mut self.lives) {
            let Some(current) = life.outcomes.checked_sub(life.revived).and_then(NonZeroU64::new) else { continue };
            self.seen.insert(index);
            self.doubled += u64::from(current.get() > 1);
            if let Some(status) = life.last {
                self.counts[status as usize] += 1;
            }
        }
    }

    fn books(mut self, progress: crate::store::Progress) -> Books {
        self.end_lives();
        let ranges = self.seen.ranges();
        let end = progress.total.unwrap_or_else(|| ranges.last().map_or(0, |last| last.1));
        let mut books = Books {
            total: progress.total,
            counts: self.counts,
            counters: progress.counts,
            duplicates: progress.duplicates,
            doubled: self.doubled,
            ..Books::default()
        };
        let mut at = 0;
        for (from, to) in ranges {
            books.miss(at, from.min(end));
            at = to;
            books.beyond += to.saturating_sub(from.max(end));
        }
        books.miss(at, end);
        books
    }
}

impl Redis {
    pub(super) async fn count_anew(&self, batch: &BatchId) -> Result<Books, StoreError> {
        // The counters, and how far to read for the outcomes that they are of: one instant.
        let mut pipeline = Pipeline::new();
        let names = PROGRESS.into_iter().chain(["created", "landed", "forgotten_input", "forgotten_completion"]);
        pipeline.atomic().cmd("HMGET").arg(self.keys.batch(batch)).arg(names.collect::<Vec<_>>());
        pipeline.cmd("HGETALL").arg(self.keys.revived(batch));
        let pipeline = &pipeline;
        let (fields, revived): (Vec<Option<String>>, HashMap<u64, u64>) = self
            .link
            .run(ACTION, |mut connection| async move {
                let answer: RedisResult<_> = pipeline.query_async(&mut connection).await;
                answer
            })
            .await?;
        let at = |place: usize| fields.get(PROGRESS.len() + place).and_then(Option::as_deref);
        if at(0).is_none() {
            return Err(StoreError::unknown(ACTION, batch));
        }
        if number(at(2)) + number(at(3)) > 0 {
            return Err(StoreError {
                kind: StoreErrorKind::Forgotten,
                action: ACTION.into(),
                reason: format!("some outcomes of batch {batch} are no longer kept, so they cannot be counted"),
            });
        }
        let lives = revived.into_iter().map(|(index, revived)| (index, Life { revived, ..Life::default() }));
        let mut count = Count { lives: lives.collect(), ..Count::default() };
        self.count_entries(batch, number(at(1)), &mut count).await?;
        Ok(count.books(progress_of(&fields)))
    }

    async fn count_entries(&self, batch: &BatchId, landed: u64, count: &mut Count) -> Result<(), StoreError> {
        let mut window = Window::new(BYTES, BYTES);
        let mut entries = self.entries_up_to(batch, 1..=landed, window.size()).await?;
        while let Some(last) = entries.last() {
            let rest = last.end + 1..=landed;
            window.add(&entries);
            window.clear();
            let fetching = self.entries_up_to(batch, rest, window.size());
            let counting = async {
                entries
                    .iter()
                    .try_for_each(|entry| visit(&entry.json, |_, outcome| count.enter(outcome.index, outcome.status)))
            };
            // They are asked for before the others are counted.
            let (next, ()) = tokio::try_join!(fetching, counting)?;
            entries = next;
        }
        Ok(())
    }

    async fn entries_up_to(
        &self,
        batch: &BatchId,
        ids: RangeInclusive<u64>,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.entries_between(ACTION, batch, ids, count).await
    }
}
