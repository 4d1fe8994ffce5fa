//! What a shared store promises, over the embedded one; it can be taken away and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidemill_core::batch::{Batch, BatchId, ItemIndex};
use tidemill_core::broker::{Health, Heartbeat};
use tidemill_core::outcome::Outcome;
use tidemill_core::segment::Segment;
use tidemill_core::store::embedded::Embedded;
use tidemill_core::store::{
    BatchInfo, Books, DeadItem, Order, Page, Progress, Shared, Store, StoreError, StoreErrorKind, Version,
};

/// The embedded store, which can be taken away and come back.
#[derive(Debug, Default)]
pub struct InProcess {
    inner: Arc<Embedded>,
    is_away: AtomicBool,
    refuses: AtomicBool,
    read: AtomicU64,
}

impl InProcess {
    /// The same batches, seen by somebody else: what they read is counted apart.
    #[must_use]
    pub fn seen_apart(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), ..Self::default() }
    }

    /// Takes it away, or brings it back.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Makes it refuse whatever it is asked, as for a wrong password, or work again.
    pub fn set_refusing(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// How many outcomes have been read.
    pub fn outcomes_read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }

    fn here(&self) -> Result<&Embedded, StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError {
                kind: StoreErrorKind::Unreachable,
                action: "speak to the store".into(),
                reason: "secret-host:6379 refused the connection".into(),
            });
        }
        if self.refuses.load(Ordering::SeqCst) {
            return Err(StoreError {
                kind: StoreErrorKind::Refused,
                action: "speak to the store".into(),
                reason: "secret-host:6379 refused: WRONGPASS".into(),
            });
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Store for InProcess {
    async fn open(&self, batch: &Batch) -> Result<(), StoreError> {
        self.here()?.open(batch).await
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError> {
        self.here()?.seal(batch, total).await
    }

    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError> {
        self.here()?.record(batch, outcomes).await
    }

    async fn record_copy(&self, copy: &Segment) -> Result<bool, StoreError> {
        self.here()?.record_copy(copy).await
    }

    async fn cancel(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.here()?.cancel(batch).await
    }

    async fn progress(&self, batch: &BatchId) -> Result<Progress, StoreError> {
        self.here()?.progress(batch).await
    }

    async fn read(&self, batch: &BatchId, order: Order, from: u64, limit: usize) -> Result<Page, StoreError> {
        let page = self.here()?.read(batch, order, from, limit).await?;
        self.read.fetch_add(page.outcomes.len() as u64, Ordering::SeqCst);
        Ok(page)
    }

    async fn forget(&self, batch: &BatchId, order: Order, before: u64) -> Result<(), StoreError> {
        self.here()?.forget(batch, order, before).await
    }

    async fn changed(&self, batch: &BatchId, seen: Version) -> Result<Version, StoreError> {
        self.here()?.changed(batch, seen).await
    }
}

#[async_trait]
impl Shared for InProcess {
    async fn info(&self, batch: &BatchId) -> Result<BatchInfo, StoreError> {
        self.here()?.info(batch).await
    }

    async fn list(&self, limit: usize) -> Result<Vec<BatchInfo>, StoreError> {
        self.here()?.list(limit).await
    }

    async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), StoreError> {
        self.here()?.accept(batch, before).await
    }

    async fn verify(&self, batch: &BatchId) -> Result<Books, StoreError> {
        self.here()?.verify(batch).await
    }

    async fn cancelled(&self) -> Result<Vec<BatchId>, StoreError> {
        self.here()?.cancelled().await
    }

    async fn beat(&self, heartbeats: &[Heartbeat]) -> Result<(), StoreError> {
        self.here()?.beat(heartbeats).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.here()?.workers().await
    }

    async fn dead(&self, batch: Option<&BatchId>, limit: usize) -> Result<Vec<DeadItem>, StoreError> {
        self.here()?.dead(batch, limit).await
    }

    async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, StoreError> {
        self.here()?.revive(batch, index).await
    }

    async fn release(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.here()?.release(batch).await
    }

    async fn close(&self, batch: &BatchId, quiet: Duration) -> Result<Vec<ItemIndex>, StoreError> {
        self.here()?.close(batch, quiet).await
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        self.here()?.sweep().await
    }

    async fn health(&self) -> Health {
        self.here().map_or_else(|error| Health::Away(error.reason), |_| Health::Ready)
    }
}
