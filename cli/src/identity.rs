//! Identity: which batch a submission means, and whether it is the one that is known.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tidemill_core::batch::{Batch, BatchId, InvalidBatchId};

/// The batch that a key of the user's own stands for: always the same one.
pub(crate) fn id_of(key: &str) -> Result<BatchId, InvalidBatchId> {
    let digest = format!("{:x}", Sha256::digest(format!("tidemill idempotency key {key}")));
    digest[..32].parse()
}

/// In what a batch was begun otherwise, for people; a batch is resumed with what it was begun with.
pub(crate) fn difference(known: &Batch, given: &Batch) -> Option<String> {
    let value = |batch: &Batch| serde_json::from_str::<Value>(batch.options.get()).unwrap_or_default();
    if known.task != given.task {
        Some(format!("its task is {}, not {}", known.task, given.task))
    } else if value(known) != value(given) {
        Some(format!("its options are {}, not {}", known.options, given.options))
    } else {
        None
    }
}
