//! Head: the batch that stands in each of its chunks, written and read once for many of them.
//!
//! Where every item is a message of its own, the batch is most of it.

use std::cell::RefCell;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de, ser};
use serde_json::value::{RawValue, to_raw_value};

use crate::batch::Batch;

thread_local! {
    /// The batch of the chunk that was last written or read on this thread, with its text.
    static LAST: RefCell<Option<(Arc<Batch>, Box<RawValue>)>> = const { RefCell::new(None) };
}

/// Writes a batch as the one before, where it is that.
pub(super) fn serialize<S: Serializer>(batch: &Arc<Batch>, serializer: S) -> Result<S::Ok, S::Error> {
    LAST.with_borrow_mut(|last| {
        let (_, text) = match last {
            Some(known) if Arc::ptr_eq(&known.0, batch) => known,
            other => other.insert((Arc::clone(batch), to_raw_value(batch).map_err(ser::Error::custom)?)),
        };
        text.serialize(serializer)
    })
}

/// Reads a batch, which is the one before where its text is.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Batch>, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?;
    LAST.with_borrow_mut(|last| {
        let (batch, _) = match last {
            Some(known) if known.1.get() == text.get() => known,
            other => {
                let batch = serde_json::from_str(text.get()).map_err(de::Error::custom)?;
                other.insert((batch, text.to_owned()))
            }
        };
        Ok(Arc::clone(batch))
    })
}
