//! The collector: writes outcomes to the store, then acknowledges.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tidemill_core::batch::BatchId;
use tidemill_core::broker::{Body, Broker, BrokerError, Deliveries, Delivery, Message, Permits, Queue, Settlement};
use tidemill_core::failpoint::reach;
use tidemill_core::outcome::Outcome;
use tidemill_core::segment::Segment;
use tidemill_core::store::{Store, StoreError, StoreErrorKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages in hand: enough that the broker's next ones are there when a write ends. Of large ones the broker hands out fewer.
const PERMITS: Permits = Permits(128);
/// Messages that are written together, and about how many bytes of outcomes: a round trip should not cost more than it
/// carries, and whoever reads waits for all of them.
const TOGETHER: usize = 64;
const TOGETHER_BYTES: usize = 512 << 10;
/// A message of a batch that nobody has opened goes round so often, for 36 hours in all: its opening may be in the hands of
/// another collector, which for the broker lives until heartbeats have been missed (20 s), or cannot reach the store.
const ROUNDS: u32 = 19;
/// How long the first round takes, at least; each further one takes twice as long.
const ROUND: Duration = Duration::from_millis(250);
/// How long nothing is recorded once the store has refused to, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long the store may take to do one thing. Longer than its client waits for an answer (30 s), so that this has connected
/// anew by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// Collects until `stop` is cancelled. Several collectors may run at once: recording is once per item. While the store does not
/// answer to this one, it takes nothing, and what it had goes back to the broker: another may reach it.
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
    let mut taking = stop.child_token();
    let consuming = broker.consume(Queue::Results, PERMITS, taking.clone());
    let Some(mut deliveries) = stop.run_until_cancelled(consuming).await.transpose()? else { return Ok(()) };
    while let Err(Silent) = collect_from(deliveries, broker, store, &landed, &taking, &stop).await {
        tracing::warn!(within = ?ANSWER_WITHIN, "the store has taken nothing, outcomes wait in the broker");
        let Some(again) = stop.run_until_cancelled(begin_again(broker, store, &stop)).await else { break };
        (deliveries, taking) = again;
    }
    Ok(())
}

