//! Entries of a batch's stream, as they are fetched.

use std::ops::RangeInclusive;

use redis::{FromRedisValue, ParsingError, Value};

use super::script::Call;
use super::{Redis, script};
use crate::batch::BatchId;
use crate::store::{StoreError, StoreErrorKind};

/// A recorded segment.
#[derive(Debug)]
pub(super) struct Entry {
    /// The place after its last outcome, in completion order.
    pub(super) id: u64,
    /// How many outcomes it has.
    pub(super) count: u64,
    /// The segment.
    pub(super) json: Vec<u8>,
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, fields): (String, Vec<(String, Value)>) = FromRedisValue::from_redis_value(value)?;
        let id = id.split('-').next().and_then(|id| id.parse().ok());
        let mut entry = Self { id: id.ok_or("an entry's id is <place>-0")?, count: 0, json: Vec::new() };
        for (name, value) in fields {
            match name.as_str() {
                "s" => entry.json = FromRedisValue::from_redis_value(value)?,
                "n" => entry.count = FromRedisValue::from_redis_value(value)?,
                _ => {}
            }
        }
        Ok(entry)
    }
}

/// What a fetch brings at most, if no entry has more by itself: nothing else runs in Redis meanwhile.
const MOST_BYTES: usize = 4 << 20;
const MOST: usize = 256;

/// How many bytes of segments these have.
pub(super) fn bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.json.len()).sum()
}

impl Redis {
    /// The first entries with ids in that range: up to the one that reaches the place `enough`, or until they have
    /// `budget` bytes; one at least, and not more than a fetch brings.
    pub(super) async fn entries_between(
        &self,
        action: &'static str,
        batch: &BatchId,
        ids: RangeInclusive<u64>,
        enough: u64,
        budget: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.fetch(action, batch, &[ids.into_inner()], enough, budget).await
    }

    /// The first of the entries with these ids, in their order, until they have `budget` bytes; one at least, where one is
    /// asked for, and not more than a fetch brings.
    ///
    /// # Errors
    /// [`StoreErrorKind::Forgotten`] where one is no longer there.
    pub(super) async fn entries_of(
        &self,
        action: &'static str,
        batch: &BatchId,
        ids: impl ExactSizeIterator<Item = u64> + Clone,
        budget: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for id in ids.clone().take(MOST) {
            match runs.last_mut() {
                // An entry holds one outcome or more, so nothing can be between these.
                Some(run) if run.1 + 1 == id => run.1 = id,
                _ => runs.push((id, id)),
            }
        }
        let entries = self.fetch(action, batch, &runs, u64::MAX, budget).await?;
        let is_all = entries.len() == ids.len().min(MOST) || bytes(&entries) >= budget.min(MOST_BYTES);
        if !is_all || entries.iter().zip(ids).any(|(entry, id)| entry.id != id) {
            return Err(self.gone(action, batch).await);
        }
        Ok(entries)
    }

    async fn fetch(
        &self,
        action: &'static str,
        batch: &BatchId,
        runs: &[(u64, u64)],
        enough: u64,
        budget: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let keys = [self.keys.batch(batch), self.keys.outcomes(batch)];
        let mut call = Call::new(&script::FETCH, &keys).arg(budget.min(MOST_BYTES)).arg(MOST).arg(enough);
        for (first, last) in runs {
            call.push(first);
            call.push(last);
        }
        let call = &call;
        self.link.run(action, |connection| call.send(connection)).await
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
