//! Queues of one's own: what is announced to everybody, and what is said straight to whoever waits here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use lapin::Consumer;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::Live;
use super::{RabbitMq, message};
use crate::broker::{BrokerError, Incoming, Notices, Replies, ReplyTo};
use crate::lock::lock;
use crate::wire::Malformed;

/// Notices that a slow listener may lag behind by.
const NOTICES: usize = 1024;
/// Replies that wait to be heard, 256 KiB each at most; more are let go.
const REPLIES: usize = 64;

/// Listens to what is announced; see [`crate::broker::Broker::notices`].
pub(super) async fn notices(broker: &RabbitMq) -> Result<Notices, BrokerError> {
    let own = Own {
        broker: broker.clone(),
        exchange: Some(broker.topology.control().exchange),
        read: |data| message::read_notice(&data),
        named: None,
    };
    own.listen(NOTICES).await
}

/// Takes in replies; see [`crate::broker::Broker::replies`].
pub(super) async fn replies(broker: &RabbitMq) -> Result<Replies, BrokerError> {
    let own = Own {
        broker: broker.clone(),
        exchange: None,
        read: message::read_reply,
        named: Some(Arc::clone(&broker.reply_to)),
    };
    own.listen(REPLIES).await
}

/// A queue of one's own, which goes with the connection, and comes again with the next.
struct Own<T> {
    broker: RabbitMq,
    /// What it is bound to.
    exchange: Option<String>,
    read: fn(Vec<u8>) -> Result<T, Malformed>,
    /// Where its name is told, while it is there. What comes to such a queue may be lost, and is, where it comes too fast.
    named: Option<Arc<Mutex<Option<ReplyTo>>>>,
}

impl<T: Send + 'static> Own<T> {
    /// Listens until the listener is dropped.
    async fn listen(self, room: usize) -> Result<Box<dyn Incoming<T>>, BrokerError> {
        let (tell, heard) = mpsc::channel(room);
        let until = self.broker.patience.map(|patience| Instant::now() + patience);
        let live = self.broker.consuming.get().live(until).await?;
        let consumer = self.open(&live).await.ok();
        tokio::spawn(async move {
            self.pass_on(live, consumer, &tell).await;
            self.name(None);
        });
        Ok(Box::new(Listener(heard)))
    }

    async fn pass_on(&self, mut live: Arc<Live>, mut consumer: Option<Consumer>, tell: &mpsc::Sender<T>) {
        loop {
            while let Some(listening) = &mut consumer {
                let next = tokio::select! {
                    next = listening.next() => next,
                    () = tell.closed() => return,
                    () = live.broken.cancelled() => None,
                };
                match next.and_then(Result::ok).map(|delivery| (self.read)(delivery.data)) {
                    Some(Ok(said)) if self.named.is_some() => drop(tell.try_send(said)),
                    Some(Ok(said)) => {
                        if tell.send(said).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(reason)) => tracing::warn!(%reason, "what came to a queue of our own cannot be read"),
                    None => consumer = None,
                }
            }
            self.name(None);
            tokio::select! {
                () = tell.closed() => return,
                again = self.broker.consuming.get().live(None) => match again {
                    Ok(again) => live = again,
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                },
            }
            consumer = self.open(&live).await.ok();
            if consumer.is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn open(&self, live: &Live) -> Result<Consumer, lapin::Error> {
        let channel = live.connection.create_channel().await?;
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
        let name = queue.name().clone();
        if let Some(exchange) = &self.exchange {
            let (exchange, options) = (exchange.as_str().into(), QueueBindOptions::default());
            channel.queue_bind(name.clone(), exchange, "".into(), options, FieldTable::default()).await?;
        }
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consumer = channel.basic_consume(name.clone(), "".into(), unacknowledged, FieldTable::default()).await?;
        self.name(ReplyTo::new(name.as_str()));
        Ok(consumer)
    }

    fn name(&self, name: Option<ReplyTo>) {
        if let Some(named) = &self.named {
            *lock(named) = name;
        }
    }
}

struct Listener<T>(mpsc::Receiver<T>);

#[async_trait]
impl<T: Send> Incoming<T> for Listener<T> {
    async fn next(&mut self) -> Option<T> {
        self.0.recv().await
    }
}
