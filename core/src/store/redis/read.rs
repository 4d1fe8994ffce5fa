//! Reading, in either order, as values or as text.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Pipeline, RedisResult, Value};

use super::entries::Window;
use super::plan::{BAND, PAGE, Token, is_set, tokens};
use super::{PROGRESS, Redis, number, progress_of};
use crate::batch::BatchId;
use crate::outcome::{Line, Maker, Outcome, Status};
use crate::segment::{self, Entry, Head, MAX_INDEX};
use crate::store::{Order, Page, Rendered, StoreError, StoreErrorKind};

const ACTION: &str = "read outcomes";

/// Segments a page: beyond it the page ends, with one outcome at least.
const PAGE_BYTES: usize = 8 << 20;

/// Items a page, whatever is asked for.
const PAGE_ITEMS: u64 = PAGE;

/// Where outcomes are put as they are found, which need not be in order.
trait Sink: Send {
    fn put(&mut self, head: &Head, entry: &Entry<'_>, id: u64);
    /// Leaves the outcomes of the items from `from` on, up to `upto` or the first gap, in order of their index; of two
    /// of the same item the later. Gives how many.
    fn arrange(&mut self, from: u64, upto: u64) -> u64;
}

/// An outcome's item, the entry that it is from, and what a sink keeps of it.
type Found<T> = (u64, u64, T);

/// Sorts what was found and cuts it; whether it had to be sorted.
fn arrange<T>(found: &mut Vec<Found<T>>, from: u64, upto: u64) -> bool {
    let was_sorted = found.is_sorted_by(|one, next| one.0 < next.0);
    if !was_sorted {
        // The later first, which is the one that `dedup` leaves.
        found.sort_unstable_by_key(|(index, id, _)| (*index, std::cmp::Reverse(*id)));
        found.dedup_by_key(|(index, ..)| *index);
    }
    let run = found.iter().zip(from..upto).take_while(|((index, ..), expected)| index == expected).count();
    found.truncate(run);
    !was_sorted
}

/// Outcomes as values.
#[derive(Default)]
struct Values {
    maker: Arc<Maker>,
    found: Vec<Found<Arc<Outcome>>>,
}

impl Sink for Values {
    fn put(&mut self, head: &Head, entry: &Entry<'_>, id: u64) {
        if *self.maker != head.maker {
            self.maker = Arc::new(head.maker.clone());
        }
        self.found.push((entry.index, id, Arc::new(entry.to_outcome(&self.maker))));
    }

    fn arrange(&mut self, from: u64, upto: u64) -> u64 {
        arrange(&mut self.found, from, upto);
        self.found.len() as u64
    }
}

/// Outcomes as lines, behind what the text had in it.
struct Text<'a> {
    text: &'a mut Vec<u8>,
    start: usize,
    found: Vec<Found<Range<usize>>>,
}

impl Sink for Text<'_> {
    fn put(&mut self, head: &Head, entry: &Entry<'_>, id: u64) {
        let start = self.text.len();
        let line = Line {
            index: entry.index,
            input: entry.input,
            status: entry.status,
            value: matches!(entry.status, Status::Ok | Status::Failed | Status::Dead).then_some(entry.value),
            attempts: entry.attempts,
            maker: &head.maker,
            queued: Duration::from_micros(entry.queued),
            run: Duration::from_micros(entry.run),
        };
        line.write(self.text);
        self.text.push(b'\n');
        self.found.push((entry.index, id, start..self.text.len()));
    }

    fn arrange(&mut self, from: u64, upto: u64) -> u64 {
        if arrange(&mut self.found, from, upto) {
            let lines = self.text.split_off(self.start);
            for (.., range) in &self.found {
                self.text.extend_from_slice(&lines[range.start - self.start..range.end - self.start]);
            }
        } else {
            self.text.truncate(self.found.last().map_or(self.start, |(.., range)| range.end));
        }
        self.found.len() as u64
    }
}

/// What can be read in input order.
struct Prefix {
    /// The first item that has no outcome, or that was not asked for.
    upto: u64,
    total: Option<u64>,
    /// The entries that hold those before it, by their first item.
    tokens: Vec<Token>,
}

