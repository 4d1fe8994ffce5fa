//! Batches: an ordered list of items of one task with one set of options.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::retry::RetryPolicy;

/// Names a batch. Made by the producer, sorted by the time it was made (a UUID of version 7).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct BatchId(String);

/// What is no name of a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no batch id: one has 1 to 64 letters, digits, - and _")]
pub struct InvalidBatchId(String);

impl std::str::FromStr for BatchId {
    type Err = InvalidBatchId;

    /// Ids become parts of keys and paths, so there is nothing in them that could mean something there.
    fn from_str(text: &str) -> Result<Self, InvalidBatchId> {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidBatchId(text.chars().take(80).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for BatchId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl BatchId {
    /// Makes a new id.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string())
    }

    /// The id as it is written on the wire and on the command line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BatchId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of an item in its batch, counted from 0 in input order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ItemIndex(pub u64);

impl fmt::Display for ItemIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the runs of one item, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first run.
    pub const FIRST: Self = Self(1);

    /// The run after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Larger goes first. 0 is what nobody asked to hurry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Priority(pub u8);

/// What is the same for every item of a batch. Travels with each of its chunks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Who it is.
    pub id: BatchId,
    /// The task's name, such as `image.transform`.
    pub task: String,
    /// The task's options, a JSON object; parsed once per batch by the task itself.
    pub options: Box<RawValue>,
    /// How often, and after what delays, an item that failed for a passing reason runs again.
    pub retry: RetryPolicy,
    /// How long one attempt of one item may take.
    #[serde(with = "crate::millis")]
    pub timeout: Duration,
    /// Which batches go first.
    #[serde(default)]
    pub priority: Priority,
    /// When its time is over, in milliseconds since 1970: items that have not begun by then are `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// Milliseconds since 1970, for what is compared between machines.
pub fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
