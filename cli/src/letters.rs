//! Letters: what the commands about the dead need of the broker itself.

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::{Attempt, ItemIndex};
use tidemill_core::broker::rabbitmq::RabbitMq;
use tidemill_core::broker::{Body, Broker as _, Message, Permits, Queue, Settlement};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::settings::Settings;
use tidemill_core::store::DeadItem;
use tidemill_core::task::Register;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::cluster;
use crate::error::{CliError, Exit};
use crate::tasks::print;

/// Messages in hand while they are thrown away.
const PERMITS: Permits = Permits(64);
/// A queue that gives nothing for so long is empty.
const EMPTY_AFTER: Duration = Duration::from_secs(1);

/// Publishes items again.
pub(crate) struct Publisher {
    broker: RabbitMq,
    register: Register,
}

impl Publisher {
    /// Connects, so that nothing is taken back while the broker is away.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, CliError> {
        Ok(Self { broker: connect(settings).await?, register: crate::register(settings, None) })
    }

    /// Publishes one item of its batch, as its first attempt; it returns once the broker has it.
    pub(crate) async fn publish(&self, client: &Client, item: &DeadItem) -> Result<(), CliError> {
        let batch = Arc::new(client.batch(&item.batch).await?.batch);
        let unknown = |reason: String| CliError::new(Exit::Configuration, reason);
        let kind = self.register.find(&batch.task).map_err(|error| unknown(error.to_string()))?;
        let job = kind.prepare(&batch.options).map_err(|error| unknown(error.to_string()))?;
        let priority = batch.priority;
        let items = vec![Item { index: ItemIndex(item.index), input: item.input.clone(), name: None, source: None }];
        let chunk = Chunk { batch, attempt: Attempt::FIRST, items };
        let message = Message::new(Body::Chunk(chunk), priority);
        self.broker.publish(Queue::Jobs(job.lane()), message).await.map_err(|error| cluster::broker_error(&error))
    }
}

/// Throws away the messages that nobody could read.
pub(crate) async fn drop_all(settings: &Settings) -> Result<Exit, CliError> {
    let broker = connect(settings).await?;
    let failed = |error| cluster::broker_error(&error);
    let stop = CancellationToken::new();
    let mut letters = broker.consume(Queue::Dead, PERMITS, stop.clone()).await.map_err(failed)?;
    let mut dropped: u64 = 0;
    while let Ok(Some(letter)) = tokio::time::timeout(EMPTY_AFTER, letters.next()).await {
        letter.settle(Settlement::Ack).await.map_err(failed)?;
        dropped += 1;
    }
    stop.cancel();
    print(&format!("{dropped} messages thrown away\n"))
}

async fn connect(settings: &Settings) -> Result<RabbitMq, CliError> {
    let patience = Some(settings.submit.patience);
    let broker = cluster::broker(settings, "dead", patience)?;
    cluster::ready(&broker, patience).await?;
    Ok(broker)
}
