//! The store inside the process: outcomes in memory until they are read, or for as long as there is room.

mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Order, Page, Progress, Store, StoreError, StoreErrorKind, Version};
use crate::batch::{Batch, BatchId, unix_millis};
use crate::broker::Heartbeat;
use crate::outcome::{Outcome, Status};
use crate::segment::Segment;

/// A batch that is not sealed and has not changed for so long is not gone on with.
const DESERTED: Duration = Duration::from_secs(60 * 60);

/// Outcomes in memory, gone with the process.
#[derive(Debug)]
pub struct Embedded {
    batches: Mutex<HashMap<BatchId, Ledger>>,
    workers: Mutex<BTreeMap<String, Heartbeat>>,
    /// Bytes of outcomes beyond which complete batches are given up, the oldest first.
    keep_bytes: u64,
}

impl Default for Embedded {
    /// It keeps everything until it is forgotten.
    fn default() -> Self {
        Self::keeping(u64::MAX)
    }
}

/// All that is known of one batch.
#[derive(Debug, Default)]
struct Ledger {
    /// What was opened, and when.
    opened: Option<(Batch, u64)>,
    completed: Option<u64>,
    /// When it last changed.
    touched: Option<Instant>,
    accepted: u64,
    /// Whether it was cancelled and given up: whoever seals it later is told nothing of that.
    is_closed: bool,
    /// Outcomes that were recorded from copies and are still to come.
    ahead: u64,
    dead: BTreeSet<u64>,
    /// The outcomes that were taken back of items that have no other yet.
    reviving: BTreeMap<u64, Arc<Outcome>>,
    /// Bytes of its outcomes, those that were forgotten too.
    bytes: u64,
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

    fn get(&self, place: u64) -> Option<&Arc<Outcome>> {
        self.slots.get(usize::try_from(place.checked_sub(self.base)?).ok()?)?.as_ref()
    }

    fn take(&mut self, place: u64) -> Option<Arc<Outcome>> {
        self.slots.get_mut(usize::try_from(place.checked_sub(self.base)?).ok()?)?.take()
    }

    fn forget(&mut self, before: u64) {
        let gone = before.saturating_sub(self.base).min(self.slots.len() as u64);
        self.slots.drain(..usize::try_from(gone).unwrap_or(usize::MAX));
        self.base += gone;
    }
}

impl Ledger {
    fn is_recorded(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|word| self.recorded.get(word));
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Whether the batch has ended before that item.
    fn is_beyond(&self, index: u64) -> bool {
        self.progress.total.is_some_and(|total| index >= total)
    }

    fn record(&mut self, outcome: &Arc<Outcome>) {
        let index = outcome.index.0;
        if self.is_beyond(index) {
            return;
        }
        if self.is_recorded(index) {
            // It may be what a copy was of.
            match self.ahead.checked_sub(1) {
                Some(ahead) => self.ahead = ahead,
                None => self.progress.duplicates += 1,
            }
            return;
        }
        let (word, bit) = (usize::try_from(index / 64).unwrap_or(usize::MAX), 1 << (index % 64));
        if word >= self.recorded.len() {
            self.recorded.resize(word + 1, 0);
        }
        self.recorded[word] |= bit;
        self.reviving.remove(&index);
        if outcome.status() == Status::Dead {
            self.dead.insert(index);
        }
        self.bytes += outcome.weight_bytes() + outcome.output_bytes();
        self.progress.counts[outcome.status() as usize] += 1;
        self.by_landing.put(self.by_landing.end(), Arc::clone(outcome));
        self.by_index.put(index, Arc::clone(outcome));
    }

    fn changed(&mut self) {
        if self.completed.is_none() && self.progress.is_complete() {
            self.completed = Some(unix_millis());
        }
        self.touched = Some(Instant::now());
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
    /// Makes a store that gives up complete batches, the oldest first, where the outcomes of all have more bytes.
    pub fn keeping(keep_bytes: u64) -> Self {
        Self { batches: Mutex::default(), workers: Mutex::default(), keep_bytes }
    }

    /// Gives up what there is no room for: batches that are complete, and those that nobody goes on with.
    fn make_room(&self) {
        let mut batches = lock(&self.batches);
        let mut bytes: u64 = batches.values().map(|ledger| ledger.bytes).sum();
        let deserted = |ledger: &Ledger| {
            let since = ledger.touched.filter(|touched| touched.elapsed() > DESERTED)?;
            let ago = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            ledger.progress.total.is_none().then(|| unix_millis().saturating_sub(ago))
        };
        let over = batches.iter().filter_map(|(id, ledger)| {
            let since = ledger.completed.or_else(|| deserted(ledger))?;
            Some((since, id.clone()))
        });
        let mut over: Vec<_> = over.collect();
        over.sort_unstable();
        for (_, id) in over {
            if bytes <= self.keep_bytes {
                break;
            }
            bytes -= batches.remove(&id).map_or(0, |ledger| ledger.bytes);
        }
    }

    fn with<T>(
        &self,
        action: &str,
        batch: &BatchId,
        act: impl FnOnce(&mut Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // No critical section can leave a ledger half written by a panic: each checks before it changes.
        let mut batches = lock(&self.batches);
        act(batches.get_mut(batch).ok_or_else(|| StoreError::unknown(action, batch))?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for Embedded {
    async fn open(&self, batch: &Batch) -> Result<(), StoreError> {
        self.make_room();
        let mut batches = lock(&self.batches);
        let ledger = batches.entry(batch.id.clone()).or_default();
        ledger.opened.get_or_insert_with(|| (batch.clone(), unix_millis()));
        ledger.touched = Some(Instant::now());
        Ok(())
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError> {
        self.with("seal a batch", batch, |ledger| {
            if ledger.is_closed {
                return Ok(());
            }
            let least = ledger.recorded_end();
            let is_cut_short = ledger.progress.total.is_none() && ledger.progress.cancelled && least > total;
            if is_cut_short {
                // Whoever went on with it was stopped before they came to where it was.
                (ledger.is_closed, ledger.progress.total) = (true, Some(least));
                ledger.changed();
                return Ok(());
            }
            let holds = ledger.progress.total.or((least > total).then_some(least));
            if let Some(sealed) = holds.filter(|holds| *holds != total) {
                return Err(StoreError {
                    kind: StoreErrorKind::Conflict,
                    action: "seal a batch".into(),
                    reason: format!("batch {batch} has {sealed} items, not {total}"),
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

    async fn record_copy(&self, copy: &Segment) -> Result<bool, StoreError> {
        self.with("record a copy", copy.batch(), |ledger| {
            let outcomes = copy.outcomes();
            let refused = |index| ledger.is_recorded(index) || ledger.is_beyond(index);
            if outcomes.iter().any(|outcome| refused(outcome.index.0)) {
                return Ok(false);
            }
            outcomes.iter().for_each(|outcome| ledger.record(outcome));
            ledger.ahead += copy.len();
            ledger.changed();
            Ok(true)
        })
    }

    async fn cancel(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.with("cancel a batch", batch, |ledger| {
            // One that has become complete meanwhile was not cancelled.
            ledger.progress.cancelled |= ledger.completed.is_none();
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
        // The sender lives in the ledger, until that is given up.
        now.map(|now| Version(*now)).map_err(|_| StoreError::unknown("watch a batch", batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(|| async { Arc::new(Embedded::default()) as Arc<dyn Store> });
}
