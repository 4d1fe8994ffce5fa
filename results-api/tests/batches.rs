//! Batches over HTTP, as a program of another language would ask.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use support::{Asking, Away};
use tidemill_core::batch::Batch;
use tidemill_core::broker::{Broker as _, Health, Notice};
use tidemill_core::outcome::{Ending, Outcome};
use tidemill_core::segment::MAX_INDEX;
use tidemill_core::store::{Shared as _, Store as _};
use tidemill_core::task::raw;
use tidemill_results_api::http::Api;
use tidemill_results_api::testing::{Server, batch, dead, outcome};

/// JSON that is legal, and that no `Value` holds.
fn json_of_its_own(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap()
}

#[tokio::test]
async fn a_batch_is_shown_with_where_it_stands_in_words_and_numbers() {
    let server = Server::start().await;
    let batch = server.batch(Some(4), 0..3).await;

    let shown = server.get(&format!("/v1/batches/{batch}")).await.json(200);

    assert_eq!(shown["batch"]["id"], batch.as_str());
    assert_eq!(shown["batch"]["options"], json!({"expr": "10*x"}));
    assert_eq!(
        (&shown["state"], &shown["recorded"], &shown["progress"]["total"]),
        (&"running".into(), &3.into(), &4.into())
    );
    assert_eq!(shown["statuses"], json!({"ok": 3, "failed": 0, "dead": 0, "cancelled": 0, "expired": 0}));
    let info: tidemill_core::store::BatchInfo = serde_json::from_value(shown).unwrap();
    assert_eq!(info.progress.recorded(), 3);
}

#[tokio::test]
async fn the_list_has_the_newest_first_and_no_more_than_was_asked_for() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(server.batch(None, []).await);
    }

    let listed = server.get("/v1/batches?limit=2").await.json(200);

    let listed: Vec<&str> =
        listed["batches"].as_array().unwrap().iter().map(|b| b["batch"]["id"].as_str().unwrap()).collect();
    assert_eq!(listed, [ids[2].as_str(), ids[1].as_str()]);
}

#[tokio::test]
async fn cancelling_is_recorded_and_announced_and_twice_is_once() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), [0]).await;
    let mut notices = server.broker.notices().await.unwrap();

    for _ in 0..2 {
        let shown = server.send("DELETE", &format!("/v1/batches/{batch}"), &[], "").await.json(200);
        assert_eq!(shown["state"], "cancelling");
    }

    assert_eq!(notices.next().await, Some(Notice::Cancel(batch.clone())));
    server.store.record(&batch, &[Arc::new(outcome(1, Ending::Cancelled))]).await.unwrap();
    assert_eq!(server.get(&format!("/v1/batches/{batch}")).await.json(200)["state"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn cancelling_does_not_wait_for_a_broker_that_is_away() {
    let server = Server::start_with(|api| Api { broker: Arc::new(Away), ..api }).await;
    let batch = server.batch(Some(2), [0]).await;

    let shown = server.send("DELETE", &format!("/v1/batches/{batch}"), &[], "").await.json(200);

    assert_eq!(shown["state"], "cancelling");
    assert_eq!(server.store.cancelled().await.unwrap(), [batch], "workers are told of it once the broker is back");
}

#[tokio::test]
async fn options_that_are_deep_or_hold_a_huge_number_spoil_no_list() {
    let server = Server::start().await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let huge = "{\"x\":1e999}".to_owned();
    for options in [&deep, &huge] {
        let batch = Batch { options: json_of_its_own(options.clone()), ..batch() };
        server.store.open(&batch).await.unwrap();

        let shown = server.get(&format!("/v1/batches/{}", batch.id)).await;

        assert_eq!(shown.status, 200, "{}", shown.text());
        assert!(shown.text().contains(&format!("\"options\":{options}")), "{}", shown.text());
    }
    let listed = server.get("/v1/batches").await;
    assert_eq!(listed.status, 200, "{}", listed.text());
    assert!(listed.text().contains(&deep) && listed.text().contains(&huge), "{}", listed.text());
}

#[tokio::test]
async fn a_batch_that_is_complete_stays_so_when_it_is_cancelled() {
    let server = Server::start().await;
    let batch = server.batch(Some(1), [0]).await;
    let shown = server.send("DELETE", &format!("/v1/batches/{batch}"), &[], "").await.json(200);
    assert_eq!(shown["state"], "complete");
}

#[tokio::test]
async fn what_the_broker_has_is_remembered_and_never_goes_back() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    for before in [7, 3] {
        let body = json!({ "before": before }).to_string();
        let path = format!("/v1/batches/{batch}/accepted");
        server.send("PUT", &path, &[("content-type", "application/json")], body).await.json(200);
    }
    assert_eq!(server.get(&format!("/v1/batches/{batch}")).await.json(200)["accepted"], 7);
}

#[tokio::test]
async fn no_more_items_are_accepted_than_a_batch_can_have() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    let path = format!("/v1/batches/{batch}/accepted");
    for (before, status) in [(MAX_INDEX + 1, 400), (u64::MAX, 400), (MAX_INDEX, 200)] {
        let body = json!({ "before": before }).to_string();
        let answer = server.send("PUT", &path, &[("content-type", "application/json")], body).await;
        assert_eq!(answer.status, status, "{before}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_books_say_whether_they_balance() {
    let server = Server::start().await;
    let batch = server.batch(Some(3), [0, 2]).await;
    let path = format!("/v1/batches/{batch}/verify");

    let books = server.get(&path).await.json(200);
    assert_eq!((&books["balanced"], &books["missing"]), (&false.into(), &1.into()));
    assert_eq!(books["missing_first"], json!([[1, 2]]));

    server.record(&batch, [1, 1]).await;
    let books = server.get(&path).await.json(200);
    assert_eq!((&books["balanced"], &books["duplicates"]), (&true.into(), &1.into()));
}

#[tokio::test(start_paused = true)]
async fn counting_a_batch_may_take_long_and_who_waits_hears_that_the_store_has_gone_away() {
    let server = Server::start().await;
    let batch = server.batch(Some(1), [0]).await;
    server.store.set_stalled(Some(Health::Ready));
    let path = format!("/v1/batches/{batch}/verify");

    let mut asking = std::pin::pin!(server.get(&path));
    tokio::select! {
        answer = &mut asking => panic!("it was given up: {answer:?}"),
        () = tokio::time::sleep(Duration::from_secs(3600)) => {}
    }
    server.store.set_stalled(Some(Health::Away("no route to it".into())));

    assert_eq!(asking.await.problem(503)["detail"], "the store is away: no route to it");
}

#[tokio::test]
async fn dead_items_are_listed_and_can_be_revived_until_they_have_another_outcome() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), [0]).await;
    server.store.record(&batch, &[Arc::new(dead(1))]).await.unwrap();

    let listed = server.get(&format!("/v1/dead?batch={batch}")).await.json(200);
    assert_eq!((&listed["dead"][0]["index"], &listed["dead"][0]["failure"]["kind"]), (&1.into(), &"crash".into()));

    for (index, is_revived) in [(1, true), (1, true), (0, false)] {
        let path = format!("/v1/batches/{batch}/items/{index}/revive");
        assert_eq!(server.send("POST", &path, &[], "").await.json(200)["revived"], is_revived);
    }
    server.record(&batch, [1]).await;
    assert_eq!(server.get("/v1/dead").await.json(200)["dead"], json!([]));
}

