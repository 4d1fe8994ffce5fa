//! The seam to the store: what keeps the outcomes of batches, once and in order.
//!
//! [`embedded`] lives in this process; Redis is the one for clusters. `conformance` is the contract as tests,
//! which every implementation passes unchanged.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod frame;
mod page;
pub mod redis;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::page::{Fetched, Page};
use crate::batch::{Batch, BatchId, ItemIndex};
use crate::broker::{Health, Heartbeat};
use crate::outcome::{Ending, Outcome, Status};
use crate::segment::Segment;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// [`StoreErrorKind::Conflict`] where it was sealed with another total, or has outcomes beyond this one.
    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), StoreError>;

    /// Records the outcomes whose items have none yet; drops those beyond the end of a batch that is sealed.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`] for a batch that was never opened.
    async fn record(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError>;

    /// The same for outcomes that arrived over the wire, of any batches, in as few round trips as can be: one result
    /// a segment, in their order.
    async fn record_segments(&self, segments: &[Segment]) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(segments.len());
        for segment in segments {
            results.push(self.record(segment.batch(), &segment.outcomes()).await);
        }
        results
    }

    /// Makes a batch known and records all that there is of it, which seals the batch, unless something of it is recorded;
    /// whether it did.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn record_only(&self, batch: &Batch, only: &Segment) -> Result<bool, StoreError>;

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

    /// The same as it is kept, which whoever asks makes text of when and where they like: the next page can be fetched
    /// meanwhile. It ends with what has the bytes that it may have.
    ///
    /// # Errors
    /// As [`Store::read`]
    async fn fetch(&self, batch: &BatchId, order: Order, from: u64, most: AtMost) -> Result<Fetched, StoreError> {
        let page = self.read(batch, order, from, most.count).await?;
        Ok(Fetched::of(order, from, page).cut(most.bytes as u64))
    }

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

/// What is known of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchInfo {
    /// The batch as it was opened.
    pub batch: Batch,
    /// When it was opened, in milliseconds since 1970.
    pub created: u64,
    /// When it was complete, in milliseconds since 1970.
    pub completed: Option<u64>,
    /// How many items, from the first on, the broker is known to have accepted.
    pub accepted: u64,
    /// Where it stands.
    pub progress: Progress,
}

/// The books of a batch, counted anew from the outcomes themselves and not from the counters that grew with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// How many items it has; `None` until it is sealed.
    pub total: Option<u64>,
    /// Outcomes by status, in the order of [`Status::ALL`], counted one by one.
    pub counts: [u64; Status::ALL.len()],
    /// What the counters say; the same where the books balance.
    pub counters: [u64; Status::ALL.len()],
    /// Outcomes that came again and were not recorded again.
    pub duplicates: u64,
    /// Items that have no outcome: of a sealed batch all below its total, else all below the largest index seen.
    pub missing: u64,
    /// The first of these, as ranges from the first up to, not including, the second.
    pub missing_first: Vec<(u64, u64)>,
    /// Items that have more than one outcome. There are none; it is counted to be sure.
    pub doubled: u64,
    /// Outcomes at or above the total.
    pub beyond: u64,
}

/// Ranges of missing items that are named.
const NAMED: usize = 16;

impl Books {
    /// Enters items that have no outcome, from the first up to, not including, the second: after those entered before, and
    /// not next to them.
    pub(crate) fn miss(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.missing += to - from;
        if self.missing_first.len() < NAMED {
            self.missing_first.push((from, to));
        }
    }

    /// Whether every item of a sealed batch has exactly one outcome, and the counters say so too.
    pub fn balance(&self) -> bool {
        let recorded: u64 = self.counts.iter().sum();
        self.total == Some(recorded)
            && self.counts == self.counters
            && (self.missing, self.doubled, self.beyond) == (0, 0, 0)
    }
}

/// An item that ended its worker, as it lies among the dead.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadItem {
    /// Its batch.
    pub batch: BatchId,
    /// The task of its batch.
    pub task: String,
    /// Its place in the batch.
    pub index: u64,
    /// Its input.
    pub input: Box<serde_json::value::RawValue>,
    /// The relative path that it goes by, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// Where the bytes of its file are, where that was uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<str>>,
    /// What is known of its end.
    pub failure: crate::failure::Failure,
}

impl DeadItem {
    /// The bytes of what may be large in it.
    pub(crate) fn bytes(&self) -> usize {
        self.input.get().len() + self.source.as_deref().map_or(0, str::len)
    }

    /// The item of an outcome that is `dead`, and only of such a one.
    pub fn of(batch: &BatchId, task: &str, outcome: Outcome) -> Option<Self> {
        let Outcome { index, input, name, source, ending: Ending::Dead(failure), .. } = outcome else { return None };
        Some(Self { batch: batch.clone(), task: task.to_owned(), index: index.0, input, name, source, failure })
    }
}

/// How much a list may have: so many entries, and no more once these have about so many bytes. One it may have in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtMost {
    /// Entries.
    pub count: usize,
    /// Bytes of what may be large in them: the options of batches, the inputs of dead items, segments.
    pub bytes: usize,
}

impl AtMost {
    /// So many entries, however large.
    pub fn entries(count: usize) -> Self {
        Self { count, bytes: usize::MAX }
    }
}

