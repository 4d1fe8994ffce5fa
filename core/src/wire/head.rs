//! Head: the batch that stands in each of its chunks, written and read once for many of them.
//!
//! Where every item is a message of its own, the batch is most of it.

use std::cell::RefCell;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de, ser};
use serde_json::value::{RawValue, to_raw_value};

use crate::batch::Batch;

/// A batch, with its text.
type Known = (Arc<Batch>, Box<RawValue>);

thread_local! {
    /// That of the chunk which was last written or read on this thread.
    static LAST: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// A longer one is not kept: every thread that reads would have one.
const KEPT_BYTES: usize = 64 << 10;

/// Writes a batch as the one before, where it is that.
pub(super) fn serialize<S: Serializer>(batch: &Arc<Batch>, serializer: S) -> Result<S::Ok, S::Error> {
    LAST.with_borrow_mut(|last| {
        if let Some((known, text)) = last
            && Arc::ptr_eq(known, batch)
        {
            return text.serialize(serializer);
        }
        let text = to_raw_value(batch).map_err(ser::Error::custom)?;
        let written = text.serialize(serializer);
        keep(last, batch, &text);
        written
    })
}

/// Reads a batch, which is the one before where its text is.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Batch>, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?;
    LAST.with_borrow_mut(|last| {
        if let Some((batch, known)) = last
            && known.get() == text.get()
        {
            return Ok(Arc::clone(batch));
        }
        let batch = serde_json::from_str(text.get()).map_err(de::Error::custom)?;
        keep(last, &batch, text);
        Ok(batch)
    })
}

fn keep(last: &mut Option<Known>, batch: &Arc<Batch>, text: &RawValue) {
    if text.get().len() <= KEPT_BYTES {
        *last = Some((Arc::clone(batch), text.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::batch::{Attempt, BatchId, ItemIndex};
    use crate::broker::Body;
    use crate::chunk::{Chunk, Item};
    use crate::store::conformance::batch;
    use crate::task::raw;
    use crate::wire;

    fn written(batch: &Arc<Batch>) -> Bytes {
        let item = Item { index: ItemIndex(7), input: raw(&1), name: None, source: None };
        let chunk = Chunk { batch: Arc::clone(batch), attempt: Attempt::FIRST, items: vec![item] };
        wire::encode(&Body::Chunk(chunk)).remove(0)
    }

    fn read(bytes: Bytes) -> Arc<Batch> {
        match wire::decode("tidemill.chunk", bytes).unwrap() {
            Body::Chunk(chunk) => chunk.batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn chunks_of_one_batch_share_it_and_those_of_others_do_not() {
        let one = Arc::new(batch());
        let other = Arc::new(Batch { id: BatchId::new(), ..batch() });
        let first = read(written(&one));

        assert_eq!(first.id, one.id);
        assert!(Arc::ptr_eq(&first, &read(written(&one))));
        assert_eq!(read(written(&other)).id, other.id);
        // The same id with other options is another one.
        let changed = Arc::new(Batch { options: raw(&serde_json::json!({"expr": "x + 1"})), ..(*one).clone() });
        assert_eq!(read(written(&changed)).options.get(), changed.options.get());
        assert_eq!(read(written(&one)).options.get(), one.options.get());
    }

    #[test]
    fn what_is_wrong_with_a_batch_is_told_with_its_place_in_the_message() {
        let text = String::from_utf8(written(&Arc::new(batch())).to_vec()).unwrap();
        let text = text.replace(r#""attempts":3"#, r#""attempts":-3"#);
        let place = text.find("-3").unwrap() + 2;

        let reason = wire::decode("tidemill.chunk", text.into()).unwrap_err().to_string();

        assert!(reason.ends_with(&format!("at line 1 column {place}")), "{reason}");
    }
}