/// Collects until nothing more comes, or the store does not answer. Then all that was taken has gone back to the broker.
async fn collect_from(
    mut deliveries: Deliveries,
    broker: &dyn Broker,
    store: &dyn Store,
    landed: &(impl Fn(&[Arc<Outcome>]) + Send),
    taking: &CancellationToken,
    stop: &CancellationToken,
) -> Result<(), Silent> {
    let (tell, mut gathered) = mpsc::channel(1);
    // The next messages are read and checked while the store writes these.
    let gathering = async move {
        while let Some(first) = deliveries.next().await {
            // Where nobody records any more it goes back, and the end of this comes next.
            drop(tell.send(gather(first, &mut deliveries)).await);
        }
    };
    let recording = async move {
        let mut pause = PAUSES.0;
        while let Some(deliveries) = gathered.recv().await {
            match record(broker, store, landed, deliveries).await {
                Ok(None) => pause = PAUSES.0,
                // A password that is changed, say. What is here has gone back to the broker, which keeps it.
                Ok(Some(reason)) => {
                    tracing::error!(reason, "the store refuses, outcomes wait in the broker");
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(Silent) => {
                    taking.cancel();
                    // With what was gathered for it.
                    drop(gathered);
                    return Err(Silent);
                }
            }
        }
        Ok(())
    };
    tokio::join!(gathering, recording).1
}

/// Begins to consume once the store answers again.
async fn begin_again(
    broker: &dyn Broker,
    store: &dyn Store,
    stop: &CancellationToken,
) -> (Deliveries, CancellationToken) {
    let mut pause = PAUSES.0;
    loop {
        let is_silent = match in_time(store.progress(&BatchId::new())).await {
            Err(Silent) => true,
            // What it says of a batch that nobody has made is an answer.
            Ok(said) => said.is_err_and(|error| error.is_transient()),
        };
        if !is_silent {
            let taking = stop.child_token();
            match broker.consume(Queue::Results, PERMITS, taking.clone()).await {
                Ok(deliveries) => return (deliveries, taking),
                Err(error) => tracing::warn!(%error, "cannot take outcomes, trying again"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
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

/// The store does not answer in time.
#[derive(Debug)]
struct Silent;

/// What the store, or the broker, says to what it is asked.
async fn in_time<T>(asking: impl Future<Output = T>) -> Result<T, Silent> {
    tokio::time::timeout(ANSWER_WITHIN, asking).await.map_err(|_| Silent)
}

/// Does what the messages say, in the order in which they came: what a batch begins with goes before its outcomes. Where the
/// store does not answer, all that is left goes back to the broker. Gives why it has refused something, if it has.
async fn record(
    broker: &dyn Broker,
    store: &dyn Store,
    landed: &(impl Fn(&[Arc<Outcome>]) + Send),
    deliveries: Vec<Delivery>,
) -> Result<Option<String>, Silent> {
    let mut refused = None;
    let mut segments = Vec::new();
    for delivery in deliveries {
        let result = match &delivery.message.body {
            Body::Segment(segment) => {
                let segment = segment.clone();
                segments.push((segment, delivery));
                continue;
            }
            Body::Open(batch) => in_time(store.open(batch)).await?,
            Body::Seal { batch, total } => {
                write(broker, store, &mut segments, &mut refused).await?;
                in_time(store.seal(batch, *total)).await?
            }
            Body::Outcomes { batch, outcomes } => {
                landed(outcomes);
                in_time(store.record(batch, outcomes)).await?
            }
            _ => {
                settle(delivery, Settlement::Reject("this is nothing for the queue of outcomes".into())).await;
                continue;
            }
        };
        conclude(broker, delivery, result, &mut refused).await;
    }
    write(broker, store, &mut segments, &mut refused).await?;
    Ok(refused)
}

/// Writes segments in as few round trips as can be, and acknowledges what was written.
async fn write(
    broker: &dyn Broker,
    store: &dyn Store,
    segments: &mut Vec<(Segment, Delivery)>,
    refused: &mut Option<String>,
) -> Result<(), Silent> {
    if segments.is_empty() {
        return Ok(());
    }
    let (segments, deliveries): (Vec<_>, Vec<_>) = std::mem::take(segments).into_iter().unzip();
    reach("collector.record.before");
    let results = in_time(store.record_segments(&segments)).await?;
    reach("collector.record.after");
    for (delivery, result) in deliveries.into_iter().zip(results) {
        conclude(broker, delivery, result, refused).await;
    }
    Ok(())
}

async fn conclude(
    broker: &dyn Broker,
    delivery: Delivery,
    result: Result<(), StoreError>,
    refused: &mut Option<String>,
) {
    let settlement = match result {
        Ok(()) => Settlement::Ack,
        Err(error) if error.kind == StoreErrorKind::Refused => {
            refused.get_or_insert_with(|| error.to_string());
            Settlement::Requeue
        }
        Err(error) if error.kind == StoreErrorKind::Unknown && delivery.message.rounds < ROUNDS => {
            tracing::debug!(%error, "outcomes of a batch that is not open yet");
            // The broker keeps it meanwhile: waiting here, or giving it back, would hold up the others.
            let rounds = delivery.message.rounds;
            let delay = ROUND * (1 << rounds);
            let again = Message { delay, rounds: rounds + 1, ..(*delivery.message).clone() };
            // A broker without memory takes nothing, and would get it back from what is recorded here meanwhile.
            match refused {
                Some(_) => Settlement::Requeue,
                None => match in_time(broker.publish(Queue::Results, again)).await {
                    Ok(Ok(())) => Settlement::Ack,
                    Ok(Err(_)) => Settlement::Requeue,
                    Err(Silent) => {
                        *refused = Some("the broker takes nothing that is to come again later".to_owned());
                        Settlement::Requeue
                    }
                },
            }
        }
        Err(error) => {
            tracing::warn!(%error, "a message could not be recorded");
            if error.is_transient() { Settlement::Requeue } else { Settlement::Reject(error.to_string()) }
        }
    };
    settle(delivery, settlement).await;
    reach("collector.ack.after");
}

async fn settle(delivery: Delivery, settlement: Settlement) {
    // What goes to the dead letters is published, for which the broker may have no memory.
    match in_time(delivery.settle(settlement)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "what was recorded could not be acknowledged, it will come again"),
        Err(Silent) => tracing::warn!("the broker does not hear what became of a message, it will come again"),
    }
}
