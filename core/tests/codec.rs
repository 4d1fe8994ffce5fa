//! What travels comes back as it went, whatever is in it.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use tidemill_core::broker::{Body, Heartbeat};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::segment::{MAX_INDEX, Segment};
use tidemill_core::task::raw;
use tidemill_core::wire::{self, Malformed, Type};

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
        priority in any::<u8>(), expires in proptest::option::of(any::<u64>()),
    ) -> Batch {
        let retry = RetryPolicy { attempts, base, max };
        Batch { id: BatchId::new(), task, options, retry, timeout, priority: Priority(priority), expires }
    }
}

prop_compose! {
    fn item()(
        index in 0..=MAX_INDEX, input in json(), name in proptest::option::of("[a-z ü]{1,9}(/[a-zß🌊]{1,9}){0,2}"),
        source in proptest::option::of(".*"),
    ) -> Item {
        Item { index: ItemIndex(index), input, name: name.map(Into::into), source: source.map(Into::into) }
    }
}

fn ending() -> impl Strategy<Value = Ending> {
    let failure = ("[a-z_]{1,12}", ".*", any::<bool>()).prop_map(|(kind, message, retryable)| Failure {
        kind: kind.into(),
        message,
        retryable,
        retry_after: None,
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
source: item.source,
            ending,
            attempts: Attempt(attempts),
            maker: Arc::new(Maker { worker, device }),
            queued: Duration::from_micros(queued),
            run: Duration::from_micros(run),
        }
    }
}

/// In ascending order, as in every message.
fn items() -> impl Strategy<Value = Vec<Item>> {
    proptest::collection::btree_map(0..=MAX_INDEX, item(), 1..6)
        .prop_map(|items| items.into_iter().map(|(index, item)| Item { index: ItemIndex(index), ..item }).collect())
}

fn outcomes() -> impl Strategy<Value = Vec<Arc<Outcome>>> {
    proptest::collection::btree_map(0..=MAX_INDEX, outcome(), 1..6).prop_map(|outcomes| {
        let maker = outcomes.values().next().unwrap().maker.clone();
        let in_place =
            |(index, outcome)| Arc::new(Outcome { index: ItemIndex(index), maker: maker.clone(), ..outcome });
        outcomes.into_iter().map(in_place).collect()
    })
}

fn body() -> impl Strategy<Value = Body> {
    let chunk = (batch(), 1u32.., items()).prop_map(|(batch, attempt, items)| {
        Body::Chunk(Chunk { batch: Arc::new(batch), attempt: Attempt(attempt), items })
    });
    let outcomes = outcomes().prop_map(|outcomes| Body::Outcomes { batch: BatchId::new(), outcomes });
    let seal = (0..=MAX_INDEX).prop_map(|total| Body::Seal { batch: BatchId::new(), total });
    prop_oneof![chunk, outcomes, seal, batch().prop_map(|batch| Body::Open(Arc::new(batch)))]
}

fn decode(body: &Body, bytes: &[u8]) -> Result<Body, Malformed> {
    wire::decode(body.kind().unwrap().as_str(), bytes.to_vec().into())
}

/// Outcomes as they were before they were written, of whichever form.
fn outcomes_of(body: &Body) -> Vec<Arc<Outcome>> {
    match body {
        Body::Outcomes { outcomes, .. } => outcomes.clone(),
        Body::Segment(segment) => segment.outcomes(),
        _ => Vec::new(),
    }
}

