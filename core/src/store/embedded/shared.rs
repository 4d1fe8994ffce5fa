//! What many callers of one process share: lists, books, workers, the dead.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Embedded, Ledger, lock};
use crate::batch::{Batch, BatchId, ItemIndex, unix_millis};
use crate::broker::{Health, Heartbeat};
use crate::outcome::{Outcome, Status};
use crate::store::{
    AtMost, BatchInfo, Books, DeadItem, LOST, MOST_MISSING, Shared, StoreError, StoreErrorKind, Tally, bytes_of,
};

/// Items without outcome that are given at a time.
const AT_ONCE: usize = 4096;

impl Ledger {
    fn info(&self) -> Option<BatchInfo> {
        let (batch, created) = self.opened.clone()?;
        let Self { completed, accepted, progress, .. } = self;
        Some(BatchInfo { batch, created, completed: *completed, accepted: *accepted, progress: progress.clone() })
    }

    /// By what batches are listed. Ids come second: they are sorted by time too, but those that are made of a key.
    fn age(&self) -> Option<(u64, &BatchId)> {
        self.opened.as_ref().map(|(batch, created)| (*created, &batch.id))
    }

    /// The outcomes counted anew, as they stand in the order of indices.
    fn books(&self) -> Books {
        let progress = &self.progress;
        let mut books = Books {
            total: progress.total,
            counters: progress.counts,
            duplicates: progress.duplicates,
            ..Books::default()
        };
        let highest = self.recorded.len() as u64 * 64;
        let end = progress.total.unwrap_or_else(|| self.recorded_end());
        books.beyond = (end..highest).filter(|index| self.is_recorded(*index)).count() as u64;
        // From gap to gap: a total may be anything, and all wait for this.
        let mut next = 0;
        for (index, slot) in (0..).zip(&self.by_index.slots) {
            if let Some(outcome) = slot {
                books.counts[outcome.status() as usize] += 1;
                books.miss(next, end.min(index));
                next = index + 1;
            }
        }
        books.miss(next, end);
        books
    }

    fn close(&mut self, quiet: Duration) -> Vec<ItemIndex> {
        if !self.is_closed {
            // What the broker had of a sealed batch is lost later than somebody who might seal one.
            let after = if self.progress.total.is_some() { LOST } else { quiet };
            let is_quiet = self.touched.is_some_and(|touched| touched.elapsed() >= after);
            let upto = self.progress.total.unwrap_or_else(|| self.accepted.max(self.recorded_end()));
            let known = if self.progress.total.is_some() { 0 } else { self.accepted };
            let is_too_far = upto - known.max(self.progress.recorded()) > MOST_MISSING;
            if !self.progress.cancelled || self.progress.is_complete() || !is_quiet || is_too_far {
                return Vec::new();
            }
            self.is_closed = true;
            if self.progress.total.is_none() {
                self.progress.total = Some(upto);
                self.changed();
            }
        }
        let total = self.progress.total.unwrap_or(0);
        let is_lost = self.touched.is_some_and(|touched| touched.elapsed() >= LOST);
        if is_lost && total.saturating_sub(self.progress.recorded()) <= MOST_MISSING {
            self.accepted = 0;
        }
        let items = self.accepted..total;
        items.filter(|index| !self.is_recorded(*index)).take(AT_ONCE).map(ItemIndex).collect()
    }

    /// One past the last item that has an outcome.
    pub(super) fn recorded_end(&self) -> u64 {
        (0..self.recorded.len() as u64 * 64).rfind(|index| self.is_recorded(*index)).map_or(0, |last| last + 1)
    }

    /// The outcomes of its dead items, by index; then those that were taken back.
    fn dead_outcomes(&self) -> impl Iterator<Item = &Arc<Outcome>> {
        self.dead.iter().filter_map(|index| self.by_index.get(*index)).chain(self.reviving.values())
    }

    /// Takes an outcome back. Its place in the order of completion stays, and is passed over.
    fn revive(&mut self, index: u64) -> bool {
        if !self.dead.remove(&index) {
            return self.reviving.contains_key(&index);
        }
        let taken = self.by_index.take(index);
        let landed = self.by_landing.slots.iter().position(|slot| match (slot, &taken) {
            (Some(slot), Some(taken)) => Arc::ptr_eq(slot, taken),
            _ => false,
        });
        if let Some(place) = landed {
            self.by_landing.slots.remove(place);
        }
        self.reviving.extend(taken.map(|taken| (index, taken)));
        if let Some(word) = usize::try_from(index / 64).ok().and_then(|word| self.recorded.get_mut(word)) {
            *word &= !(1 << (index % 64));
        }
        self.progress.counts[Status::Dead as usize] -= 1;
        self.completed = None;
        self.changed();
        true
    }
}

