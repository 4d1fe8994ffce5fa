//! Held: a message in a consumer's hands, until it is settled.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::settle::Settled;
use super::{RabbitMq, message};
use crate::broker::{Broker as _, BrokerError, Message, Queue, Settle, Settlement};

/// When a message comes again that can neither be read nor be brought to the dead letters.
const UNREADABLE_AGAIN: Duration = Duration::from_secs(1);

/// A message in a consumer's hands.
pub(super) struct Held {
    pub(super) broker: RabbitMq,
    pub(super) tag: u64,
    pub(super) settler: mpsc::Sender<Settled>,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
    pub(super) body: Option<Arc<Message>>,
    pub(super) kind: Option<String>,
}

impl Held {
    /// Brings a message that cannot be read to the dead letters, and only then acknowledges it. Where it cannot be brought
    /// there, it comes again.
    pub(super) async fn bury(self, bytes: bytes::Bytes, reason: &str) {
        let route = self.broker.topology.dead();
        let brought = self.broker.post(message::dead(bytes, self.kind.as_deref(), reason, route)).await;
        if let Err(error) = brought {
            tracing::warn!(%error, "a message that cannot be read could not be brought to the dead letters");
            tokio::time::sleep(UNREADABLE_AGAIN).await;
            return self.tell(Settled::GiveBack(self.tag)).await;
        }
        self.tell(Settled::Ack(self.tag)).await;
    }

    /// An error means that the channel is gone, and with it the claim on the delivery: it will come again.
    async fn tell(&self, settled: Settled) {
        drop(self.settler.send(settled).await);
    }
}

#[async_trait]
impl Settle for Held {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        match settlement {
            Settlement::Ack => self.tell(Settled::Ack(self.tag)).await,
            Settlement::Requeue => self.tell(Settled::GiveBack(self.tag)).await,
            Settlement::Reject(reason) => {
                if let Some(message) = &self.body {
                    let message = Message { refusal: Some(reason), ..(**message).clone() };
                    if let Err(error) = self.broker.publish(Queue::Dead, message).await {
                        tokio::time::sleep(UNREADABLE_AGAIN).await;
                        self.tell(Settled::GiveBack(self.tag)).await;
                        return Err(error);
                    }
                }
                self.tell(Settled::Ack(self.tag)).await;
            }
        }
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        if self.settler.try_send(Settled::GiveBack(self.tag)).is_err() {
            // The channel of settlements is as long as any prefetch: only a broken one takes no more.
            tracing::debug!("a delivery goes back with its channel");
        }
    }
}
