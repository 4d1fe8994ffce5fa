//! Settle: the only place that tells the broker what becomes of a delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_core::batch::{Attempt, BatchId};
use tidemill_core::broker::{
    Body, BrokerError, BrokerErrorKind, Delivery, EXPRESS_WAIT, MAX_EXPRESS_BYTES, Message, Reply, Settlement,
};
use tidemill_core::chunk::Item;
use tidemill_core::failpoint::reach;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome, Status};
use tidemill_core::segment::Segment;
use tokio_util::sync::CancellationToken;

use crate::report::{run_again, suspect};
use crate::{Again, Refusal, Verdict, Worker};

/// The first pause before the broker is asked again to take what it refused, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Items of a refused chunk whose outcomes are made at a time: each has the reason, and a chunk may have 700,000.
const REFUSED: usize = 4096;

/// Publishes what the verdict holds, confirmed, and only then settles. Where the broker does not take it until
/// `stop_working`, the delivery is given back and will come again: recording is once, so that does no harm.
pub(crate) async fn settle(worker: &Worker, delivery: Delivery, verdict: Verdict, stop_working: &CancellationToken) {
    let broker = &*worker.broker;
    let settled = match verdict {
        Verdict::Done { batch, outcomes, again } => {
            match report(worker, &batch, &outcomes, again.as_ref(), stop_working).await {
                Ok(()) => delivery.settle(Settlement::Ack).await,
                Err(error) => give_back(delivery, &error).await,
            }
        }
        Verdict::Suspect(suspected) => match insist(stop_working, || suspect(broker, &suspected)).await {
            Ok(()) => delivery.settle(Settlement::Ack).await,
            Err(error) => give_back(delivery, &error).await,
        },
        Verdict::Reject(refusal) => {
            tracing::warn!(reason = refusal.0, "refused a message");
            match insist(stop_working, || refused(worker, &delivery.message, &refusal)).await {
                Ok(()) => delivery.settle(Settlement::Reject(refusal.0)).await,
                Err(error) => give_back(delivery, &error).await,
            }
        }
        Verdict::HandBack => delivery.settle(Settlement::Requeue).await,
    };
    reach("worker.settle.after");
    if let Err(error) = settled {
        tracing::warn!(%error, "a delivery could not be settled, it will come again");
    }
}

/// Publishes outcomes, and what is to run again; resolves once the broker has both.
async fn report(
    worker: &Worker,
    batch: &BatchId,
    outcomes: &[Arc<Outcome>],
    again: Option<&Again>,
    stop_working: &CancellationToken,
) -> Result<(), BrokerError> {
    worker.tally.items.fetch_add(outcomes.len() as u64, Ordering::Relaxed);
    reach("worker.report.before");
    insist(stop_working, || worker.reporter.report(batch.clone(), outcomes.to_vec())).await?;
    reach("worker.report.after");
    match again {
        Some(again) => insist(stop_working, || run_again(&*worker.broker, again)).await,
        None => Ok(()),
    }
}

/// Tells whoever waits what a delivery of [`Queue::Express`](tidemill_core::broker::Queue::Express) came to. They have its item
/// too, and publish it for good where it came to nothing here.
pub(crate) async fn reply(
    worker: &Worker,
    delivery: Delivery,
    verdict: Verdict,
    is_long: bool,
    stop_working: &CancellationToken,
) {
    let reply = match verdict {
        Verdict::Done { batch, outcomes, again } => match &Segment::encode(&batch, &outcomes)[..] {
            // Nobody takes the dead from a reply. And who has waited for long may wait elsewhere by now.
            [one] if again.is_none() && !is_long && is_short(one) && one.counts()[Status::Dead as usize] == 0 => {
                worker.tally.items.fetch_add(one.len(), Ordering::Relaxed);
                Some(Reply::Outcomes(one.clone()))
            }
            _ => match report(worker, &batch, &outcomes, again.as_ref(), stop_working).await {
                Ok(()) => Some(Reply::Passed(batch)),
                Err(_) => Some(Reply::Declined(batch)),
            },
        },
        Verdict::Suspect(_) | Verdict::Reject(_) | Verdict::HandBack => {
            delivery.message.body.batch().cloned().map(Reply::Declined)
        }
    };
    if let (Some(to), Some(reply)) = (&delivery.message.reply_to, reply) {
        reach("worker.reply.before");
        // Lost where it cannot be sent in time: then it is asked for.
        drop(tokio::time::timeout(EXPRESS_WAIT, worker.broker.reply(to, reply)).await);
    }
    if let Err(error) = delivery.settle(Settlement::Ack).await {
        tracing::debug!(%error, "what was answered could not be acknowledged");
    }
}

fn is_short(segment: &Segment) -> bool {
    segment.bytes().len() <= MAX_EXPRESS_BYTES
}

/// Gives the items of a chunk that is not run their outcomes: their batch would never be complete.
async fn refused(worker: &Worker, message: &Message, refusal: &Refusal) -> Result<(), BrokerError> {
    let Body::Chunk(chunk) = &message.body else { return Ok(()) };
    let maker = Arc::new(Maker { worker: worker.setup.name.clone(), device: "cpu".into() });
    let outcome = |item: &Item| {
        let ending = Ending::Failed(Failure::permanent("refused", refusal.0.clone()));
        Arc::new(Outcome::of(item, ending, Attempt(0), &maker))
    };
    for items in chunk.items.chunks(REFUSED) {
        let outcomes = items.iter().map(outcome).collect();
        worker.reporter.report(chunk.batch.id.clone(), outcomes).await?;
    }
    Ok(())
}

/// Publishes until the broker takes it, or nothing is worked on any more. A queue that is full or was deleted is an outage
/// like another: given back at once, a chunk would run again and again for nothing, and count as if it ended its workers.
async fn insist<P>(stop_working: &CancellationToken, publish: impl Fn() -> P) -> Result<(), BrokerError>
where
    P: Future<Output = Result<(), BrokerError>>,
{
    use BrokerErrorKind::{Blocked, Mismatch, Refused, Unroutable};
    let mut pause = PAUSES.0;
    loop {
        let error = match publish().await {
            Err(error) if matches!(error.kind, Refused | Unroutable | Mismatch | Blocked) => error,
            published => return published,
        };
        tracing::warn!(%error, "the broker does not take what became of a delivery, trying again");
        if stop_working.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(error);
        }
        pause = (2 * pause).min(PAUSES.1);
    }
}

async fn give_back(delivery: Delivery, error: &BrokerError) -> Result<(), BrokerError> {
    tracing::warn!(%error, "outcomes could not be published, the delivery is given back");
    delivery.settle(Settlement::Requeue).await
}
