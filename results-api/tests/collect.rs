//! The collector over a store that has its troubles: nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::{Batch, Priority};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Body, Broker as _, Health, Message, Queue};
use tidemill_core::store::{Store as _, Version};
use tidemill_results_api::collect;
use tidemill_results_api::testing::{InProcess, batch, ok};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A broker, a store, and a collector between them.
fn sandbox() -> (Arc<Embedded>, Arc<InProcess>, DropGuard) {
    let (broker, store) = (Arc::new(Embedded::new(1 << 20)), Arc::<InProcess>::default());
    let collector = collector(&broker, &store);
    (broker, store, collector)
}

/// A collector between these, until its guard is dropped.
fn collector(broker: &Arc<Embedded>, store: &Arc<InProcess>) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn({
        let (broker, store, stop) = (Arc::clone(broker), Arc::clone(store), stop.clone());
        async move { collect(&*broker, &*store, |_| {}, stop).await }
    });
    stop.drop_guard()
}

async fn publish(broker: &Embedded, body: Body) {
    broker.publish(Queue::Results, Message::new(body, Priority::default())).await.unwrap();
}

fn outcomes(batch: &Batch, indices: std::ops::Range<u64>) -> Body {
    Body::Outcomes { batch: batch.id.clone(), outcomes: indices.map(ok).map(Arc::new).collect() }
}

async fn until_complete(store: &InProcess, batch: &Batch) {
    let mut seen = Version::default();
    while !store.progress(&batch.id).await.is_ok_and(|progress| progress.is_complete()) {
        match store.changed(&batch.id, seen).await {
            Ok(version) => seen = version,
            // Nobody has opened it yet.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn outcomes_wait_in_the_broker_while_the_store_refuses_everything() {
    let (broker, store, _collector) = sandbox();
    let batch = batch();
    store.set_refusing(true);

    publish(&broker, Body::Open(Arc::new(batch.clone()))).await;
    for index in 0..100 {
        publish(&broker, outcomes(&batch, index..index + 1)).await;
    }
    publish(&broker, Body::Seal { batch: batch.id.clone(), total: 100 }).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(broker.depth(Queue::Dead).await.unwrap(), 0);
    store.set_refusing(false);

    until_complete(&store, &batch).await;
    assert_eq!(broker.depth(Queue::Dead).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn outcomes_wait_for_hours_for_their_batch_to_be_opened_and_not_for_ever() {
    let (broker, store, _collector) = sandbox();
    let (late, never) = (batch(), batch());

    publish(&broker, outcomes(&late, 0..3)).await;
    publish(&broker, Body::Seal { batch: late.id.clone(), total: 3 }).await;
    publish(&broker, outcomes(&never, 0..1)).await;
    tokio::time::sleep(Duration::from_secs(20 * 3600)).await;
    assert_eq!(broker.depth(Queue::Dead).await.unwrap(), 0);
    publish(&broker, Body::Open(Arc::new(late.clone()))).await;

    until_complete(&store, &late).await;
    while broker.depth(Queue::Dead).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert_eq!(broker.depth(Queue::Dead).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_collector_has_in_hand_that_cannot_reach_the_store_goes_to_one_that_can() {
    let (broker, cut_off, _collector) = sandbox();
    let store = Arc::new(cut_off.seen_apart());
    cut_off.set_stalled(Some(Health::Away("no route to it".into())));
    let batch = batch();
    publish(&broker, Body::Open(Arc::new(batch.clone()))).await;
    while broker.depth(Queue::Results).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let other = collector(&broker, &store);
    for index in 0..100 {
        publish(&broker, outcomes(&batch, index..index + 1)).await;
    }
    publish(&broker, Body::Seal { batch: batch.id.clone(), total: 100 }).await;

    until_complete(&store, &batch).await;
    assert_eq!(broker.depth(Queue::Dead).await.unwrap(), 0);

    // It takes nothing before it reaches the store, and everything then.
    drop(other);
    let next = tidemill_results_api::testing::batch();
    publish(&broker, Body::Open(Arc::new(next.clone()))).await;
    publish(&broker, Body::Seal { batch: next.id.clone(), total: 0 }).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(broker.depth(Queue::Results).await.unwrap(), 2);
    cut_off.set_stalled(None);
    until_complete(&cut_off, &next).await;
}
