//! The collector: writes outcomes to the store, then acknowledges.

use std::sync::Arc;

use tidemill_core::broker::{Body, Broker, BrokerError, Message, Permits, Queue, Settlement};
use tidemill_core::outcome::Outcome;
use tidemill_core::store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// Messages in hand: enough that the broker's next one is there when a write ends.
const PERMITS: Permits = Permits(64);

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
    let mut deliveries = broker.consume(Queue::Results, PERMITS, stop).await?;
    while let Some(delivery) = deliveries.next().await {
        if let Body::Outcomes { outcomes, .. } = &delivery.message.body {
            landed(outcomes);
        }
        let settlement = record(store, &delivery.message).await;
        if let Err(error) = delivery.settle(settlement).await {
            tracing::warn!(%error, "outcomes were recorded but not acknowledged, they will come again");
        }
    }
    Ok(())
}

async fn record(store: &dyn Store, message: &Message) -> Settlement {
    let Body::Outcomes { batch, outcomes } = &message.body else {
        return Settlement::Reject("work lies in the queue for outcomes".into());
    };
    match store.record(batch, outcomes).await {
        Ok(()) => Settlement::Ack,
        Err(error) => trouble(&error),
    }
}

fn trouble(error: &StoreError) -> Settlement {
    tracing::warn!(%error, "outcomes could not be recorded");
    if error.is_transient() { Settlement::Requeue } else { Settlement::Reject(error.to_string()) }
}
