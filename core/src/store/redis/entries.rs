//! Entries of a batch's stream, as they are fetched.

use std::ops::RangeInclusive;

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Pipeline, RedisResult, Value};

use super::Redis;
use crate::batch::BatchId;
use crate::store::page::Entry;
use crate::store::{StoreError, StoreErrorKind};

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, fields): (String, Vec<(String, Value)>) = FromRedisValue::from_redis_value(value)?;
        let id = id.split('-').next().and_then(|id| id.parse().ok());
        let mut entry = Self { end: id.ok_or("an entry's id is <place>-0")?, count: 0, json: Bytes::new() };
        for (name, value) in fields {
            match name.as_str() {
                "s" => entry.json = Vec::from_redis_value(value)?.into(),
                "n" => entry.count = FromRedisValue::from_redis_value(value)?,
                _ => {}
            }
        }
        Ok(entry)
    }
}

/// How many entries to fetch at once: few at first, for nobody knows how large they are, then as many as fit, by the
/// largest of the last ones. Small ones may be followed by large ones, so that it grows step by step and has an end.
#[derive(Debug)]
pub(super) struct Window {
    /// What is wanted, and what there may be where that is not enough to be of use.
    wanted: usize,
    most: usize,
    bytes: usize,
    outcomes: u64,
    last: Fetched,
}

/// What a fetch has brought.
#[derive(Debug, Default)]
struct Fetched {
    entries: usize,
    outcomes: u64,
    largest: usize,
}

impl Window {
    const FIRST: usize = 2;
    const GROWTH: usize = 4;
    /// However small the last ones were: the next may have megabytes each. (A script in Redis could count their bytes; where
    /// they have some 100 KiB each, as those of large batches do, it added two fifths to all of Redis' work for them.)
    const MOST: usize = 16;

    pub(super) fn new(wanted: usize, most: usize) -> Self {
        Self { wanted: wanted.min(most), most, bytes: 0, outcomes: 0, last: Fetched::default() }
    }

    pub(super) fn size(&self) -> usize {
        let Fetched { entries, largest, .. } = self.last;
        if entries == 0 {
            return Self::FIRST;
        }
        let budget = if self.has_enough() { self.most } else { self.wanted };
        let fitting = budget.saturating_sub(self.bytes) / largest.max(1);
        fitting.min(Self::GROWTH * entries).clamp(1, Self::MOST)
    }

    /// The same for so many outcomes more, if the next entries have as many as the last.
    pub(super) fn size_for(&self, outcomes: u64) -> usize {
        let each = (self.last.outcomes / (self.last.entries as u64).max(1)).max(1);
        self.size().min(usize::try_from(outcomes.div_ceil(each)).unwrap_or(usize::MAX)).max(1)
    }

    /// Learns from what a fetch has brought.
    pub(super) fn add(&mut self, entries: &[Entry]) {
        let sizes = entries.iter().map(|entry| entry.json.len());
        self.bytes += sizes.clone().sum::<usize>();
        let outcomes = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.count));
        self.outcomes = self.outcomes.saturating_add(outcomes);
        self.last = Fetched { entries: entries.len(), outcomes, largest: sizes.max().unwrap_or(0) };
    }

    /// How many outcomes were fetched.
    pub(super) fn outcomes(&self) -> u64 {
        self.outcomes
    }

    /// All that was fetched is done with.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
    }

    pub(super) fn has_enough(&self) -> bool {
        self.bytes >= self.wanted
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.most
    }
}

impl Redis {
    /// The first `count` entries with ids in that range.
    pub(super) async fn entries_between(
        &self,
        action: &'static str,
        batch: &BatchId,
        ids: RangeInclusive<u64>,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.outcomes(batch)).arg(*ids.start()).arg(*ids.end()).arg("COUNT").arg(count);
        self.ask(action, &command).await
    }

    /// The entries with these ids, in one round trip and in their order.
    ///
    /// # Errors
    /// [`StoreErrorKind::Forgotten`] where one is no longer there.
    pub(super) async fn entries_of(
        &self,
        action: &'static str,
        batch: &BatchId,
        ids: impl Iterator<Item = u64>,
    ) -> Result<Vec<Entry>, StoreError> {
        let key = self.keys.outcomes(batch);
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut wanted = 0;
        for id in ids {
            wanted += 1;
            match runs.last_mut() {
                // An entry holds one outcome or more, so nothing can be between these.
                Some(run) if run.1 + 1 == id => run.1 = id,
                _ => runs.push((id, id)),
            }
        }
        let mut pipeline = Pipeline::with_capacity(runs.len());
        for (from, to) in runs {
            pipeline.cmd("XRANGE").arg(&key).arg(from).arg(to);
        }
        let pipeline = &pipeline;
        let found: Vec<Vec<Entry>> = self
            .link
            .run(action, |mut connection| async move {
                let found: RedisResult<_> = pipeline.query_async(&mut connection).await;
                found
            })
            .await?;
        let entries: Vec<_> = found.into_iter().flatten().collect();
        if entries.len() != wanted {
            return Err(self.gone(action, batch).await);
        }
        Ok(entries)
    }

    /// Why entries that were there are not: they were forgotten, or the batch has just expired.
    pub(super) async fn gone(&self, action: &'static str, batch: &BatchId) -> StoreError {
        match self.version(batch).await {
            Ok(_) => StoreError {
                kind: StoreErrorKind::Forgotten,
                action: action.into(),
                reason: format!("some of these outcomes of batch {batch} are no longer kept"),
            },
            Err(error) => error,
        }
    }
}
