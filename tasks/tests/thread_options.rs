//! What the rows of `thread.*` do not take is refused before anything starts: as an item, and as an option of a batch.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod stage;

use std::time::Duration;

use serde_json::{Value, json};

use self::stage::{prepare, raw_value};

/// A field, the least and the most that it takes.
type Count = (&'static str, u64, u64);

/// To each row the counts that it takes.
const COUNTS: [(&str, &[Count]); 9] = [
    ("thread.define", &[("threads", 1, 64)]),
    ("thread.current", &[]),
    ("thread.subclass", &[("threads", 1, 64)]),
    ("thread.lock", &[("threads", 1, 64)]),
    ("thread.rlock", &[("items_to_add", 1, 1000), ("items_to_remove", 0, 1000)]),
    ("thread.semaphore", &[("items", 1, 1000)]),
    ("thread.barrier", &[]),
    ("thread.event", &[("items", 1, 1000)]),
    ("thread.condition", &[("items", 1, 1000), ("capacity", 1, 1000)]),
];

/// Both as an item and as options it is refused, with a message that has all these parts.
fn refused(task: &str, bad: &Value, parts: &[&str]) {
    let as_options = prepare(task, bad).err();
    let as_item = prepare(task, &json!({})).unwrap().check(&raw_value(bad)).err();
    for invalid in [as_options, as_item] {
        let said = invalid.unwrap_or_else(|| panic!("{task} takes {bad}")).to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{task} {bad}: {said}");
    }
}

#[test]
fn a_number_that_is_none_or_out_of_bounds_is_refused_with_its_field_and_what_is_allowed() {
    for (task, counts) in COUNTS {
        let common = [("scenario", 1, 3), ("tick_ms", 0, 60_000), ("seed", 0, u64::MAX)];
        for &(field, least, most) in common.iter().chain(counts) {
            let allowed = format!("a whole number from {least} to {most}");
            for bad in ["-1", "1.5", "1e30", "99999999999999999999", "\"1\"", "true", "[1]", "{}"] {
                let bad: Value = serde_json::from_str(&format!("{{\"{field}\": {bad}}}")).unwrap();
                refused(task, &bad, &[field, &allowed]);
            }
            for beyond in [least.checked_sub(1), most.checked_add(1)].into_iter().flatten() {
                refused(task, &json!({ field: beyond }), &[field, &allowed, &beyond.to_string()]);
            }
        }
    }
}

#[test]
fn an_unknown_field_is_refused_with_those_that_there_are() {
    for (task, counts) in COUNTS {
        refused(task, &json!({"tick": 5}), &["tick", "scenario", "tick_ms", "seed"]);
        for (field, ..) in counts {
            refused(task, &json!({"thraeds": 5}), &["thraeds", field]);
        }
        refused(task, &json!([1]), &[]);
        refused(task, &json!("1"), &[]);
    }
}

#[test]
fn runners_are_a_few_names_each_once() {
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    for (bad, reason) in [
        (json!([]), "0 names; 1 to 64 are allowed"),
        (json!(many), "65 names; 1 to 64 are allowed"),
        (json!(["a", "a"]), "\"a\" is there twice"),
        (json!(["a", ""]), "\"\" is no name"),
        (json!(["a\u{0}b"]), "no name"),
        (json!(["a\nb"]), "no name"),
        (json!(["x".repeat(101)]), "1 to 100 characters"),
        (json!(["a", 7]), "expected a string"),
        (json!("Huey"), "expected an array"),
        (json!({"Huey": 1}), "expected an array"),
    ] {
        refused("thread.barrier", &json!({ "runners": bad }), &["runners", reason]);
    }
}

#[test]
fn no_more_can_be_removed_than_was_added() {
    let check = |options: Value, item: Value| prepare("thread.rlock", &options).unwrap().check(&raw_value(&item));

    let refused = check(json!({}), json!({"items_to_remove": 17})).unwrap_err().to_string();
    assert_eq!(refused, "items_to_remove: 17 is more than are added; at most items_to_add, 16");
    assert!(check(json!({"items_to_add": 5}), json!({"items_to_remove": 6})).is_err());
    assert!(check(json!({"items_to_remove": 20}), json!({"items_to_add": 20})).is_ok());
    assert!(check(json!({"items_to_remove": 20}), json!({"scenario": 2})).is_ok(), "it removes what was added");
}

#[test]
fn an_item_that_asks_for_the_most_does_not_exceed_its_timeout() {
    for (task, counts) in COUNTS {
        for scenario in 1..=3 {
            let mut most = json!({"scenario": scenario, "tick_ms": 60_000});
            for &(field, _, count) in counts {
                most[field] = json!(count);
            }

            let cost = prepare(task, &most).unwrap().cost().usual;
            // As an item it asks for as much, whatever its batch says.
            let timeout = prepare(task, &json!({"tick_ms": 0})).unwrap().timeout();

            assert!(cost < timeout.unwrap_or(Duration::from_secs(600)), "{task} {most}: {cost:?}, {timeout:?}");
        }
    }
}

#[test]
fn a_number_on_the_command_line_is_a_scenario() {
    for (task, _) in COUNTS {
        let job = prepare(task, &json!({})).unwrap();
        assert_eq!(job.input_from_word("2").get(), r#"{"scenario":2}"#);
        assert_eq!(job.input_from_word(r#"{"tick_ms":5}"#).get(), r#"{"tick_ms":5}"#);
        let check = |word: &str| job.check(&job.input_from_word(word));
        assert!(check("3").is_ok());
        assert!(check("0").is_err() && check("4").is_err() && check("-1").is_err() && check("lock").is_err());
    }
}
