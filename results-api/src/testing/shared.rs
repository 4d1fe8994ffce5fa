//! What a shared store promises, over the embedded one.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tidemill_core::batch::{Batch, BatchId, unix_millis};
use tidemill_core::broker::{Health, Heartbeat};
use tidemill_core::outcome::Outcome;
use tidemill_core::store::embedded::Embedded;
use tidemill_core::store::{
    BatchInfo, Books, DeadItem, Order, Page, Progress, Shared, Store, StoreError, StoreErrorKind, Version,
};

/// The embedded store with what machines share; it can be taken away and come back.
#[derive(Debug, Default)]
pub struct InProcess {
    inner: Embedded,
    batches: Mutex<BTreeMap<BatchId, Known>>,
    workers: Mutex<Vec<Heartbeat>>,
    is_away: AtomicBool,
    read: AtomicU64,
}

#[derive(Debug)]
struct Known {
    batch: Batch,
    created: u64,
    accepted: u64,
    revived: HashSet<u64>,
}

impl InProcess {
    /// Takes it away, or brings it back.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
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
        Ok(&self.inner)
    }

    fn known<T>(&self, batch: &BatchId, act: impl FnOnce(&mut Known) -> T) -> Result<T, StoreError> {
        let mut batches = self.batches.lock().unwrap();
        batches.get_mut(batch).map(act).ok_or_else(|| StoreError::unknown("read a batch", batch))
    }

    async fn outcomes(&self, batch: &BatchId) -> Result<Vec<Arc<Outcome>>, StoreError> {
        Ok(self.here()?.read(batch, Order::Completion, 0, usize::MAX).await?.outcomes)
    }
}

#[async_trait]
impl Store for InProcess {
    async fn open(&self, batch: &Batch) -> Result<(), StoreError> {
        self.here()?.open(batch).await?;
        let known = Known { batch: batch.clone(), created: unix_millis(), accepted: 0, revived: HashSet::new() };
        self.batches.lock().unwrap().entry(batch.id.clone()).or_insert(known);
        Ok(())
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError> {
        self.here()?.seal(batch, total).await
    }

    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError> {
        self.here()?.record(batch, outcomes).await
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
        let progress = self.progress(batch).await?;
        let completed = progress.is_complete().then(unix_millis);
        self.known(batch, |known| BatchInfo {
            batch: known.batch.clone(),
            created: known.created,
            completed,
            accepted: known.accepted,
            progress,
        })
    }

    async fn list(&self, limit: usize) -> Result<Vec<BatchInfo>, StoreError> {
        let ids: Vec<BatchId> = self.batches.lock().unwrap().keys().rev().take(limit).cloned().collect();
        let mut infos = Vec::new();
        for id in ids {
            infos.push(self.info(&id).await?);
        }
        Ok(infos)
    }

    async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), StoreError> {
        self.here()?;
        self.known(batch, |known| known.accepted = known.accepted.max(before))
    }

    async fn verify(&self, batch: &BatchId) -> Result<Books, StoreError> {
        let progress = self.progress(batch).await?;
        let mut books = Books { total: progress.total, duplicates: progress.duplicates, ..Books::default() };
        books.counters = progress.counts;
        let mut seen = HashSet::new();
        for outcome in self.outcomes(batch).await? {
            books.counts[outcome.status() as usize] += 1;
            seen.insert(outcome.index.0);
        }
        let end = progress.total.unwrap_or_else(|| seen.iter().max().map_or(0, |last| last + 1));
        let missing: Vec<u64> = (0..end).filter(|index| !seen.contains(index)).collect();
        books.missing = missing.len() as u64;
        books.missing_first = missing.into_iter().take(8).map(|index| (index, index + 1)).collect();
        Ok(books)
    }

    async fn cancelled(&self) -> Result<Vec<BatchId>, StoreError> {
        let infos = self.list(usize::MAX).await?.into_iter();
        let is_under_way = |info: &BatchInfo| info.progress.cancelled && !info.progress.is_complete();
        Ok(infos.filter(is_under_way).map(|info| info.batch.id).collect())
    }

    async fn beat(&self, heartbeats: &[Heartbeat]) -> Result<(), StoreError> {
        self.here()?;
        self.workers.lock().unwrap().extend_from_slice(heartbeats);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.here()?;
        Ok(self.workers.lock().unwrap().clone())
    }

    async fn dead(&self, batch: Option<&BatchId>, limit: usize) -> Result<Vec<DeadItem>, StoreError> {
        let ids: Vec<BatchId> = match batch {
            Some(batch) => vec![batch.clone()],
            None => self.batches.lock().unwrap().keys().cloned().collect(),
        };
        let mut dead = Vec::new();
        for id in ids {
            let (task, revived) = self.known(&id, |known| (known.batch.task.clone(), known.revived.clone()))?;
            let outcomes = self.outcomes(&id).await?;
            let items = outcomes.iter().filter(|outcome| !revived.contains(&outcome.index.0));
            dead.extend(items.filter_map(|outcome| DeadItem::of(&id, &task, Outcome::clone(outcome))));
        }
        dead.truncate(limit);
        Ok(dead)
    }

    async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, StoreError> {
        // The embedded store cannot take an outcome back; that it was asked to is remembered.
        let is_dead = self.dead(Some(batch), usize::MAX).await?.iter().any(|item| item.index == index);
        Ok(is_dead && self.known(batch, |known| known.revived.insert(index))?)
    }

    async fn health(&self) -> Health {
        self.here().map_or_else(|error| Health::Away(error.reason), |_| Health::Ready)
    }
}