proptest! {
    #[test]
    fn a_body_comes_back_as_it_went(body in body()) {
        let [bytes] = &wire::encode(&body)[..] else { panic!("one maker, one message") };
        let again = decode(&body, bytes).unwrap();
        prop_assert_eq!(&wire::encode(&again)[..], &[bytes.clone()][..]);
        let values = |body: &Body| {
            outcomes_of(body).iter().map(|outcome| serde_json::to_value(&**outcome).unwrap()).collect::<Vec<_>>()
        };
        prop_assert_eq!(values(&again), values(&body));
        // What is left out of both forms above would be missed.
        let told = |body: &Body| match body {
            Body::Outcomes { .. } | Body::Segment(_) => format!("{:?} {:?}", body.batch(), outcomes_of(body)),
            body => format!("{body:?}"),
        };
        prop_assert_eq!(told(&again), told(&body));
    }

    #[test]
    fn a_segment_knows_what_is_in_it(outcomes in outcomes()) {
        let [segment] = &Segment::encode(&BatchId::new(), &outcomes)[..] else { panic!("one maker, one segment") };
        let again = Segment::parse(segment.bytes().clone()).unwrap();
        prop_assert_eq!(again.indices(), segment.indices());
        prop_assert_eq!(again.counts(), segment.counts());
        prop_assert_eq!(again.len(), outcomes.len() as u64);
        let indices: Vec<u64> = again.indices().iter().cloned().flatten().collect();
        prop_assert_eq!(&indices, &outcomes.iter().map(|outcome| outcome.index.0).collect::<Vec<_>>());

        let odd = again.filtered(|index| index % 2 == 1);
        prop_assert_eq!(odd.map_or(0, |odd| odd.len()), indices.iter().filter(|index| **index % 2 == 1).count() as u64);
    }

    #[test]
    fn text_that_is_no_body_is_an_error_and_nothing_worse(text in ".{0,200}") {
        for kind in Type::ALL {
            prop_assert!(wire::decode(kind.as_str(), text.clone().into()).is_err());
        }
    }

    #[test]
    fn a_damaged_body_is_an_error_or_another_body_and_nothing_worse(body in body(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = wire::encode(&body)[0].to_vec();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        drop(decode(&body, &bytes));
        prop_assert!(decode(&body, &bytes[..place]).is_err());
    }
}

#[test]
fn outcomes_of_two_makers_are_two_segments() {
    let outcome = |index, worker: &str| {
        Arc::new(Outcome {
            index: ItemIndex(index),
            input: raw(&index),
            name: None,
            source: None,
            ending: Ending::Cancelled,
            attempts: Attempt(0),
            maker: Arc::new(Maker { worker: worker.into(), device: "cpu".into() }),
            queued: Duration::ZERO,
            run: Duration::ZERO,
        })
    };
    let segments = Segment::encode(&BatchId::new(), &[outcome(2, "a"), outcome(1, "b"), outcome(0, "a")]);
    let indices = |segment: &Segment| segment.indices().iter().cloned().flatten().collect::<Vec<u64>>();
    assert_eq!(segments.iter().map(indices).collect::<Vec<_>>(), [vec![0, 2], vec![1]]);
}

#[test]
fn outcomes_fit_into_messages_whatever_their_reasons_are_made_of() {
    let maker = Arc::new(Maker { worker: "w".into(), device: "cpu".into() });
    // JSON writes each of these as six bytes.
    let failure = Failure::permanent("odd", "\u{b}".repeat(3000));
    let outcome = |index| {
        let item = Item { index: ItemIndex(index), input: raw(&0), name: None, source: None };
        Arc::new(Outcome::of(&item, Ending::Failed(failure.clone()), Attempt(1), &maker))
    };
    let outcomes: Vec<_> = (0..4096).map(outcome).collect();

    let bodies = wire::encode(&Body::Outcomes { batch: BatchId::new(), outcomes });

    assert!(bodies.iter().all(|body| body.len() < wire::MAX_BYTES / 2), "{:?}", bodies[0].len());
    let back = bodies.into_iter().map(|body| wire::decode("tidemill.outcomes", body).unwrap());
    assert_eq!(back.map(|body| outcomes_of(&body).len()).sum::<usize>(), 4096);
}

#[test]
fn a_worker_has_a_short_name_and_speaks_again_within_a_day() {
    let beat = |name: usize, every: u64| {
        let heartbeat = Heartbeat { name: "w".repeat(name), every, ..Heartbeat::default() };
        let body = wire::encode(&Body::Heartbeat(heartbeat)).remove(0);
        wire::decode("tidemill.heartbeat", body)
    };
    const DAY: u64 = 86_400_000;

    assert!(beat(200, DAY).is_ok());
    for bad in [beat(201, 1), beat(1, DAY + 1), beat(1, u64::MAX)] {
        let reason = bad.unwrap_err().to_string();
        assert!(reason.contains("a worker has at most a name of 200 bytes"), "{reason}");
    }
}

#[test]
fn a_chunk_leaves_room_for_its_outcomes() {
    let batch = r#"{"id":"b","task":"t","options":{},"retry":{"attempts":1,"base":1,"max":1},"timeout":1}"#;
    let chunk = |bytes: usize| {
        let items = format!(r#"[[0,"{}"]]"#, "x".repeat(bytes));
        wire::decode("tidemill.chunk", format!(r#"{{"v":1,"batch":{batch},"attempt":1,"items":{items}}}"#).into())
    };

    assert!(chunk(wire::MAX_CHUNK_BYTES - 1000).is_ok());
    let reason = chunk(wire::MAX_CHUNK_BYTES).unwrap_err().to_string();
    assert!(reason.starts_with("a chunk of ") && reason.contains("leave room for its outcomes"), "{reason}");
}

#[test]
fn a_name_that_stands_in_every_line_is_short() {
    let worker = "w".repeat(201);
    let text = format!(
        r#"{{"v":1,"batch":"b","worker":"{worker}","device":"cpu","outcomes":[[0,"cancelled",5,null,0,0,0]]}}"#
    );
    let reason = wire::decode("tidemill.outcomes", text.into()).unwrap_err().to_string();
    assert!(reason.contains("worker and device have at most 200 bytes"), "{reason}");
}

#[test]
fn numbers_of_a_segment_are_whole_and_have_64_bits() {
    let read = |queued: &str| {
        let outcomes = format!(r#" [ [0, "ok", -1.5e3, 0.25, 1, {queued}, 7 ] , [ 1,"ok","","x",1,0,0] ] "#);
        let text = format!(r#"{{"v":1,"batch":"b","worker":"","device":"","outcomes":{outcomes}}}"#);
        let segment = Segment::parse(text.into()).map_err(|malformed| malformed.to_string())?;
        let [first, _] = &segment.outcomes()[..] else { panic!("two outcomes") };
        Ok::<_, String>(first.queued)
    };

    for micros in [0, 7, 10, 999_999_999_999_999_999, 9_999_999_999_999_999_999, u64::MAX] {
        assert_eq!(read(&micros.to_string()), Ok(Duration::from_micros(micros)));
    }
    for wrong in ["", "-1", "00", "007", "1.5", "1e3", "18446744073709551616", "99999999999999999999999"] {
        let reason = read(wrong).unwrap_err();
        assert!(reason.contains("at byte"), "{wrong}: {reason}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let reason = |kind: &str, text: &str| wire::decode(kind, text.to_owned().into()).unwrap_err().to_string();
    let batch = r#"{"id":"b","task":"t","options":{},"retry":{"attempts":1,"base":1,"max":1},"timeout":1}"#;
    let chunk = |items: &str| format!(r#"{{"v":1,"batch":{batch},"attempt":1,"items":{items}}}"#);
    for (kind, text, expected) in [
        ("nonsense", "{}".to_owned(), "its type is \"nonsense\""),
        ("tidemill.chunk", "{".to_owned(), "EOF while parsing"),
        ("tidemill.chunk", r#"{"v":2,"new":1}"#.to_owned(), "version 2 is not spoken here"),
        ("tidemill.chunk", "{}".to_owned(), "v is missing"),
        ("tidemill.chunk", chunk("[]"), "one or more"),
        ("tidemill.chunk", chunk("[[1,1],[0,1]]"), "ascending"),
        ("tidemill.chunk", chunk(r#"[[0,1,"../x"]]"#), "no plain relative path"),
        ("tidemill.chunk", chunk("[[0]]"), "input is missing"),
        ("tidemill.chunk", chunk(r#"[[0,1]]"#).replace(r#""id":"b""#, r#""id":"a/b""#), "no batch id"),
        (
            "tidemill.outcomes",
            r#"{"v":1,"batch":"b","worker":"","device":"","outcomes":[]}"#.to_owned(),
            "one outcome or more",
        ),
        ("tidemill.outcomes", r#"{"v":1,"outcomes":[]}"#.to_owned(), "stand before outcomes"),
        (
            "tidemill.outcomes",
            r#"{"v":1,"batch":"b","worker":"","device":"","outcomes":[[9007199254740993,"ok",1,1,1,1,1]]}"#.to_owned(),
            "above the largest",
        ),
    ] {
        let said = reason(kind, &text);
        assert!(said.contains(expected), "{text}: {said}");
    }
    let foreign =
        wire::decode("tidemill.outcomes", b"{\"v\":1,\"worker\":\"\xff\"}"[..].into()).unwrap_err().to_string();
    assert!(foreign.contains("at byte 17 is not UTF-8"), "{foreign}");
}
