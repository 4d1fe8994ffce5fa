//! The store inside the process: outcomes in memory until they are read, or for as long as there is room.

mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Order, Page, Progress, Store, StoreError, StoreErrorKind, Version, bytes_of};
use crate::batch::{Batch, BatchId, unix_millis};
use crate::broker::Heartbeat;
use crate::lock::lock;
use crate::outcome::{Outcome, Status};
use crate::segment::Segment;

/// A batch that is not sealed and has not changed for so long is not gone on with.
const DESERTED: Duration = Duration::from_secs(60 * 60);
/// How often is looked for such batches, for which all must be looked at.
const LOOK: Duration = Duration::from_secs(60);
/// What a batch takes beside its outcomes and what was said of it: its ledger, three times its id, its places in maps.
const LEDGER_BYTES: u64 = 1536;

/// Outcomes in memory, gone with the process.
#[derive(Debug)]
pub struct Embedded {
    kept: Mutex<Kept>,
    workers: Mutex<BTreeMap<String, Heartbeat>>,
    /// Bytes beyond which batches that are complete, or that nobody goes on with, are given up.
    keep_bytes: u64,
}

impl Default for Embedded {
    /// It keeps everything until it is forgotten.
    fn default() -> Self {
        Self::keeping(u64::MAX)
    }
}

/// The batches, and what they come to: sums that would take long to make anew for each batch that is opened.
#[derive(Debug, Default)]
struct Kept {
    ledgers: HashMap<BatchId, Ledger>,
    /// Bytes of all.
    bytes: u64,
    /// Bytes of those that are not complete.
    bytes_under_way: u64,
    /// Those that are complete, by when they were.
    complete: BTreeSet<(u64, BatchId)>,
    /// When it was last looked for those that nobody goes on with.
    looked: Option<Instant>,
}

/// What a ledger counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weight {
    bytes: u64,
    completed: Option<u64>,
}

impl Kept {
    /// Changes a ledger, and the sums with it; nothing where there is none.
    fn change<T>(&mut self, batch: &BatchId, act: impl FnOnce(&mut Ledger) -> T) -> Option<T> {
        let ledger = self.ledgers.get_mut(batch)?;
        let before = ledger.weight();
        let acted = act(ledger);
        let after = ledger.weight();
        if before != after {
            self.leave(batch, before);
            self.enter(batch, after);
        }
        Some(acted)
    }

    fn enter(&mut self, batch: &BatchId, Weight { bytes, completed }: Weight) {
        self.bytes += bytes;
        match completed {
            Some(at) => {
                self.complete.insert((at, batch.clone()));
            }
            None => self.bytes_under_way += bytes,
        }
    }

    fn leave(&mut self, batch: &BatchId, Weight { bytes, completed }: Weight) {
        self.bytes -= bytes;
        match completed {
            Some(at) => {
                self.complete.remove(&(at, batch.clone()));
            }
            None => self.bytes_under_way -= bytes,
        }
    }

    fn remove(&mut self, batch: &BatchId) {
        if let Some(ledger) = self.ledgers.remove(batch) {
            self.leave(batch, ledger.weight());
        }
    }

    /// Gives up what there is no room for: batches that nobody goes on with, then complete ones, the oldest first.
    fn make_room(&mut self, keep_bytes: u64) {
        if self.bytes <= keep_bytes {
            return;
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            let deserted = self.ledgers.iter().filter(|(_, ledger)| ledger.is_deserted());
            let mut deserted: Vec<_> = deserted.map(|(id, ledger)| (ledger.touched, id.clone())).collect();
            deserted.sort_unstable();
            for (_, id) in deserted {
                if self.bytes <= keep_bytes {
                    return;
                }
                self.remove(&id);
            }
        }
        while self.bytes > keep_bytes
            && let Some((_, oldest)) = self.complete.pop_first()
        {
            self.remove(&oldest);
        }
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
    fn weight(&self) -> Weight {
        let opened = self.opened.as_ref().map_or(0, |(batch, _)| bytes_of(batch) as u64);
        Weight { bytes: LEDGER_BYTES + opened + self.bytes, completed: self.completed }
    }

    /// Whether nobody goes on with it.
    fn is_deserted(&self) -> bool {
        let is_open = self.completed.is_none() && self.progress.total.is_none();
        is_open && self.touched.is_some_and(|touched| touched.elapsed() > DESERTED)
    }

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
            self.progress.duplicates += 1;
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
    /// Makes a store that gives up batches that are complete, the oldest first, and those that nobody goes on with, where
    /// all of them have more bytes.
    pub fn keeping(keep_bytes: u64) -> Self {
        Self { kept: Mutex::default(), workers: Mutex::default(), keep_bytes }
    }

    /// Makes a batch known; gives the one that was known before.
    fn make_known(&self, batch: &Batch) -> Option<Batch> {
        let mut kept = lock(&self.kept);
        // One that is gone on with is not given up for itself.
        let known = kept.change(&batch.id, |ledger| {
            ledger.touched = Some(Instant::now());
            ledger.opened.as_ref().map(|(batch, _)| batch.clone())
        });
        if let Some(known) = known {
            return known;
        }
        kept.make_room(self.keep_bytes);
        let opened = Some((batch.clone(), unix_millis()));
        let ledger = Ledger { opened, touched: Some(Instant::now()), ..Ledger::default() };
        kept.enter(&batch.id, ledger.weight());
        kept.ledgers.insert(batch.id.clone(), ledger);
        None
    }

    fn with<T>(
        &self,
        action: &str,
        batch: &BatchId,
        act: impl FnOnce(&mut Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // No critical section can leave a ledger half written by a panic: each checks before it changes.
        let changed = lock(&self.kept).change(batch, act);
        changed.unwrap_or_else(|| Err(StoreError::unknown(action, batch)))
    }
}

#[async_trait]
impl Store for Embedded {
    async fn open(&self, batch: &Batch) -> Result<(), StoreError> {
        self.make_known(batch);
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

    async fn record_only(&self, batch: &Batch, only: &Segment) -> Result<bool, StoreError> {
        self.make_known(batch);
        self.with("record all that there is of a batch", &batch.id, |ledger| {
            let total = only.len();
            if ledger.progress.recorded() > 0 || ledger.progress.total.is_some_and(|sealed| sealed != total) {
                return Ok(false);
            }
            only.outcomes().iter().for_each(|outcome| ledger.record(outcome));
            ledger.progress.total = Some(total);
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