#[async_trait]
impl Shared for Embedded {
    async fn info(&self, batch: &BatchId) -> Result<BatchInfo, StoreError> {
        let action = "read what is known of a batch";
        self.with(action, batch, |ledger| ledger.info().ok_or_else(|| StoreError::unknown(action, batch)))
    }

    async fn begin(&self, batch: &Batch) -> Result<Option<Batch>, StoreError> {
        Ok(self.make_known(batch))
    }

    async fn list(&self, most: AtMost) -> Result<Vec<BatchInfo>, StoreError> {
        let kept = lock(&self.kept);
        let mut ledgers: Vec<&Ledger> = kept.ledgers.values().collect();
        let newest_first = |one: &&Ledger, next: &&Ledger| next.age().cmp(&one.age());
        // Picked before they are sorted, and both before anything is copied: everybody else waits meanwhile.
        if most.count < ledgers.len() {
            ledgers.select_nth_unstable_by(most.count, newest_first);
            ledgers.truncate(most.count);
        }
        ledgers.sort_unstable_by(newest_first);
        let mut tally = Tally::of(most);
        let bytes = |ledger: &Ledger| ledger.opened.as_ref().map_or(0, |(batch, _)| bytes_of(batch));
        let listed = ledgers.into_iter().take_while(|ledger| tally.takes(bytes(ledger)));
        Ok(listed.filter_map(Ledger::info).collect())
    }