#[tokio::test]
async fn a_dead_item_whose_input_is_a_huge_number_is_listed() {
    let server = Server::start().await;
    let batch = server.batch(Some(1), []).await;
    let huge = Outcome { input: json_of_its_own("1e999".into()), ..dead(0) };
    server.store.record(&batch, &[Arc::new(huge)]).await.unwrap();

    let listed = server.get("/v1/dead").await;

    assert_eq!(listed.status, 200, "{}", listed.text());
    assert!(listed.text().contains("\"input\":1e999"), "{}", listed.text());
}

#[tokio::test]
async fn a_list_of_dead_items_ends_where_their_inputs_have_too_many_bytes_and_has_one_at_least() {
    let server = Server::start().await;
    for (mib, listed) in [([20_usize, 30, 30], 2), ([70, 1, 1], 1)] {
        let batch = server.batch(Some(3), []).await;
        for (index, mib) in (0..).zip(mib) {
            let large = Outcome { input: raw(&"x".repeat(mib << 20)), ..dead(index) };
            server.store.record(&batch, &[Arc::new(large)]).await.unwrap();
        }

        let told = server.get(&format!("/v1/dead?batch={batch}&limit=10000")).await.json(200);

        assert_eq!(told["dead"].as_array().unwrap().len(), listed);
    }
}

#[tokio::test]
async fn where_nobody_could_publish_it_again_no_dead_item_is_revived() {
    let server = Server::start_with(|api| Api { is_broker_shared: false, ..api }).await;
    let batch = server.batch(Some(1), []).await;
    server.store.record(&batch, &[Arc::new(dead(0))]).await.unwrap();

    let refused = server.send("POST", &format!("/v1/batches/{batch}/items/0/revive"), &[], "").await;

    assert_eq!(refused.problem(501)["type"], "urn:tidemill:problem:broker_not_shared");
    assert!(server.store.progress(&batch).await.unwrap().is_complete(), "it has its outcome still");
}

#[tokio::test]
async fn tasks_models_and_workers_are_told() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/tasks").await.json(200)["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(server.get("/v1/tasks/time.sleep").await.json(200)["about"]["name"], "time.sleep");
    let problem = server.get("/v1/tasks/time.slep").await.problem(404);
    assert!(problem["detail"].as_str().unwrap().contains("did you mean time.sleep?"), "{problem}");
    assert_eq!(server.get("/v1/models").await.json(200)["models"][0]["card"]["name"], "tiny");
    assert_eq!(server.get("/v1/workers").await.json(200)["workers"], json!([]));
}
