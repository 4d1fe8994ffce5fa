//! Letters: what the commands about the dead need of the broker itself.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex};
use tidemill_core::broker::rabbitmq::RabbitMq;
use tidemill_core::broker::{Body, Broker as _, Delivery, Message, Permits, Queue, Settlement};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::settings::Settings;
use tidemill_core::store::DeadItem;
use tidemill_core::task::Lane;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, broker_error};
use crate::error::{CliError, Exit};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Letters that are held at a time, and about how many bytes they may have where they are only looked at.
const AT_ONCE: Permits = Permits(500);
const BYTES_AT_ONCE: u64 = 64 << 20;

/// Publishes items of one batch again.
#[derive(Debug)]
pub(crate) struct Publisher {
    broker: RabbitMq,
    batch: Arc<Batch>,
    lane: Lane,
}

impl Publisher {
    /// Makes all ready that it takes, so that nothing is taken back that could not be published.
    pub(crate) async fn begin(settings: &Settings, batch: Batch) -> Result<Self, CliError> {
        let lane = lane_of(settings, &batch)?;
        let broker = cluster::broker(settings, "dead", Some(PATIENCE), None)?;
        cluster::ready(&broker, Some(PATIENCE)).await?;
        Ok(Self { broker, batch: Arc::new(batch), lane })
    }

    /// Publishes one item, as its first attempt; it returns once the broker has it.
    pub(crate) async fn publish(&self, item: &DeadItem) -> Result<(), CliError> {
        let DeadItem { index, input, name, source, .. } = item.clone();
        let items = vec![Item { index: ItemIndex(index), input, name, source }];
        let chunk = Chunk { batch: Arc::clone(&self.batch), attempt: Attempt::FIRST, items };
        let message = Message::new(Body::Chunk(chunk), self.batch.priority);
        self.broker.publish(Queue::Jobs(self.lane), message).await.map_err(|error| broker_error(&error))
    }
}

/// The lane of a batch's task with its options.
fn lane_of(settings: &Settings, batch: &Batch) -> Result<Lane, CliError> {
    let register = crate::register(settings, None);
    let unknown = |problem: String| {
        CliError::new(Exit::Configuration, format!("batch {}: {problem}", batch.id))
            .hint("nothing was taken back; give the command where the cluster's version and its models are")
    };
    let kind = register.find(&batch.task).map_err(|error| unknown(format!("{error} here")))?;
    let job = kind
        .prepare(&batch.options)
        .map_err(|invalid| unknown(format!("its options are not valid here: {invalid}")))?;
    Ok(job.lane())
}

/// A message that nobody could work on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Letter {
    /// Why it lies there.
    pub(crate) reason: String,
    /// Its batch, where it could be read so far.
    pub(crate) batch: Option<BatchId>,
    pub(crate) bytes: u64,
    /// How it begins.
    pub(crate) beginning: String,
}

impl Letter {
    fn of(message: &Message) -> Self {
        let bodies = tidemill_core::wire::encode(&message.body);
        let text = bodies.first().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned());
        Self {
            reason: message.refusal.clone().unwrap_or_default(),
            batch: message.body.batch().cloned(),
            bytes: bodies.iter().map(|bytes| bytes.len() as u64).sum(),
            beginning: text.unwrap_or_default(),
        }
    }
}

/// Some of the messages that nobody could work on.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    pub(crate) first: Vec<Letter>,
    /// How many there are in all.
    pub(crate) total: u64,
}

/// The messages that nobody could work on, the first `limit` or as many as can be held. They stay where they are.
pub(crate) async fn list(settings: &Settings, limit: usize) -> Result<Letters, CliError> {
    let (mut first, mut held, mut bytes) = (Vec::new(), Vec::new(), 0);
    let (_, total) = each(settings, |delivery| {
        let letter = Letter::of(&delivery.message);
        bytes += letter.bytes;
        first.push(letter);
        // Given back only at the end: it would come again at once.
        held.push(delivery);
        first.len() < limit.min(AT_ONCE.0) && bytes < BYTES_AT_ONCE
    })
    .await?;
    first.truncate(limit);
    Ok(Letters { first, total })
}

/// Throws away the messages that nobody could work on.
pub(crate) async fn drop_all(settings: &Settings) -> Result<Exit, CliError> {
    let mut dropped = Vec::new();
    let (broker, _) = each(settings, |delivery| {
        dropped.push(tokio::spawn(delivery.settle(Settlement::Ack)));
        true
    })
    .await?;
    let count = dropped.len();
    for settled in dropped {
        if let Ok(Err(error)) = settled.await {
            return Err(broker_error(&error));
        }
    }
    // What was settled may still be on its way out.
    broker.flush().await;
    let messages = if count == 1 { "1 message".to_owned() } else { format!("{count} messages") };
    crate::tasks::print(&format!("{messages} thrown away\n"))
}

/// Hands over the letters that lie there now, until it says that it has enough; gives how many there were.
async fn each(settings: &Settings, mut take: impl FnMut(Delivery) -> bool) -> Result<(RabbitMq, u64), CliError> {
    let broker = cluster::broker(settings, "dead", Some(PATIENCE), None)?;
    cluster::ready(&broker, Some(PATIENCE)).await?;
    let failed = |error| broker_error(&error);
    let total = broker.depth(Queue::Dead).await.map_err(failed)?;
    let mut left = total;
    let mut deliveries = broker.consume(Queue::Dead, AT_ONCE, CancellationToken::new()).await.map_err(failed)?;
    while left > 0 {
        match tokio::time::timeout(PATIENCE, deliveries.next()).await {
            Ok(Some(delivery)) => {
                left -= 1;
                if !take(delivery) {
                    break;
                }
            }
            Ok(None) => break,
            // If none waits there, somebody else has them in hand.
            Err(_silent) => match broker.depth(Queue::Dead).await.map_err(failed)? {
                0 => break,
                left => return Err(unmoved(left)),
            },
        }
    }
    Ok((broker, total))
}

fn unmoved(left: u64) -> CliError {
    let problem = format!("the broker holds {left} dead messages and has handed out none for {} s", PATIENCE.as_secs());
    CliError::new(Exit::Unreachable, problem).hint("it may be busy, or out of memory or disk; try again later")
}
