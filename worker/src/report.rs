//! Report: publishes what a delivery came to, confirmed.

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::{BatchId, Priority};
use tidemill_core::broker::{Body, Broker, BrokerError, Message, Queue};
use tidemill_core::outcome::Outcome;

use crate::Again;

/// Publishes the outcomes; resolves once the broker has them.
pub(crate) async fn report(
    broker: &dyn Broker,
    batch: BatchId,
    outcomes: Vec<Arc<Outcome>>,
) -> Result<(), BrokerError> {
    if outcomes.is_empty() {
        return Ok(());
    }
    broker.publish(Queue::Results, Message::new(Body::Outcomes { batch, outcomes }, Priority::default())).await
}

/// Publishes what is to run again; resolves once the broker has it.
pub(crate) async fn run_again(broker: &dyn Broker, again: Again) -> Result<(), BrokerError> {
    let Again { chunk, lane, delay } = again;
    let priority = chunk.batch.priority;
    // A delay of nothing would be held to the queue's bound; see Broker::publish.
    let delay = delay.max(Duration::from_millis(1));
    broker.publish(Queue::Jobs(lane), Message { delay, ..Message::new(Body::Chunk(chunk), priority) }).await
}
