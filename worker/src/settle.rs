//! Settle: the only place that tells the broker what becomes of a delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_core::batch::Attempt;
use tidemill_core::broker::{Body, BrokerError, Delivery, Message, Settlement};
use tidemill_core::chunk::Item;

use tidemill_core::failpoint::reach;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};

use crate::report::{run_again, suspect};
use crate::{Refusal, Verdict, Worker};

/// Publishes what the verdict holds, confirmed, and only then settles. Where the broker does not take it, the
/// delivery is given back and will come again: recording is once, so that does no harm.
pub(crate) async fn settle(worker: &Worker, delivery: Delivery, verdict: Verdict) {
    let broker = &*worker.broker;
    let settled = match verdict {
        Verdict::Done { batch, outcomes, again } => {
            let published = async {
                worker.tally.items.fetch_add(outcomes.len() as u64, Ordering::Relaxed);
                reach("worker.report.before");
                worker.reporter.report(batch, outcomes, delivery.message.reply_to.clone()).await?;
                reach("worker.report.after");
                match again {
                    Some(again) => run_again(broker, again).await,
                    None => Ok(()),
                }
            };
            match published.await {
                Ok(()) => delivery.settle(Settlement::Ack).await,
                Err(error) => give_back(delivery, &error).await,
            }
        }
        Verdict::Suspect(suspected) => match suspect(broker, suspected.lane, suspected.chunks).await {
            Ok(()) => delivery.settle(Settlement::Ack).await,
            Err(error) => give_back(delivery, &error).await,
        },
        Verdict::Reject(refusal) => {
            tracing::warn!(reason = refusal.0, "refused a message");
            match refused(worker, Arc::clone(&delivery.message), &refusal).await {
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

/// Gives the items of a chunk that is not run their outcomes: their batch would never be complete.
async fn refused(worker: &Worker, message: Arc<Message>, refusal: &Refusal) -> Result<(), BrokerError> {
    let Body::Chunk(chunk) = &message.body else { return Ok(()) };
    let maker = Arc::new(Maker { worker: worker.setup.name.clone(), device: "cpu".into() });
    let outcome = |item: &Item| {
        Arc::new(Outcome {
            index: item.index,
            input: item.input.clone(),
            name: item.name.clone(),
            source: item.lasting_source(),
            ending: Ending::Failed(Failure::permanent("refused", refusal.0.clone())),
            attempts: Attempt(0),
            maker: Arc::clone(&maker),
            queued: Duration::ZERO,
            run: Duration::ZERO,
        })
    };
    let outcomes = chunk.items.iter().map(outcome).collect();
    worker.reporter.report(chunk.batch.id.clone(), outcomes, message.reply_to.clone()).await
}

async fn give_back(delivery: Delivery, error: &BrokerError) -> Result<(), BrokerError> {
    tracing::warn!(%error, "outcomes could not be published, the delivery is given back");
    delivery.settle(Settlement::Requeue).await
}
