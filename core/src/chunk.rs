//! Chunks: runs of items of one batch that travel as one message.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::batch::{Attempt, Batch, ItemIndex};

/// One input of a task.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its place in the batch.
    pub index: ItemIndex,
    /// The input, as JSON; the task gives it a type.
    pub input: Box<RawValue>,
    /// The relative path under which a file made of this item is stored, for inputs that are files:
    /// never absolute, never with `..`.
    pub name: Option<Box<str>>,
    /// Where the worker finds the bytes of the file that the input names, where the input does not say that to it: a blob
    /// (`blob:sha256:…`), these very bytes (`data:…`), or the whole path. The input stays as it was written, for whoever
    /// reads the outcome.
    pub source: Option<Box<str>>,
}

/// A run of items of one batch: the unit of delivery.
///
/// Indices ascend; they need not be neighbours (a retried chunk holds only the items that failed).
#[derive(Clone, Debug)]
pub struct Chunk {
    /// What all its items share.
    pub batch: Arc<Batch>,
    /// Which run of these items this is.
    pub attempt: Attempt,
    /// The items, in ascending order of index; never empty.
    pub items: Vec<Item>,
}

impl Chunk {
    /// Bytes of input it carries, with an allowance for each item's own record.
    pub fn weight_bytes(&self) -> u64 {
        self.items.iter().map(Item::weight_bytes).sum()
    }
}

impl Item {
    /// What the item counts for when memory is budgeted: its input, its source and [`Self::RECORD_BYTES`].
    pub fn weight_bytes(&self) -> u64 {
        weight_bytes(&self.input, self.name.as_deref()) + self.source.as_deref().map_or(0, str::len) as u64
    }

    /// Its source, where that is a place; bytes are not kept beyond the run.
    pub fn lasting_source(&self) -> Option<Box<str>> {
        self.source.clone().filter(|source| !source.starts_with("data:"))
    }

    /// An allowance for the item's record and for its outcome, which is as large as that for most tasks.
    pub const RECORD_BYTES: u64 = 256;
}

/// See [`Item::weight_bytes`]; an outcome repeats its item's input and name.
pub(crate) fn weight_bytes(input: &RawValue, name: Option<&str>) -> u64 {
    Item::RECORD_BYTES + input.get().len() as u64 + name.map_or(0, str::len) as u64
}
