//! The seam to the store: what keeps the outcomes of batches, once and in order.
//!
//! [`embedded`] lives in this process; Redis is the one for clusters. `conformance` is the contract as tests,
//! which every implementation passes unchanged.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchId};
use crate::outcome::{Outcome, Status};

/// In which order outcomes are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As the inputs came; an outcome can be read once all before it have landed.
    #[default]
    Input,
    /// As the outcomes landed.
    Completion,
}

/// Where a batch stands. All of it follows from what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// How many items it has; `None` until it is sealed.
    pub total: Option<u64>,
    /// Outcomes by status, in the order of [`Status::ALL`].
    pub counts: [u64; Status::ALL.len()],
    /// Outcomes that came again and were not recorded again.
    pub duplicates: u64,
    /// Whether it was cancelled.
    pub cancelled: bool,
}

impl Progress {
    /// Items that have an outcome.
    pub fn recorded(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Items with that status.
    pub fn count(&self, status: Status) -> u64 {
        self.counts[status as usize]
    }

    /// Whether it is sealed and every item has its outcome.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.recorded())
    }
}

/// Outcomes that can be read now.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The outcomes, in the order that was asked for.
    pub outcomes: Vec<Arc<Outcome>>,
    /// Where to go on reading.
    pub next: u64,
    /// Whether nothing will ever come after this page.
    pub is_last: bool,
}

/// Grows with every change of a batch; see [`Store::changed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// Keeps outcomes. Recording is once: the first write of an item wins, whoever writes again is counted.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Makes a batch known. A second time changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn open(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Says how many items the batch has. Idempotent.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] where it was sealed with another total.
    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError>;

    /// Records the outcomes whose items have none yet.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`] for a batch that was never opened.
    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError>;

    /// Marks the batch as cancelled. Idempotent.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn cancel(&self, batch: &BatchId) -> Result<(), StoreError>;

    /// Where the batch stands.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn progress(&self, batch: &BatchId) -> Result<Progress, StoreError>;

    /// At most `limit` outcomes from place `from` on: an index for [`Order::Input`] (which ends before the first
    /// gap), a count of completions for [`Order::Completion`].
    ///
    /// # Errors
    /// [`StoreErrorKind::Forgotten`] before what [`Store::forget`] left.
    async fn read(&self, batch: &BatchId, order: Order, from: u64, limit: usize) -> Result<Page, StoreError>;

    /// Allows the store to drop the outcomes before place `before`; that they were recorded is still known.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn forget(&self, batch: &BatchId, order: Order, before: u64) -> Result<(), StoreError>;

    /// Resolves when the batch has changed since `seen`, at once if it has already, with its version now.
    /// Begin with `Version::default()`. Dropping the future is safe.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn changed(&self, batch: &BatchId, seen: Version) -> Result<Version, StoreError>;
}

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {reason}")]
pub struct StoreError {
    /// What kind of trouble it is.
    pub kind: StoreErrorKind,
    /// What was attempted.
    pub action: String,
    /// Why it did not work.
    pub reason: String,
}

/// Kinds of trouble with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store cannot be reached; it may come back.
    Unreachable,
    /// There is no such batch, or it has expired.
    Unknown,
    /// It contradicts what was written before.
    Conflict,
    /// It was there and was let go.
    Forgotten,
}

impl StoreError {
    /// There is no such batch.
    pub fn unknown(action: &str, batch: &BatchId) -> Self {
        Self {
            kind: StoreErrorKind::Unknown,
            action: action.to_owned(),
            reason: format!("no batch {batch} is known; it may have expired"),
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.kind == StoreErrorKind::Unreachable
    }
}
