//! The servers start, answer, are shared, and end.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use tidemill_testing::{Rabbit, Redis, or_skip};

#[test]
fn a_server_is_shared_and_another_is_ones_own() {
    let Some(one) = or_skip(Redis::shared()) else { return };
    let Some(two) = or_skip(Redis::shared()) else { return };
    assert_eq!(one.port(), two.port());
    let Some(mut own) = or_skip(Redis::own()) else { return };
    assert_ne!(own.port(), one.port());
    own.kill();
    own.start();
}

#[test]
fn a_broker_can_be_killed_and_started_again() {
    let Some(mut rabbit) = or_skip(Rabbit::own()) else { return };
    assert!(rabbit.control(&["list_queues", "name"]).len() < 10);
    rabbit.kill();
    rabbit.start();
}
