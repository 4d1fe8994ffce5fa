//! What travels comes back as it went, whatever is in it.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use tidemill_core::broker::Body;
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::task::raw;

fn json() -> impl Strategy<Value = Box<RawValue>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(".*", inner, 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    });
    value.prop_map(|value| raw(&value))
}

fn millis() -> impl Strategy<Value = Duration> {
    (0u64..1 << 40).prop_map(Duration::from_millis)
}

prop_compose! {
    fn batch()(
        task in "[a-z.]{1,20}", options in json(), attempts in 1u32.., base in millis(), max in millis(), timeout in millis(),
        priority in any::<u8>(),
    ) -> Batch {
        let retry = RetryPolicy { attempts, base, max };
        Batch { id: BatchId::new(), task, options, retry, timeout, priority: Priority(priority) }
    }
}

prop_compose! {
    fn item()(index in any::<u64>(), input in json(), name in proptest::option::of(".*")) -> Item {
        Item { index: ItemIndex(index), input, name: name.map(Into::into) }
    }
}

fn ending() -> impl Strategy<Value = Ending> {
    let failure = ("[a-z_]{1,12}", ".*", any::<bool>()).prop_map(|(kind, message, retryable)| Failure {
        kind: kind.into(),
        message,
        retryable,
    });
    prop_oneof![
        json().prop_map(Ending::Ok),
        failure.clone().prop_map(Ending::Failed),
        failure.prop_map(Ending::Dead),
        Just(Ending::Cancelled),
        Just(Ending::Expired),
    ]
}

prop_compose! {
    fn outcome()(
        item in item(), ending in ending(), attempts in any::<u32>(), worker in ".*", device in ".*",
        queued in 0u64..1 << 50, run in 0u64..1 << 50,
    ) -> Outcome {
        Outcome {
            index: item.index,
            input: item.input,
            name: item.name,
            ending,
            attempts: Attempt(attempts),
            maker: Arc::new(Maker { worker, device }),
            queued: Duration::from_micros(queued),
            run: Duration::from_micros(run),
        }
    }
}

fn body() -> impl Strategy<Value = Body> {
    let chunk = (batch(), any::<u32>(), proptest::collection::vec(item(), 0..5)).prop_map(|(batch, attempt, items)| {
        Body::Chunk(Chunk { batch: Arc::new(batch), attempt: Attempt(attempt), items })
    });
    let outcomes = proptest::collection::vec(outcome(), 0..5).prop_map(|outcomes| Body::Outcomes {
        batch: BatchId::new(),
        outcomes: outcomes.into_iter().map(Arc::new).collect(),
    });
    prop_oneof![chunk, outcomes]
}

proptest! {
    #[test]
    fn a_body_comes_back_as_it_went(body in body()) {
        let text = serde_json::to_string(&body).unwrap();
        let again: Body = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(serde_json::to_string(&again).unwrap(), text);
        prop_assert_eq!(again.weight_bytes(), body.weight_bytes());
    }

    #[test]
    fn text_that_is_no_body_is_an_error_and_nothing_worse(text in ".{0,200}") {
        drop(serde_json::from_str::<Body>(&text));
    }

    #[test]
    fn a_damaged_body_is_an_error_or_another_body_and_nothing_worse(body in body(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = serde_json::to_vec(&body).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        drop(serde_json::from_slice::<Body>(&bytes));
        drop(serde_json::from_slice::<Body>(&bytes[..place]));
    }
}