impl Redis {
    pub(super) async fn read_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut values = Values::default();
        let (_, next, is_last) = self.page(batch, order, from, limit, &mut values).await?;
        let outcomes = values.found.into_iter().map(|(.., outcome)| outcome).collect();
        Ok(Page { outcomes, next, is_last })
    }

    pub(super) async fn render_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
        lines: &mut Vec<u8>,
    ) -> Result<Rendered, StoreError> {
        let start = lines.len();
        let mut text = Text { start, text: lines, found: Vec::new() };
        match self.page(batch, order, from, limit, &mut text).await {
            Ok((lines, next, is_last)) => Ok(Rendered { lines, next, is_last }),
            Err(error) => {
                lines.truncate(start);
                Err(error)
            }
        }
    }

    /// How many outcomes, where to go on, and whether nothing will ever come after them.
    async fn page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
        sink: &mut impl Sink,
    ) -> Result<(u64, u64, bool), StoreError> {
        let limit = (limit as u64).min(PAGE_ITEMS);
        match order {
            Order::Input => self.page_by_index(batch, from, limit, sink).await,
            Order::Completion => self.page_by_landing(batch, from, limit, sink).await,
        }
    }

    async fn page_by_index(
        &self,
        batch: &BatchId,
        from: u64,
        limit: u64,
        sink: &mut impl Sink,
    ) -> Result<(u64, u64, bool), StoreError> {
        let Prefix { mut upto, total, tokens } = self.prefix(batch, from, limit).await?;
        let mut window = Window::new(PAGE_BYTES);
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window.size().min(rest.len()));
            for entry in self.entries_of(ACTION, batch, now.iter().map(|token| token.id)).await? {
                window.add(&entry);
                visit(&entry.json, |head, outcome| {
                    if (from..upto).contains(&outcome.index) {
                        sink.put(head, outcome, entry.id);
                    }
                })?;
            }
            rest = later;
            // All that can hold items before the next entry's first have been seen.
            let frontier = rest.first().map_or(upto, |next| next.first);
            if window.is_full() && frontier > from {
                upto = upto.min(frontier);
                break;
            }
        }
        let count = sink.arrange(from, upto);
        let next = from + count;
        Ok((count, next, total.is_some_and(|total| next >= total)))
    }

    /// How far there is no gap, and where these outcomes are: one round trip.
    async fn prefix(&self, batch: &BatchId, from: u64, limit: u64) -> Result<Prefix, StoreError> {
        let end = from.saturating_add(limit).min(MAX_INDEX + 1).max(from);
        let last = end.max(from + 1) - 1;
        let (pages, bands) = (from / PAGE..=last / PAGE, from / BAND..=last / BAND);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HMGET").arg(self.keys.batch(batch)).arg(&["created", "total", "forgotten_input"]);
        // The bits before the bands: one script writes both, so what the bitmap has is in the bands.
        for page in pages.clone() {
            let start = page * PAGE;
            let (first, last) = ((from.max(start) - start) / 8, (last - start).min(PAGE - 1) / 8);
            pipeline.cmd("GETRANGE").arg(self.keys.bits(batch, page)).arg(first).arg(last);
        }
        pipeline.cmd("HMGET").arg(self.keys.bands(batch)).arg(bands.clone().collect::<Vec<_>>());
        let mut replies = self.pipe(&pipeline).await?.into_iter();
        let fields: Vec<Option<String>> = self.next_reply(&mut replies)?;
        let [created, total, forgotten] = [0, 1, 2].map(|at| fields.get(at).and_then(Option::as_deref));
        if created.is_none() {
            return Err(StoreError::unknown(ACTION, batch));
        }
        check_kept(from, number(forgotten))?;
        let mut upto = from;
        for page in pages {
            let bytes: Vec<u8> = self.next_reply(&mut replies)?;
            if page == from / PAGE || upto == page * PAGE {
                upto = run_of_bits(&bytes, upto, end);
            }
        }
        let texts: Vec<Option<String>> = self.next_reply(&mut replies)?;
        let tokens = if upto > from { holders(bands, &texts, from..upto) } else { Vec::new() };
        Ok(Prefix { upto, total: total.map(|total| number(Some(total))), tokens })
    }

    async fn page_by_landing(
        &self,
        batch: &BatchId,
        from: u64,
        limit: u64,
        sink: &mut impl Sink,
    ) -> Result<(u64, u64, bool), StoreError> {
        let fields: [_; PROGRESS.len()] = PROGRESS;
        let progress = progress_of(&self.fields(ACTION, batch, fields).await?);
        let [landed, forgotten] = self.fields(ACTION, batch, ["landed", "forgotten_completion"]).await?;
        let landed = number(landed.as_deref());
        check_kept(from, number(forgotten.as_deref()))?;
        let end = from.saturating_add(limit).min(landed).max(from);
        let mut window = Window::new(PAGE_BYTES);
        let mut next = from;
        while next < end && !window.is_full() {
            let entries = self.entries_between(ACTION, batch, next + 1..=landed, window.size()).await?;
            if entries.is_empty() {
                return Err(self.gone(ACTION, batch).await);
            }
            for entry in &entries {
                if next >= end {
                    break;
                }
                window.add(entry);
                let mut place = entry.id.saturating_sub(entry.count);
                if place > next {
                    return Err(self.gone(ACTION, batch).await);
                }
                visit(&entry.json, |head, outcome| {
                    if (next..end).contains(&place) {
                        sink.put(head, outcome, entry.id);
                    }
                    place += 1;
                })?;
                next = entry.id.min(end);
            }
        }
        Ok((next - from, next, progress.is_complete() && next >= landed))
    }

    async fn pipe(&self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.link
            .run(ACTION, |mut connection| async move {
                let replies: RedisResult<_> = pipeline.query_async(&mut connection).await;
                replies
            })
            .await
    }

    fn next_reply<T: FromRedisValue>(&self, replies: &mut impl Iterator<Item = Value>) -> Result<T, StoreError> {
        T::from_redis_value(replies.next().unwrap_or(Value::Nil)).map_err(|error| broken(&error))
    }
}

