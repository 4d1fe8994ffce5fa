//! What holds of the inputs of every task.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::time::Duration;

use serde_json::json;
use tidemill_core::task::raw;
use tidemill_tasks::{House, register};

#[test]
fn a_list_is_refused_where_an_object_is_asked_for() {
    let register = register(&House::default());
    let mut seen = 0;
    for kind in register.iter() {
        let name = kind.about().name;
        if kind.schemas().input.get("type").is_none_or(|kind| kind != "object") {
            continue;
        }
        let job = kind.prepare(&raw(&json!({}))).unwrap_or_else(|invalid| panic!("{name}: {invalid}"));
        let invalid = job.check(&raw(&json!([5]))).expect_err(name);
        assert!(invalid.0.contains("object"), "{name}: {invalid}");
        assert!(kind.prepare(&raw(&json!([5]))).is_err(), "{name}: its options are an object too");
        seen += 1;
    }
    assert!(seen >= 20, "{seen} tasks take objects");
}

#[test]
fn no_input_that_is_taken_must_end_by_the_timeout() {
    let register = register(&House::default());
    for (task, options, longest) in [
        ("time.sleep", json!({}), 604_800),
        ("time.sleep", json!({"tick_ms": 60_000}), 60 * 604_800),
        ("stream.thermometers", json!({"tick_ms": 5, "samples": 20}), 60 * 10_000),
        ("thread.rlock", json!({"tick_ms": 5}), 60 * 2000),
        ("thread.condition", json!({}), 60 * 3000),
        ("process.name", json!({}), 60 * 5),
    ] {
        let job = register.find(task).unwrap().prepare(&raw(&options)).unwrap();
        let timeout = job.timeout().expect(task);

        assert!(timeout > Duration::from_secs(longest), "{task}: {timeout:?}");
        assert!(timeout < 2 * Duration::from_secs(longest) + Duration::from_secs(3600), "{task}: {timeout:?}");
    }
}