/// A list as it grows.
#[derive(Debug)]
pub(crate) struct Tally {
    most: AtMost,
    count: usize,
    bytes: usize,
    is_full: bool,
}

impl Tally {
    pub(crate) fn of(most: AtMost) -> Self {
        Self { most, count: 0, bytes: 0, is_full: most.count == 0 }
    }

    /// Whether there is room for one more entry of so many bytes. It counts then; if there is none, the list ends.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(bytes);
        if self.is_full || (self.count > 0 && bytes > self.most.bytes) {
            self.is_full = true;
            return false;
        }
        self.count += 1;
        self.bytes = bytes;
        self.is_full = self.count == self.most.count;
        true
    }

    /// Whether nothing more comes.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many entries may still come.
    pub(crate) fn left(&self) -> usize {
        self.most.count - self.count
    }
}

/// The bytes of what is kept of a batch beside its outcomes, as far as they differ from batch to batch.
pub(crate) fn bytes_of(batch: &Batch) -> usize {
    batch.id.as_str().len() + batch.task.len() + batch.options.get().len()
}

/// What a broker had and has not come for so long will not come: it was lost, or never there.
pub(crate) const LOST: Duration = Duration::from_secs(60 * 60);
/// A submission that was killed leaves no larger gap: it has so much under way at most.
pub(crate) const MOST_MISSING: u64 = 10_000_000;

/// What a store can do that many machines share, over [`Store`].
#[async_trait]
pub trait Shared: Store {
    /// What is known of a batch.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn info(&self, batch: &BatchId) -> Result<BatchInfo, StoreError>;

    /// Makes a batch known, as [`Store::open`] does, and gives the one that was opened under its id before, if one was: of
    /// several who open it at the same time, one makes it, and the others are given what that one has made.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn begin(&self, batch: &Batch) -> Result<Option<Batch>, StoreError>;

    /// The batches that were opened last, newest first; those whose results have expired are left out.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn list(&self, most: AtMost) -> Result<Vec<BatchInfo>, StoreError>;

    /// Says that the broker has the items before `before`. It never goes back.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), StoreError>;

    /// Counts a batch's outcomes anew.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn verify(&self, batch: &BatchId) -> Result<Books, StoreError>;

    /// The batches that were cancelled and are not complete.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn cancelled(&self) -> Result<Vec<BatchId>, StoreError>;

    /// Keeps what a worker says of itself, until it has been silent for three times [`Heartbeat::every`].
    ///
    /// # Errors
    /// [`StoreError`]
    async fn beat(&self, heartbeats: &[Heartbeat]) -> Result<(), StoreError>;

    /// The workers that live, by name.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn workers(&self) -> Result<Vec<Heartbeat>, StoreError>;

    /// Dead items, of one batch or of all. No more of them are in memory for it than fit the list, and a few.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn dead(&self, batch: Option<&BatchId>, most: AtMost) -> Result<Vec<DeadItem>, StoreError>;

    /// Takes the outcome of a dead item back, so that it can run again; `false` if it is not dead (any more). It stays
    /// among the dead until it has another outcome, and until then it may be taken back again: whoever was to publish it
    /// may not have come to that.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, StoreError>;

    /// Says that nobody will read a complete batch again: it is no longer listed, and soon no longer kept. One that is
    /// not complete stays as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn release(&self, batch: &BatchId) -> Result<(), StoreError>;

    /// Ends a cancelled batch that was never sealed and has not changed for `quiet`: nobody goes on with it. It has the
    /// items then of which the broker is known to have accepted them, and those up to the last outcome; what comes of
    /// later ones is dropped. A sealed one that has not changed for [`LOST`] counts as closed too: what is missing is lost.
    ///
    /// Gives the items of a batch that was closed, now or before, of which nothing has come and may never come, since the
    /// broker is not known to have them or nothing at all has come for [`LOST`]; some of these, where they are many. More
    /// than [`MOST_MISSING`] are not filled up: a batch whose last outcome stands so far behind all others is left as it is, and
    /// one of which the broker is said to have that many waits for them.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`]
    async fn close(&self, batch: &BatchId, quiet: Duration) -> Result<Vec<ItemIndex>, StoreError>;

    /// Lets go of batches that were never sealed and have not changed for as long as results are kept: nobody goes on with
    /// them. Gives how many.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn sweep(&self) -> Result<u64, StoreError>;

    /// Whether there is room for outcomes of batches that are not complete; a real store says so by refusing.
    fn has_room(&self) -> bool {
        true
    }

    /// Whether it can be spoken to now: one round trip.
    async fn health(&self) -> Health;
}

/// What a store could not do.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// The store answers and will not, whatever is asked: credentials, rights, a version. Trying again is of no use before
    /// somebody has mended that; the reason says what to do.
    Refused,
    /// What it holds of a batch is not what was written there. Other batches are well.
    Broken,
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

    /// What lies in the store is not what we wrote there.
    pub(crate) fn broken(error: &dyn fmt::Display) -> Self {
        Self {
            kind: StoreErrorKind::Broken,
            action: "read outcomes".to_owned(),
            reason: format!(
                "what the store holds is not what was written: {error}\ndoes something else use this Redis with the same store.prefix?"
            ),
        }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.kind == StoreErrorKind::Unreachable
    }
}
