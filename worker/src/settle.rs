//! Settle: the only place that tells the broker what becomes of a delivery.

use tidemill_core::broker::{Broker, BrokerError, Delivery, Settlement};

use crate::Verdict;
use crate::report::{report, run_again};

/// Publishes what the verdict holds, confirmed, and only then settles. Where the broker does not take it, the
/// delivery is given back and will come again: recording is once, so that does no harm.
pub(crate) async fn settle(broker: &dyn Broker, delivery: Delivery, verdict: Verdict) {
    let settled = match verdict {
        Verdict::Done { batch, outcomes, again } => {
            let published = async {
                report(broker, batch, outcomes).await?;
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
        Verdict::Reject(refusal) => {
            tracing::warn!(reason = refusal.0, "refused a message");
            delivery.settle(Settlement::Reject(refusal.0)).await
        }
        Verdict::HandBack => delivery.settle(Settlement::Requeue).await,
    };
    if let Err(error) = settled {
        tracing::warn!(%error, "a delivery could not be settled, it will come again");
    }
}

async fn give_back(delivery: Delivery, error: &BrokerError) -> Result<(), BrokerError> {
    tracing::warn!(%error, "outcomes could not be published, the delivery is given back");
    delivery.settle(Settlement::Requeue).await
}
