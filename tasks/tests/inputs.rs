//! What holds of the inputs of every task.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

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
