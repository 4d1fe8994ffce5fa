//! What a shared store promises, over the embedded one; it can be taken away and come back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidemill_core::batch::{Batch, BatchId, ItemIndex};
use tidemill_core::broker::{Health, Heartbeat};
use tidemill_core::outcome::Outcome;
use tidemill_core::segment::Segment;
use tidemill_core::store::embedded::Embedded;
use tidemill_core::store::{
    AtMost, BatchInfo, Books, DeadItem, Fetched, Order, Page, Progress, Shared, Store, StoreError, StoreErrorKind,
    Version,
};

/// The embedded store, which can be taken away and come back.
#[derive(Debug, Default)]
pub struct InProcess {
    inner: Arc<Embedded>,
    is_away: AtomicBool,
    refuses: AtomicBool,
    panics: AtomicBool,
    keeps: AtomicBool,
    /// Its health while whoever asks has to wait.
    stalled: Mutex<Option<Health>>,
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

    /// Makes it panic, whatever it is asked, or work again.
    pub fn set_panicking(&self, panics: bool) {
        self.panics.store(panics, Ordering::SeqCst);
    }

    /// Makes whoever lets a batch go wait for ever, as while a real store is away.
    pub fn set_keeping(&self, keeps: bool) {
        self.keeps.store(keeps, Ordering::SeqCst);
    }

    /// Makes whoever asks from now on wait for ever, as a real store does, with this as its health; or it works again.
    pub fn set_stalled(&self, stalled: Option<Health>) {
        *self.stalled() = stalled;
    }

    /// How many outcomes have been read.
    pub fn outcomes_read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }

    fn stalled(&self) -> MutexGuard<'_, Option<Health>> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn here(&self) -> Result<&Embedded, StoreError> {
        assert!(!self.panics.load(Ordering::SeqCst), "the store panics, as it was told to");
        let is_stalled = self.stalled().is_some();
        if is_stalled {
            return std::future::pending().await;
        }
        self.answering()
    }

    fn answering(&self) -> Result<&Embedded, StoreError> {
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
        self.here().await?.open(batch).await
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError> {
        self.here().await?.seal(batch, total).await
    }

    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError> {
        self.here().await?.record(batch, outcomes).await
    }

    async fn record_only(&self, batch: &Batch, only: &Segment) -> Result<bool, StoreError> {
        self.here().await?.record_only(batch, only).await
    }

    async fn cancel(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.here().await?.cancel(batch).await
    }

    async fn progress(&self, batch: &BatchId) -> Result<Progress, StoreError> {
        self.here().await?.progress(batch).await
    }

    async fn read(&self, batch: &BatchId, order: Order, from: u64, limit: usize) -> Result<Page, StoreError> {
        let page = self.here().await?.read(batch, order, from, limit).await?;
        self.read.fetch_add(page.outcomes.len() as u64, Ordering::SeqCst);
        Ok(page)
    }

    async fn fetch(&self, batch: &BatchId, order: Order, from: u64, most: AtMost) -> Result<Fetched, StoreError> {
        let fetched = self.here().await?.fetch(batch, order, from, most).await?;
        self.read.fetch_add(fetched.len(), Ordering::SeqCst);
        Ok(fetched)
    }

    async fn forget(&self, batch: &BatchId, order: Order, before: u64) -> Result<(), StoreError> {
        self.here().await?.forget(batch, order, before).await
    }

    async fn changed(&self, batch: &BatchId, seen: Version) -> Result<Version, StoreError> {
        self.here().await?.changed(batch, seen).await
    }
}

#[async_trait]
impl Shared for InProcess {
    async fn info(&self, batch: &BatchId) -> Result<BatchInfo, StoreError> {
        self.here().await?.info(batch).await
    }

    async fn begin(&self, batch: &Batch) -> Result<Option<Batch>, StoreError> {
        self.here().await?.begin(batch).await
    }

    async fn list(&self, most: AtMost) -> Result<Vec<BatchInfo>, StoreError> {
        self.here().await?.list(most).await
    }

    async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), StoreError> {
        self.here().await?.accept(batch, before).await
    }

    async fn verify(&self, batch: &BatchId) -> Result<Books, StoreError> {
        self.here().await?.verify(batch).await
    }

    async fn cancelled(&self) -> Result<Vec<BatchId>, StoreError> {
        self.here().await?.cancelled().await
    }

    async fn beat(&self, heartbeats: &[Heartbeat]) -> Result<(), StoreError> {
        self.here().await?.beat(heartbeats).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.here().await?.workers().await
    }

    async fn dead(&self, batch: Option<&BatchId>, most: AtMost) -> Result<Vec<DeadItem>, StoreError> {
        self.here().await?.dead(batch, most).await
    }

    async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, StoreError> {
        self.here().await?.revive(batch, index).await
    }

    async fn release(&self, batch: &BatchId) -> Result<(), StoreError> {
        if self.keeps.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        self.here().await?.release(batch).await
    }

    async fn close(&self, batch: &BatchId, quiet: Duration) -> Result<Vec<ItemIndex>, StoreError> {
        self.here().await?.close(batch, quiet).await
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        self.here().await?.sweep().await
    }

    async fn health(&self) -> Health {
        let stalled = self.stalled().clone();
        stalled.unwrap_or_else(|| self.answering().map_or_else(|error| Health::Away(error.reason), |_| Health::Ready))
    }
}
