//! Ahead: copies of outcomes that workers send straight to whoever waits for them.
//!
//! The outcomes themselves come through the broker's disk to a collector, which may be in another process. A copy of them
//! is recorded as they would be, and what was recorded is the answer; nothing is acknowledged on its account. Where it is
//! lost, or comes too late, the caller waits a little longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream;
use futures::{StreamExt as _, TryFutureExt as _};
use tidemill_core::batch::BatchId;
use tidemill_core::broker::{Broker, BrokerError};
use tidemill_core::failpoint::reach;
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::segment::Segment;
use tidemill_core::store::Store;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Copies that are recorded at a time.
const ABREAST: usize = 16;

/// The batches of one item whose outcome somebody waits for. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub struct Ahead(Arc<Mutex<HashMap<BatchId, oneshot::Sender<Segment>>>>);

/// Somebody who waits for a batch's outcome; the batch is forgotten when this is dropped.
#[derive(Debug)]
pub struct Expected {
    batch: BatchId,
    /// Nothing once it has come.
    copy: Option<oneshot::Receiver<Segment>>,
    ahead: Ahead,
}

impl Ahead {
    /// Begins to wait for a batch, which is published after this. Of two who wait for the same one the later has the copy.
    pub fn expect(&self, batch: &BatchId) -> Expected {
        let (tell, copy) = oneshot::channel();
        self.lock().insert(batch.clone(), tell);
        Expected { batch: batch.clone(), copy: Some(copy), ahead: self.clone() }
    }

    /// Records the copies of what is waited for, until `stop` is cancelled.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot begin to take them in.
    pub async fn record(
        &self,
        broker: &dyn Broker,
        store: &dyn Store,
        stop: CancellationToken,
    ) -> Result<(), BrokerError> {
        let Some(copies) = stop.run_until_cancelled(broker.copies()).await.transpose()? else { return Ok(()) };
        let copies = stream::unfold(copies, |mut copies| async {
            let copy = copies.next().await?;
            Some((copy, copies))
        });
        let recording = copies.for_each_concurrent(ABREAST, |copy| self.record_one(store, copy));
        stop.run_until_cancelled(recording).await;
        Ok(())
    }

    async fn record_one(&self, store: &dyn Store, copy: Segment) {
        // Whoever is not waited for comes with the outcomes themselves. So do the dead: somebody may give them another life
        // before these have come, and they would be recorded as its end.
        if !self.lock().contains_key(copy.batch()) || copy.counts()[Status::Dead as usize] > 0 {
            return;
        }
        reach("copy.record.before");
        let is_recorded =
            store.record_copy(&copy).inspect_err(|error| tracing::debug!(%error, "a copy is let go")).await;
        reach("copy.record.after");
        // Where it was not, whoever waits learns that from the end of the way.
        if let Some(tell) = self.lock().remove(copy.batch())
            && matches!(is_recorded, Ok(true))
        {
            // Whoever waited may be gone.
            drop(tell.send(copy));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BatchId, oneshot::Sender<Segment>>> {
        // Every critical section is one map operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    /// Resolves when the outcome of the batch's one item was recorded from a copy, with it; with nothing where a copy came and
    /// something else may be recorded, which the store knows by now. That is said once.
    pub(crate) async fn recorded(&mut self) -> Option<Arc<Outcome>> {
        let Some(copy) = &mut self.copy else { return std::future::pending().await };
        let copy = copy.await;
        self.copy = None;
        let copy = copy.ok().filter(|copy| matches!(copy.indices(), [one] if *one == (0..1)))?;
        copy.outcomes().pop()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.copy = None;
        let mut waiting = self.ahead.lock();
        // Not that of another who waits for the same batch.
        if waiting.get(&self.batch).is_some_and(oneshot::Sender::is_closed) {
            waiting.remove(&self.batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tidemill_core::outcome::Ending;
    use tidemill_core::store::embedded::Embedded;

    use super::*;
    use crate::testing::{batch, dead, ok};

    fn copy(batch: &BatchId, outcomes: Vec<Outcome>) -> Segment {
        let outcomes: Vec<_> = outcomes.into_iter().map(Arc::new).collect();
        Segment::encode(batch, &outcomes).remove(0)
    }

    async fn opened(store: &Embedded) -> BatchId {
        let batch = batch();
        store.open(&batch).await.unwrap();
        store.seal(&batch.id, 1).await.unwrap();
        batch.id
    }

    #[tokio::test]
    async fn a_copy_is_recorded_and_answers_whoever_waits() {
        let (ahead, store) = (Ahead::default(), Embedded::default());
        let id = opened(&store).await;
        let mut expected = ahead.expect(&id);

        ahead.record_one(&store, copy(&id, vec![ok(0)])).await;
        // Doubled: nobody waits any more.
        ahead.record_one(&store, copy(&id, vec![ok(0)])).await;
        store.record(&id, &[Arc::new(ok(0))]).await.unwrap();

        assert!(matches!(&expected.recorded().await.unwrap().ending, Ending::Ok(output) if output.get() == "0"));
        let progress = store.progress(&id).await.unwrap();
        assert_eq!((progress.is_complete(), progress.duplicates), (true, 0));
    }

    #[tokio::test]
    async fn a_copy_that_is_not_what_was_recorded_answers_nobody() {
        let (ahead, store) = (Ahead::default(), Embedded::default());

        for outcomes in [vec![ok(1)], vec![ok(0), ok(1)]] {
            let id = opened(&store).await;
            let mut expected = ahead.expect(&id);
            ahead.record_one(&store, copy(&id, outcomes)).await;
            assert!(expected.recorded().now_or_never().unwrap().is_none(), "the store is asked");
            assert!(expected.recorded().now_or_never().is_none(), "once");
        }
        let id = opened(&store).await;
        store.record(&id, &[Arc::new(dead(0))]).await.unwrap();
        let mut expected = ahead.expect(&id);
        ahead.record_one(&store, copy(&id, vec![ok(0)])).await;
        assert!(expected.recorded().now_or_never().unwrap().is_none());
        let unknown = BatchId::new();
        let mut expected = ahead.expect(&unknown);
        ahead.record_one(&store, copy(&unknown, vec![ok(0)])).await;
        assert!(expected.recorded().now_or_never().unwrap().is_none());
    }

    #[tokio::test]
    async fn copies_that_nobody_waits_for_and_those_of_the_dead_are_dropped() {
        let (ahead, store) = (Ahead::default(), Embedded::default());
        let (other, waited_for) = (opened(&store).await, opened(&store).await);
        let mut expected = ahead.expect(&waited_for);

        ahead.record_one(&store, copy(&other, vec![ok(0)])).await;
        ahead.record_one(&store, copy(&waited_for, vec![dead(0)])).await;

        assert!(expected.recorded().now_or_never().is_none());
        for id in [other, waited_for] {
            assert_eq!(store.progress(&id).await.unwrap().recorded(), 0);
        }
    }

    #[tokio::test]
    async fn who_waits_no_more_is_forgotten_and_nobody_else() {
        let (ahead, id) = (Ahead::default(), BatchId::new());

        let (first, second) = (ahead.expect(&id), ahead.expect(&id));
        drop(first);

        assert_eq!(ahead.lock().len(), 1);
        drop(second);
        assert!(ahead.lock().is_empty());
    }
}
