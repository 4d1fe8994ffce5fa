//! The collector over a store that has its troubles: nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::{Batch, Priority};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Body, Broker as _, Message, Queue};
use tidemill_core::store::{Store as _, Version};
use tidemill_results_api::collect;
use tidemill_results_api::testing::{InProcess, batch, ok};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A broker, a store, and a collector between them.
fn sandbox() -> (Arc<Embedded>, Arc<InProcess>, DropGuard) {
    let (broker, store) = (Arc::new(Embedded::new(1 << 20)), Arc::<InProcess>::default());
    let stop = CancellationToken::new();
    tokio::spawn({
        let (broker, store, stop) = (Arc::clone(&broker), Arc::clone(&store), stop.clone());
        async move { collect(&*broker, &*store, |_| {}, stop).await }
    });
    (broker, store, stop.drop_guard())
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
async fn outcomes_wait_a_minute_for_their_batch_to_be_opened_and_not_for_ever() {
    let (broker, store, _collector) = sandbox();
    let (late, never) = (batch(), batch());

    publish(&broker, outcomes(&late, 0..3)).await;
    publish(&broker, Body::Seal { batch: late.id.clone(), total: 3 }).await;
    publish(&broker, outcomes(&never, 0..1)).await;
    // Another collector has it in its hands meanwhile, on a machine that has lost its power.
    tokio::time::sleep(Duration::from_secs(60)).await;
    publish(&broker, Body::Open(Arc::new(late.clone()))).await;

    until_complete(&store, &late).await;
    while broker.depth(Queue::Dead).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(broker.depth(Queue::Dead).await.unwrap(), 1);
}
