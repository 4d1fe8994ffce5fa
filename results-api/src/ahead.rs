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
use tidemill_core::outcome::Status;
use tidemill_core::segment::Segment;
use tidemill_core::store::Store;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Copies that are recorded at a time.
const ABREAST: usize = 16;

/// The batches whose outcomes somebody waits for. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub struct Ahead(Arc<Mutex<HashMap<BatchId, oneshot::Sender<Segment>>>>);

/// Somebody who waits for a batch's outcomes; the batch is forgotten when this is dropped.
#[derive(Debug)]
pub struct Expected {
    batch: BatchId,
    /// Nothing once it is known that none will be recorded.
    copy: Option<oneshot::Receiver<Segment>>,
    ahead: Ahead,
}

impl Ahead {
    /// Begins to wait for a batch, which is to be published after this. Of two who wait for the same one the later has the
    /// copy.
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
        let copies = stream::unfold(broker.copies().await?, |mut copies| async {
            let copy = copies.next().await?;
            Some((copy, copies))
        });
        let recording = copies.for_each_concurrent(ABREAST, |copy| self.record_one(store, copy));
        drop(stop.run_until_cancelled(recording).await);
        Ok(())
    }

    async fn record_one(&self, store: &dyn Store, copy: Segment) {
        // Whoever is not waited for comes with the outcomes themselves. So do the dead: somebody may give them another life
        // before these have come, and they would be recorded as its end.
        if !self.lock().contains_key(copy.batch()) || copy.counts()[Status::Dead as usize] > 0 {
            return;
        }
        let is_recorded = store.record_copy(&copy).inspect_err(|error| tracing::debug!(%error, "a copy is let go")).await;
        // What was recorded before may be something else.
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
    /// Resolves when a copy was recorded that has all `items` of the batch, with it; never where none will be.
    pub(crate) async fn recorded(&mut self, items: u64) -> Segment {
        if let Some(copy) = &mut self.copy {
            let copy = copy.await;
            self.copy = None;
            if let Ok(copy) = copy
                && copy.indices() == [0..items]
            {
                return copy;
            }
        }
        std::future::pending().await
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
