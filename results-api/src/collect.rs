//! The collector: writes outcomes to the store, then acknowledges.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tidemill_core::broker::{Body, Broker, BrokerError, Deliveries, Delivery, Message, Permits, Queue, Settlement};
use tidemill_core::failpoint::reach;
use tidemill_core::outcome::Outcome;
use tidemill_core::segment::Segment;
use tidemill_core::store::{Store, StoreError, StoreErrorKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages in hand: enough that the broker's next ones are there when a write ends.
const PERMITS: Permits = Permits(128);
/// Messages that are written together, and about how many bytes of outcomes: a round trip should not cost more than it
/// carries, and whoever reads waits for all of them.
const TOGETHER: usize = 64;
const TOGETHER_BYTES: usize = 512 << 10;
/// A message of a batch that nobody has opened goes round so often: its opening may be in another collector's hands, which
/// for the broker live until heartbeats have been missed (20 s), or wait for a store that does not answer.
const ROUNDS: u32 = 9;
/// How long the first round takes, at least; each further one takes twice as long, so that all take two minutes.
const ROUND: Duration = Duration::from_millis(250);
/// How long nothing is recorded once the store has refused to, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Collects until `stop` is cancelled. Several collectors may run at once: recording is once per item.
///
/// `landed` is told of outcomes just before they are written. Dropping the future is safe: what was not written is
/// delivered again.
///
/// # Errors
/// [`BrokerError`] where it cannot begin to consume.
pub async fn collect(
    broker: &dyn Broker,
    store: &dyn Store,
    landed: impl Fn(&[Arc<Outcome>]) + Send,
    stop: CancellationToken,
) -> Result<(), BrokerError> {
    let consuming = stop.run_until_cancelled(broker.consume(Queue::Results, PERMITS, stop.clone())).await;
    let Some(mut deliveries) = consuming.transpose()? else { return Ok(()) };
    let (tell, mut gathered) = mpsc::channel(1);
    // The next messages are read and checked while the store writes these.
    let gathering = async move {
        while let Some(first) = deliveries.next().await {
            if tell.send(gather(first, &mut deliveries)).await.is_err() {
                break;
            }
        }
    };
    let recording = async {
        let mut pause = PAUSES.0;
        while let Some(deliveries) = gathered.recv().await {
            match record(broker, store, &landed, deliveries).await {
                Ok(()) => pause = PAUSES.0,
                // A password that is changed, say. What is here has gone back to the broker, which keeps it.
                Err(Refused(reason)) => {
                    tracing::error!(reason, "the store refuses, outcomes wait in the broker");
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    };
    tokio::join!(gathering, recording);
    Ok(())
}

/// The delivery and whatever has come besides.
fn gather(first: Delivery, deliveries: &mut Deliveries) -> Vec<Delivery> {
    let bytes_of = |delivery: &Delivery| match &delivery.message.body {
        Body::Segment(segment) => segment.bytes().len(),
        _ => 0,
    };
    let mut bytes = bytes_of(&first);
    let mut gathered = vec![first];
    while gathered.len() < TOGETHER
        && bytes < TOGETHER_BYTES
        && let Some(Some(next)) = deliveries.next().now_or_never()
    {
        bytes += bytes_of(&next);
        gathered.push(next);
    }
    gathered
}

/// The store takes nothing, whatever it is, and why.
#[derive(Debug)]
struct Refused(String);

/// Does what the messages say, in the order in which they came: what a batch begins with goes before its outcomes.
async fn record(
    broker: &dyn Broker,
    store: &dyn Store,
    landed: &(impl Fn(&[Arc<Outcome>]) + Send),
    deliveries: Vec<Delivery>,
) -> Result<(), Refused> {
    let mut all = Ok(());
    let mut segments = Vec::new();
    for delivery in deliveries {
        let result = match &delivery.message.body {
            Body::Segment(segment) => {
                let segment = segment.clone();
                segments.push((segment, delivery));
                continue;
            }
            Body::Open(batch) => store.open(batch).await,
            Body::Seal { batch, total } => {
                all = all.and(write(broker, store, &mut segments).await);
                store.seal(batch, *total).await
            }
            Body::Outcomes { batch, outcomes } => {
                landed(outcomes);
                store.record(batch, outcomes).await
            }
            _ => {
                settle(delivery, Settlement::Reject("this is nothing for the queue of outcomes".into())).await;
                continue;
            }
        };
        all = all.and(conclude(broker, delivery, result).await);
    }
    all.and(write(broker, store, &mut segments).await)
}

/// Writes segments in as few round trips as can be, and acknowledges what was written.
async fn write(broker: &dyn Broker, store: &dyn Store, segments: &mut Vec<(Segment, Delivery)>) -> Result<(), Refused> {
    if segments.is_empty() {
        return Ok(());
    }
    let (segments, deliveries): (Vec<_>, Vec<_>) = std::mem::take(segments).into_iter().unzip();
    reach("collector.record.before");
    let results = store.record_segments(&segments).await;
    reach("collector.record.after");
    let mut all = Ok(());
    for (delivery, result) in deliveries.into_iter().zip(results) {
        all = all.and(conclude(broker, delivery, result).await);
    }
    all
}

async fn conclude(broker: &dyn Broker, delivery: Delivery, result: Result<(), StoreError>) -> Result<(), Refused> {
    let mut refused = Ok(());
    let settlement = match result {
        Ok(()) => Settlement::Ack,
        Err(error) if error.kind == StoreErrorKind::Refused => {
            refused = Err(Refused(error.to_string()));
            Settlement::Requeue
        }
        Err(error) if error.kind == StoreErrorKind::Unknown && delivery.message.rounds < ROUNDS => {
            tracing::debug!(%error, "outcomes of a batch that is not open yet");
            // The broker keeps it meanwhile: waiting here, or giving it back, would hold up the others.
            let rounds = delivery.message.rounds;
            let again = Message { delay: ROUND * (1 << rounds), rounds: rounds + 1, ..(*delivery.message).clone() };
            match broker.publish(Queue::Results, again).await {
                Ok(()) => Settlement::Ack,
                Err(_) => Settlement::Requeue,
            }
        }
        Err(error) => {
            tracing::warn!(%error, "a message could not be recorded");
            if error.is_transient() { Settlement::Requeue } else { Settlement::Reject(error.to_string()) }
        }
    };
    settle(delivery, settlement).await;
    reach("collector.ack.after");
    refused
}

async fn settle(delivery: Delivery, settlement: Settlement) {
    if let Err(error) = delivery.settle(settlement).await {
        tracing::warn!(%error, "what was recorded could not be acknowledged, it will come again");
    }
}
