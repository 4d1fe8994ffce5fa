//! Tending, over a store and a broker inside the test.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::Priority;
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Body, Broker as _, Heartbeat, Message, Permits, Queue, Settlement};
use tidemill_core::outcome::{Ending, Status};
use tidemill_core::store::{Order, Shared as _, Store as _};
use tidemill_results_api::tend;
use tidemill_results_api::testing::{InProcess, batch, ok, outcome};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Somebody who tends, until the guard is dropped.
fn sandbox() -> (Arc<Embedded>, Arc<InProcess>, DropGuard) {
    let (broker, store) = (Arc::new(Embedded::new(1 << 20)), Arc::<InProcess>::default());
    let stop = CancellationToken::new();
    tokio::spawn({
        let (broker, store, stop) = (Arc::clone(&broker), Arc::clone(&store), stop.clone());
        async move { tend(&*broker, &*store, stop).await }
    });
    (broker, store, stop.drop_guard())
}

#[tokio::test]
async fn a_worker_whose_clock_is_slow_is_listed_all_the_same() {
    let (broker, store, _stop) = sandbox();
    let beat = Heartbeat { name: "slow".into(), at: 1, every: 60_000, ..Heartbeat::default() };

    broker.publish(Queue::Workers, Message::new(Body::Heartbeat(beat), Priority::default())).await.unwrap();
    while store.workers().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }

    assert!(store.workers().await.unwrap()[0].at > 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_batch_whose_submission_was_killed_ends_with_an_outcome_for_each_item() {
    let (_broker, store, _stop) = sandbox();
    let (batch, running) = (batch(), batch());
    for batch in [&batch, &running] {
        store.open(batch).await.unwrap();
        store.record(&batch.id, &[Arc::new(ok(0))]).await.unwrap();
    }

    store.cancel(&batch.id).await.unwrap();
    // Item 1 was lost with the submission's connection, and item 2 not.
    tokio::time::sleep(Duration::from_secs(40)).await;
    store.record(&batch.id, &[Arc::new(outcome(2, Ending::Cancelled))]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(store.progress(&batch.id).await.unwrap().total, None, "something came just now");
    tokio::time::sleep(Duration::from_secs(40)).await;

    let books = store.verify(&batch.id).await.unwrap();
    assert!(books.balance(), "{books:?}");
    let outcomes = store.read(&batch.id, Order::Input, 0, 10).await.unwrap().outcomes;
    let ends: Vec<_> = outcomes.iter().map(|outcome| (outcome.status(), outcome.input.get())).collect();
    assert_eq!(ends, [(Status::Ok, "0"), (Status::Cancelled, "null"), (Status::Cancelled, "2")]);
    assert_eq!(store.progress(&running.id).await.unwrap().total, None, "nobody has cancelled it");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_batch_is_not_ended_while_outcomes_wait_in_the_broker() {
    let (broker, store, _stop) = sandbox();
    let batch = batch();
    store.open(&batch).await.unwrap();
    store.accept(&batch.id, 200).await.unwrap();
    store.seal(&batch.id, 200).await.unwrap();
    store.cancel(&batch.id).await.unwrap();
    // Its collectors are away.
    for index in 0..200 {
        let outcomes = Body::Outcomes { batch: batch.id.clone(), outcomes: vec![Arc::new(ok(index))] };
        broker.publish(Queue::Results, Message::new(outcomes, Priority::default())).await.unwrap();
    }

    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(store.progress(&batch.id).await.unwrap().recorded(), 0, "they may come yet");

    // All of them are lost with the broker, say.
    let mut lost = broker.consume(Queue::Results, Permits(200), CancellationToken::new()).await.unwrap();
    for _ in 0..200 {
        lost.next().await.unwrap().settle(Settlement::Ack).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let progress = store.progress(&batch.id).await.unwrap();
    assert!(progress.is_complete() && progress.count(Status::Cancelled) == 200, "{progress:?}");
}