fn check_kept(from: u64, forgotten: u64) -> Result<(), StoreError> {
    if from >= forgotten {
        return Ok(());
    }
    Err(StoreError {
        kind: StoreErrorKind::Forgotten,
        action: ACTION.into(),
        reason: format!("those before place {forgotten} are no longer kept"),
    })
}

/// Where the run of set bits ends that begins at `from`; `bytes` begin with the byte of that bit.
fn run_of_bits(bytes: &[u8], from: u64, end: u64) -> u64 {
    let mut index = from;
    for byte in bytes {
        loop {
            if index >= end || !is_set(*byte, index) {
                return index;
            }
            index += 1;
            if index.is_multiple_of(8) {
                break;
            }
        }
    }
    index
}

/// The entries that hold outcomes of these items, by their first of them.
fn holders(bands: RangeInclusive<u64>, texts: &[Option<String>], items: Range<u64>) -> Vec<Token> {
    let mut hulls: BTreeMap<u64, Token> = BTreeMap::new();
    for (band, text) in bands.zip(texts) {
        for token in tokens(band, text.as_deref().unwrap_or("")) {
            if token.first < items.end && token.last >= items.start {
                let hull = hulls.entry(token.id).or_insert(token);
                hull.last = hull.last.max(token.last);
            }
        }
    }
    let mut holders: Vec<_> = hulls.into_values().collect();
    holders.sort_by_key(|token| token.first.max(items.start)); // stable: by id among those
    holders
}

/// Walks over an entry's outcomes.
pub(super) fn visit(json: &[u8], mut each: impl FnMut(&Head, &Entry<'_>)) -> Result<(), StoreError> {
    let walked = segment::visit(json, |head, entry| {
        each(head, &entry);
        Ok(())
    });
    walked.map(drop).map_err(|error| broken(&error))
}

/// What lies in Redis is not what we wrote there.
fn broken(error: &dyn std::fmt::Display) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Refused,
        action: ACTION.into(),
        reason: format!(
            "what the store holds is not what was written: {error}\ndoes something else use this Redis with the same store.prefix?"
        ),
    }
}