    async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), StoreError> {
        self.with("note what was accepted", batch, |ledger| {
            ledger.accepted = ledger.accepted.max(before);
            Ok(())
        })
    }

    async fn verify(&self, batch: &BatchId) -> Result<Books, StoreError> {
        let action = "verify a batch";
        self.with(action, batch, |ledger| {
            if ledger.by_index.base > 0 {
                return Err(StoreError {
                    kind: StoreErrorKind::Forgotten,
                    action: action.into(),
                    reason: format!("some outcomes of batch {batch} are no longer kept, so they cannot be counted"),
                });
            }
            Ok(ledger.books())
        })
    }

    async fn cancelled(&self) -> Result<Vec<BatchId>, StoreError> {
        let kept = lock(&self.kept);
        let is_under_way = |ledger: &Ledger| ledger.progress.cancelled && ledger.completed.is_none();
        let under_way = kept.ledgers.iter().filter(|(_, ledger)| is_under_way(ledger));
        Ok(under_way.map(|(id, _)| id.clone()).collect())
    }

    async fn beat(&self, heartbeats: &[Heartbeat]) -> Result<(), StoreError> {
        lock(&self.workers).extend(heartbeats.iter().map(|heartbeat| (heartbeat.name.clone(), heartbeat.clone())));
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, StoreError> {
        let now = unix_millis();
        let mut workers = lock(&self.workers);
        workers.retain(|_, heartbeat| heartbeat.at + 3 * heartbeat.every > now);
        Ok(workers.values().cloned().collect())
    }

    async fn dead(&self, batch: Option<&BatchId>, most: AtMost) -> Result<Vec<DeadItem>, StoreError> {
        let kept = lock(&self.kept);
        let ledgers: Vec<(&BatchId, &Ledger)> = match batch {
            Some(batch) => {
                let found = kept.ledgers.get_key_value(batch);
                vec![found.ok_or_else(|| StoreError::unknown("list dead items", batch))?]
            }
            None => kept.ledgers.iter().filter(|(_, ledger)| ledger.dead_outcomes().next().is_some()).collect(),
        };
        let (mut tally, mut items) = (Tally::of(most), Vec::new());
        for (id, ledger) in ledgers {
            let task = ledger.opened.as_ref().map_or("", |(batch, _)| &*batch.task);
            for outcome in ledger.dead_outcomes() {
                // Asked before it is copied: an input may have MiBs.
                if !tally.takes(outcome.input.get().len() + outcome.source.as_deref().map_or(0, str::len)) {
                    return Ok(items);
                }
                items.extend(DeadItem::of(id, task, Outcome::clone(outcome)));
            }
        }
        Ok(items)
    }

    async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, StoreError> {
        self.with("give a dead item another life", batch, |ledger| Ok(ledger.revive(index)))
    }

    async fn release(&self, batch: &BatchId) -> Result<(), StoreError> {
        let is_complete = self.with("let a batch go", batch, |ledger| Ok(ledger.completed.is_some()))?;
        if is_complete {
            lock(&self.kept).remove(batch);
        }
        Ok(())
    }

    async fn close(&self, batch: &BatchId, quiet: Duration) -> Result<Vec<ItemIndex>, StoreError> {
        self.with("close a cancelled batch", batch, |ledger| Ok(ledger.close(quiet)))
    }

    /// None: they go when their room is needed.
    async fn sweep(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn has_room(&self) -> bool {
        lock(&self.kept).bytes_under_way <= self.keep_bytes
    }

    async fn health(&self) -> Health {
        Health::Ready
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DESERTED, LEDGER_BYTES};
    use super::*;
    use crate::batch::Attempt;
    use crate::failure::Failure;
    use crate::outcome::{Ending, Maker};
    use crate::store::Order;
    use crate::store::Store as _;
    use crate::store::conformance::batch;
    use crate::task::raw;

    fn outcome(index: u64, ending: Ending) -> Arc<Outcome> {
        Arc::new(Outcome {
            index: ItemIndex(index),
            input: raw(&index),
            name: None,
            source: None,
            ending,
            attempts: Attempt(1),
            maker: Arc::new(Maker::default()),
            queued: Duration::ZERO,
            run: Duration::ZERO,
        })
    }

    fn ok(index: u64) -> Arc<Outcome> {
        outcome(index, Ending::Ok(raw(&index)))
    }

    async fn complete(store: &Embedded, outcomes: &[Arc<Outcome>]) -> BatchId {
        let batch = batch();
        store.open(&batch).await.unwrap();
        store.seal(&batch.id, outcomes.len() as u64).await.unwrap();
        store.record(&batch.id, outcomes).await.unwrap();
        batch.id
    }

    #[tokio::test]
    async fn a_dead_item_lives_again_and_its_books_balance_before_and_after() {
        let store = Embedded::default();
        let dead = outcome(1, Ending::Dead(Failure::permanent("crash", "it ended its worker")));
        let batch = complete(&store, &[ok(0), dead, ok(2)]).await;
        assert!(store.verify(&batch).await.unwrap().balance());
        assert_eq!(store.dead(None, AtMost::entries(10)).await.unwrap()[0].index, 1);

        assert!(store.revive(&batch, 1).await.unwrap());
        assert!(store.revive(&batch, 1).await.unwrap(), "it has no outcome, and may not be on its way");
        assert_eq!(
            store.dead(None, AtMost::entries(10)).await.unwrap()[0].index,
            1,
            "it can be found until it has one"
        );

        let books = store.verify(&batch).await.unwrap();
        assert_eq!((books.missing, &books.missing_first[..], books.balance()), (1, &[(1, 2)][..], false));
        assert!(!store.info(&batch).await.unwrap().progress.is_complete());
        store.record(&batch, &[ok(1)]).await.unwrap();
        assert!(!store.revive(&batch, 1).await.unwrap(), "it is dead no more");
        assert!(store.dead(None, AtMost::entries(10)).await.unwrap().is_empty());
        assert!(store.verify(&batch).await.unwrap().balance());
        let landed = store.read(&batch, Order::Completion, 0, 10).await.unwrap();
        assert_eq!(landed.outcomes.iter().map(|outcome| outcome.index.0).collect::<Vec<_>>(), [0, 2, 1]);
    }

    #[tokio::test]
    async fn a_cancelled_batch_that_nobody_goes_on_with_is_closed() {
        crate::store::conformance::a_cancelled_batch_that_nobody_goes_on_with_is_closed(&Embedded::default()).await;
    }

    #[tokio::test]
    async fn a_complete_batch_that_is_let_go_is_gone() {
        let store = Embedded::default();
        let done = complete(&store, &[ok(0)]).await;
        let running = batch();
        store.open(&running).await.unwrap();

        store.release(&done).await.unwrap();
        store.release(&running.id).await.unwrap();

        assert_eq!(store.release(&done).await.unwrap_err().kind, StoreErrorKind::Unknown);
        assert!(store.info(&running.id).await.is_ok());
    }

    #[tokio::test]
    async fn where_there_is_no_room_the_oldest_complete_batch_is_given_up() {
        let outcomes: Vec<_> = (0..100).map(ok).collect();
        let measured = Embedded::default();
        complete(&measured, &outcomes).await;
        let store = Embedded::keeping(2 * lock(&measured.kept).bytes);
        let batches = [complete(&store, &outcomes).await, complete(&store, &outcomes).await];
        let third = complete(&store, &outcomes).await;
        assert!(store.info(&batches[0]).await.is_ok(), "there was room for two when the third began");

        let fourth = complete(&store, &[]).await;

        assert_eq!(store.info(&batches[0]).await.unwrap_err().kind, StoreErrorKind::Unknown);
        for kept in [&batches[1], &third, &fourth] {
            assert!(store.info(kept).await.is_ok());
        }
        assert!(store.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_nobody_goes_on_with_is_given_up_too() {
        let outcomes: Vec<_> = (0..100).map(ok).collect();
        let store = Embedded::keeping(1000);
        let deserted = batch();
        store.open(&deserted).await.unwrap();
        store.record(&deserted.id, &outcomes).await.unwrap();
        assert!(!store.has_room());
        complete(&store, &[]).await;
        assert!(store.info(&deserted.id).await.is_ok(), "it may be gone on with");

        tokio::time::advance(2 * DESERTED).await;
        complete(&store, &[]).await;

        assert!(store.has_room());
        assert_eq!(store.info(&deserted.id).await.unwrap_err().kind, StoreErrorKind::Unknown);
    }

    #[tokio::test]
    async fn batches_without_outcomes_take_room_too() {
        let store = Embedded::keeping(10 * LEDGER_BYTES);
        for _ in 0..30 {
            complete(&store, &[]).await;
        }
        assert!((1..=10).contains(&store.list(AtMost::entries(100)).await.unwrap().len()));

        let large = Batch { options: raw(&"x".repeat(100_000)), ..batch() };
        store.open(&large).await.unwrap();

        assert!(!store.has_room(), "what was said of a batch counts");
    }

    #[tokio::test]
    async fn what_all_batches_come_to_is_known_whatever_happens_to_each() {
        let store = Embedded::default();
        let dead = outcome(0, Ending::Dead(Failure::permanent("crash", "it ended its worker")));
        let done = complete(&store, &[dead, ok(1)]).await;
        let under_way = batch();
        store.open(&under_way).await.unwrap();
        store.record(&under_way.id, &[ok(0)]).await.unwrap();
        store.revive(&done, 0).await.unwrap();
        let let_go = complete(&store, &[ok(0)]).await;
        store.release(&let_go).await.unwrap();
        complete(&store, &[ok(0), ok(1)]).await;

        let kept = lock(&store.kept);

        let weights: Vec<_> = kept.ledgers.values().map(Ledger::weight).collect();
        let of_all = weights.iter().map(|weight| weight.bytes).sum::<u64>();
        let of_open =
            weights.iter().filter(|weight| weight.completed.is_none()).map(|weight| weight.bytes).sum::<u64>();
        assert_eq!((weights.len(), kept.complete.len()), (3, 1));
        assert_eq!((kept.bytes, kept.bytes_under_way), (of_all, of_open));
    }

    #[tokio::test]
    async fn who_opens_second_is_given_what_the_first_opened() {
        crate::store::conformance::who_opens_second_is_given_what_the_first_opened(&Embedded::default()).await;
    }

    #[tokio::test]
    async fn lists_end_where_they_are_full() {
        crate::store::conformance::lists_end_where_they_are_full(&Embedded::default()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_of_a_sealed_batch_that_was_cancelled_is_lost_when_nothing_comes_for_long() {
        let store = Embedded::default();
        let id = batch();
        store.open(&id).await.unwrap();
        let id = id.id;
        store.record(&id, &[ok(1)]).await.unwrap();
        store.accept(&id, 3).await.unwrap();
        store.seal(&id, 3).await.unwrap();
        tokio::time::advance(2 * LOST).await;
        assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty(), "nobody has cancelled it");
        store.cancel(&id).await.unwrap();
        assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty(), "they are waited for");

        tokio::time::advance(2 * LOST).await;

        assert_eq!(store.close(&id, Duration::ZERO).await.unwrap(), [ItemIndex(0), ItemIndex(2)]);
        store.record(&id, &[outcome(0, Ending::Cancelled)]).await.unwrap();
        assert_eq!(store.close(&id, Duration::ZERO).await.unwrap(), [ItemIndex(2)]);
        store.record(&id, &[outcome(2, Ending::Cancelled)]).await.unwrap();
        assert!(store.progress(&id).await.unwrap().is_complete());
        assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_can_have_sent_is_neither_counted_one_by_one_nor_filled_up() {
        let store = Embedded::default();
        let id = batch();
        store.open(&id).await.unwrap();
        let id = id.id;
        store.record(&id, &[ok(0), ok(2), ok(3)]).await.unwrap();
        store.accept(&id, 1 << 40).await.unwrap();
        store.cancel(&id).await.unwrap();
        assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());

        tokio::time::advance(2 * LOST).await;

        assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty(), "they are waited for");
        let books = store.verify(&id).await.unwrap();
        assert_eq!((books.total, books.missing), (Some(1 << 40), (1 << 40) - 3));
        assert_eq!(books.missing_first, [(1, 2), (4, 1 << 40)]);
    }
}
