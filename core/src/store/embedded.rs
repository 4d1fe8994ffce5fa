//! The store inside the process: outcomes in memory until they are read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Order, Page, Progress, Store, StoreError, StoreErrorKind, Version};
use crate::batch::{Batch, BatchId};
use crate::outcome::Outcome;

/// Outcomes in memory, gone with the process.
#[derive(Debug, Default)]
pub struct Embedded {
    batches: Mutex<HashMap<BatchId, Ledger>>,
}

/// All that is known of one batch.
#[derive(Debug, Default)]
struct Ledger {
    progress: Progress,
    /// One bit an item: whether it has its outcome. Kept when the outcome itself is forgotten.
    recorded: Vec<u64>,
    /// The outcomes by index, from `by_index.base` on.
    by_index: Window,
    /// The outcomes as they landed.
    by_landing: Window,
    version: watch::Sender<u64>,
}

/// A run of outcomes whose beginning may have been forgotten.
#[derive(Debug, Default)]
struct Window {
    base: u64,
    slots: VecDeque<Option<Arc<Outcome>>>,
}

impl Window {
    fn put(&mut self, place: u64, outcome: Arc<Outcome>) {
        let Some(slot) = place.checked_sub(self.base).and_then(|slot| usize::try_from(slot).ok()) else {
            return; // forgotten before it landed: whoever forgets says that nobody will read it
        };
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(outcome);
    }

    fn end(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// The outcomes from `from` up to the first gap, at most `limit`.
    fn run(&self, from: u64, limit: usize) -> Option<Vec<Arc<Outcome>>> {
        let skip = usize::try_from(from.checked_sub(self.base)?).ok()?;
        Some(self.slots.iter().skip(skip).take(limit).map_while(Clone::clone).collect())
    }

    fn forget(&mut self, before: u64) {
        let gone = before.saturating_sub(self.base).min(self.slots.len() as u64);
        self.slots.drain(..usize::try_from(gone).unwrap_or(usize::MAX));
        self.base += gone;
    }
}

impl Ledger {
    fn record(&mut self, outcome: &Arc<Outcome>) {
        let index = outcome.index.0;
        let (word, bit) = (usize::try_from(index / 64).unwrap_or(usize::MAX), 1 << (index % 64));
        if word >= self.recorded.len() {
            self.recorded.resize(word + 1, 0);
        }
        if self.recorded[word] & bit != 0 {
            self.progress.duplicates += 1;
            return;
        }
        self.recorded[word] |= bit;
        self.progress.counts[outcome.status() as usize] += 1;
        self.by_landing.put(self.by_landing.end(), Arc::clone(outcome));
        self.by_index.put(index, Arc::clone(outcome));
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn window(&mut self, order: Order) -> &mut Window {
        match order {
            Order::Input => &mut self.by_index,
            Order::Completion => &mut self.by_landing,
        }
    }
}

impl Embedded {
    fn with<T>(
        &self,
        action: &str,
        batch: &BatchId,
        act: impl FnOnce(&mut Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // No critical section can leave a ledger half written by a panic: each checks before it changes.
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        act(batches.get_mut(batch).ok_or_else(|| StoreError::unknown(action, batch))?)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn open(&self, batch: &Batch) -> Result<(), StoreError> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).entry(batch.id.clone()).or_default();
        Ok(())
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError> {
        self.with("seal a batch", batch, |ledger| {
            if let Some(sealed) = ledger.progress.total.filter(|sealed| *sealed != total) {
                return Err(StoreError {
                    kind: StoreErrorKind::Conflict,
                    action: "seal a batch".into(),
                    reason: format!("batch {batch} was sealed with {sealed} items, not {total}"),
                });
            }
            ledger.progress.total = Some(total);
            ledger.changed();
            Ok(())
        })
    }

    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError> {
        self.with("record outcomes", batch, |ledger| {
            for outcome in outcomes {
                ledger.record(outcome);
            }
            ledger.changed();
            Ok(())
        })
    }

    async fn cancel(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.with("cancel a batch", batch, |ledger| {
            ledger.progress.cancelled = true;
            ledger.changed();
            Ok(())
        })
    }

    async fn progress(&self, batch: &BatchId) -> Result<Progress, StoreError> {
        self.with("read a batch's progress", batch, |ledger| Ok(ledger.progress.clone()))
    }

    async fn read(&self, batch: &BatchId, order: Order, from: u64, limit: usize) -> Result<Page, StoreError> {
        self.with("read outcomes", batch, |ledger| {
            let total = ledger.progress.total;
            let window = ledger.window(order);
            let outcomes = window.run(from, limit).ok_or_else(|| StoreError {
                kind: StoreErrorKind::Forgotten,
                action: "read outcomes".into(),
                reason: format!("those before place {} are no longer kept", window.base),
            })?;
            let next = from + outcomes.len() as u64;
            Ok(Page { outcomes, next, is_last: total.is_some_and(|total| next >= total) })
        })
    }

    async fn forget(&self, batch: &BatchId, order: Order, before: u64) -> Result<(), StoreError> {
        self.with("forget outcomes", batch, |ledger| {
            // What was read in one order will not be read in the other: a reader that lets go is the only one.
            match order {
                Order::Input => {
                    ledger.by_index.forget(before);
                    ledger.by_landing.forget(u64::MAX);
                }
                Order::Completion => {
                    ledger.by_landing.forget(before);
                    let end = ledger.by_index.end();
                    ledger.by_index.forget(end);
                }
            }
            Ok(())
        })
    }

    async fn changed(&self, batch: &BatchId, seen: Version) -> Result<Version, StoreError> {
        let mut version = self.with("watch a batch", batch, |ledger| Ok(ledger.version.subscribe()))?;
        let now = version.wait_for(|version| *version > seen.0).await;
        // The sender lives in the ledger, which is never taken out while the store lives.
        now.map(|now| Version(*now)).map_err(|_| StoreError::unknown("watch a batch", batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(|| async { Arc::new(Embedded::default()) as Arc<dyn Store> });
}
