//! The broker inside the process: bounded queues in memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::{
    Body, Broker, BrokerError, Deliveries, Delivery, Incoming, Message, Notice, Notices, Permits, Queue, Settle,
    Settlement,
};
use crate::batch::Priority;
use crate::lock::lock;

/// Notices that a slow listener may lag behind by; they are few (one per cancelled batch).
const NOTICES: usize = 1024;

/// Queues in memory, gone with the process.
#[derive(Debug)]
pub struct Embedded {
    max_queue_bytes: u64,
    queues: Mutex<BTreeMap<Queue, Arc<Line>>>,
    notices: broadcast::Sender<Notice>,
}

/// One queue.
#[derive(Debug, Default)]
struct Line {
    waiting: Mutex<Waiting>,
    /// Told once for each message that arrives.
    arrived: Notify,
    /// Told when messages have left and there is room again.
    left: Notify,
}

/// What waits in a queue. The key is the order of delivery: priority, then age.
#[derive(Debug, Default)]
struct Waiting {
    messages: BTreeMap<(Reverse<Priority>, u64), Entry>,
    bytes: u64,
    published: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    message: Arc<Message>,
    /// Its age within the queue; kept when it is given back, so that it is next again.
    number: u64,
    redelivered: u32,
    bytes: u64,
}

impl Embedded {
    /// Makes a broker whose queues each hold back publishers once `max_queue_bytes` wait in them.
    pub fn new(max_queue_bytes: u64) -> Self {
        Self { max_queue_bytes, queues: Mutex::default(), notices: broadcast::Sender::new(NOTICES) }
    }

    fn line(&self, queue: Queue) -> Arc<Line> {
        Arc::clone(lock(&self.queues).entry(queue).or_default())
    }
}

impl Line {
    fn push(&self, message: Arc<Message>) {
        let mut waiting = lock(&self.waiting);
        waiting.published += 1;
        let (number, bytes) = (waiting.published, message.body.weight_bytes());
        waiting.insert(Entry { message, number, redelivered: 0, bytes });
        drop(waiting);
        self.arrived.notify_one();
    }

    fn give_back(&self, mut entry: Entry) {
        entry.redelivered += 1;
        lock(&self.waiting).insert(entry);
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Entry> {
        let (_, entry) = {
            let mut waiting = lock(&self.waiting);
            let next = waiting.messages.pop_first()?;
            waiting.bytes -= next.1.bytes;
            next
        };
        self.left.notify_one();
        Some(entry)
    }

    /// Resolves when there is room: fewer than `max` bytes wait.
    async fn room(&self, max: u64) {
        loop {
            let left = self.left.notified();
            if lock(&self.waiting).bytes < max {
                // There may be room for the next publisher too; it was told once for this one.
                self.left.notify_one();
                return;
            }
            left.await;
        }
    }
}

impl Waiting {
    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.messages.insert((Reverse(entry.message.priority), entry.number), entry);
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn publish(&self, queue: Queue, message: Message) -> Result<(), BrokerError> {
        let line = self.line(queue);
        if !message.delay.is_zero() {
            let (delay, message, mut notices) = (message.delay, Arc::new(message), self.notices().await?);
            tokio::spawn(async move {
                // What was cancelled need not wait: its outcome is due now.
                let cancelled = async {
                    while let Some(notice) = notices.next().await {
                        let Notice::Cancel(batch) = notice else { continue };
                        if Some(&batch) == message.body.batch() {
                            return;
                        }
                    }
                    std::future::pending().await
                };
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = cancelled => {}
                }
                line.push(message);
            });
            return Ok(());
        }
        if matches!(message.body, Body::Chunk(_)) {
            line.room(self.max_queue_bytes).await;
        }
        line.push(Arc::new(message));
        Ok(())
    }

    async fn consume(
        &self,
        queue: Queue,
        permits: Permits,
        stop: CancellationToken,
    ) -> Result<Deliveries, BrokerError> {
        Ok(Box::new(Consumer {
            line: self.line(queue),
            dead: self.line(Queue::Dead),
            permits: Arc::new(Semaphore::new(permits.0)),
            stop,
        }))
    }

    async fn take_one(&self, queue: Queue) -> Result<Option<Delivery>, BrokerError> {
        let (line, dead) = (self.line(queue), self.line(Queue::Dead));
        Ok(line.pop().map(|entry| hand_out(&line, &dead, entry, None)))
    }

    async fn depth(&self, queue: Queue) -> Result<u64, BrokerError> {
        Ok(lock(&self.line(queue).waiting).messages.len() as u64)
    }

    async fn announce(&self, notice: Notice) -> Result<(), BrokerError> {
        // An error means that nobody listens, which is no trouble.
        drop(self.notices.send(notice));
        Ok(())
    }

    async fn notices(&self) -> Result<Notices, BrokerError> {
        Ok(Box::new(Listener(self.notices.subscribe())))
    }
}

struct Consumer {
    line: Arc<Line>,
    dead: Arc<Line>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Consumer {
    async fn take(&self) -> Option<Delivery> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        loop {
            let arrived = self.line.arrived.notified();
            if let Some(entry) = self.line.pop() {
                return Some(hand_out(&self.line, &self.dead, entry, Some(permit)));
            }
            arrived.await;
        }
    }
}

fn hand_out(line: &Arc<Line>, dead: &Arc<Line>, entry: Entry, permit: Option<OwnedSemaphorePermit>) -> Delivery {
    let (message, redelivered) = (Arc::clone(&entry.message), entry.redelivered);
    let held = Held { line: Arc::clone(line), dead: Arc::clone(dead), entry, _permit: permit };
    Delivery::new(message, redelivered, Box::new(held))
}

#[async_trait]
impl Incoming<Delivery> for Consumer {
    async fn next(&mut self) -> Option<Delivery> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            delivery = self.take() => delivery,
        }
    }
}

/// A message in a consumer's hands.
struct Held {
    line: Arc<Line>,
    dead: Arc<Line>,
    entry: Entry,
    _permit: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Settle for Held {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        match settlement {
            Settlement::Ack => {}
            Settlement::Requeue => self.abandon(),
            Settlement::Reject(reason) => {
                let message = Message { refusal: Some(reason), ..(*self.entry.message).clone() };
                self.dead.push(Arc::new(message));
            }
        }
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        self.line.give_back(self.entry);
    }
}

struct Listener(broadcast::Receiver<Notice>);

#[async_trait]
impl Incoming<Notice> for Listener {
    async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.0.recv().await {
                Ok(notice) => return Some(notice),
                Err(broadcast::error::RecvError::Lagged(missed)) => tracing::warn!(missed, "notices were missed"),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::conformance;

    crate::broker_conformance!(|| async { Arc::new(Embedded::new(1 << 20)) as Arc<dyn Broker> });

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_holds_back_whoever_publishes_work() {
        let broker = Arc::new(Embedded::new(100));
        let queue = Queue::Jobs(crate::task::Lane::Cpu);
        broker.publish(queue, conformance::work(0)).await.unwrap();

        let second =
            tokio::time::timeout(std::time::Duration::from_secs(1), broker.publish(queue, conformance::work(1)));
        assert!(second.await.is_err(), "the queue is full, so the publisher waits");

        let mut deliveries = broker.consume(queue, Permits(1), CancellationToken::new()).await.unwrap();
        let waiting = tokio::spawn({
            let broker = Arc::clone(&broker);
            async move { broker.publish(queue, conformance::work(2)).await }
        });
        deliveries.next().await.unwrap().settle(Settlement::Ack).await.unwrap();
        waiting.await.unwrap().unwrap();
    }
}
