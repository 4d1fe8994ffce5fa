//! Send: a batch on its way out, a few messages under way at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, stream};
use tidemill_core::batch::{Attempt, Batch, Priority};
use tidemill_core::broker::{Body, BrokerError, Message, Queue};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::failpoint::reach;
use tidemill_core::outcome::Outcome;
use tidemill_core::task::Lane;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sieve::Sieve;
use super::{NotReady, ProduceError, Producer, Ready, UnderWay};
use crate::cut::Cutter;
use crate::inputs::{Input, Inputs};
use crate::window::Window;

/// How long the first item of a chunk waits for the others.
const LINGER: Duration = Duration::from_millis(20);
/// Inputs that are made ready at the same time.
const READYING: usize = 8;

/// A message that has come to its end: its number, its bytes, and whether the broker has it.
type Landed = (u64, u64, Result<(), BrokerError>);

/// One batch on its way out.
pub(super) struct Sending<'p, 'a> {
    producer: &'p Producer<'a>,
    batch: Arc<Batch>,
    queue: Queue,
    flying: FuturesUnordered<BoxFuture<'p, Landed>>,
    bytes: u64,
    /// Messages in the order of publishing: whether each is confirmed, and how many items are accepted with it.
    order: VecDeque<(u64, bool)>,
    /// The number of the message at the front of `order`.
    front: u64,
    /// What refusals took of the window that lie behind items that are not published yet: whoever reads in order cannot
    /// give it back before these have come.
    behind: u64,
}

impl<'p, 'a> Sending<'p, 'a> {
    pub(super) fn new(producer: &'p Producer<'a>, batch: &Arc<Batch>, lane: Lane) -> Self {
        Self {
            producer,
            batch: Arc::clone(batch),
            queue: Queue::Jobs(lane),
            flying: FuturesUnordered::new(),
            bytes: 0,
            order: VecDeque::new(),
            front: 0,
            behind: 0,
        }
    }

    /// The next inputs, `Some(None)` at their end, `None` when it was stopped. While the window is full or the inputs
    /// are slow, what was cut so far goes out: whoever reads in order may be waiting for just that.
    ///
    /// Only waiting for inputs is broken off by `stop`: a chunk that was cut is published, or its items were lost.
    pub(super) async fn next(
        &mut self,
        inputs: &mut Inputs,
        cutter: &mut Cutter,
        stop: &CancellationToken,
    ) -> Result<Option<Option<Vec<Input>>>, ProduceError> {
        let window = self.producer.window;
        if !window.is_some_and(Window::is_full) {
            let until = cutter.begun().unwrap_or_else(Instant::now) + LINGER;
            match stop.run_until_cancelled(tokio::time::timeout_at(until, inputs.next())).await {
                Some(Ok(bundle)) => return Ok(Some(bundle)),
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
        if let Some(items) = cutter.take() {
            self.chunk(items).await?;
        }
        let when_there_is_room = async {
            if let Some(window) = window {
                window.take(0).await;
            }
            inputs.next().await
        };
        self.beside(stop.run_until_cancelled(when_there_is_room)).await
    }

    /// Passes inputs on as they become ready: the first of them go out while later ones are still made ready, and those go
    /// on while the broker takes its time.
    pub(super) async fn pass_when_ready(
        &mut self,
        bundle: Vec<Input>,
        ready: &dyn Ready,
        sieve: &mut Sieve<'_>,
    ) -> Result<(), ProduceError> {
        // Room for all, so that nothing that is being made ready ever waits for what goes out: it has its own deadlines.
        let (readied, mut inputs) = mpsc::channel(bundle.len().max(1));
        let readying = async {
            make_ready(ready, bundle, readied).await;
            Ok::<_, ProduceError>(())
        };
        let passing = async {
            while let Some(input) = self.beside(inputs.recv()).await? {
                self.pass(input?, sieve).await?;
            }
            Ok::<_, ProduceError>(())
        };
        tokio::try_join!(readying, passing).map(drop)
    }

    pub(super) async fn pass(&mut self, input: Input, sieve: &mut Sieve<'_>) -> Result<(), ProduceError> {
        if let Some(items) = sieve.push(input) {
            // Before the chunk, with which all items up to its last one count as accepted.
            self.refuse(&mut sieve.refused, false).await?;
            self.chunk(items).await?;
        }
        Ok(())
    }

    /// Waits for something beside what is under way: that goes out and is confirmed meanwhile, and only while somebody
    /// asks after it.
    async fn beside<T>(&mut self, waited_for: impl Future<Output = T>) -> Result<T, ProduceError> {
        let mut waited_for = std::pin::pin!(waited_for);
        loop {
            tokio::select! {
                came = &mut waited_for => return Ok(came),
                Some(landed) = self.flying.next(), if !self.flying.is_empty() => self.landed(landed)?,
            }
        }
    }

    pub(super) async fn chunk(&mut self, items: Vec<Item>) -> Result<(), ProduceError> {
        let upto = items.last().map_or(0, |item| item.index.0 + 1);
        let chunk = Chunk { batch: Arc::clone(&self.batch), attempt: Attempt::FIRST, items };
        let bytes = chunk.weight_bytes();
        let behind = std::mem::take(&mut self.behind);
        if let Some(window) = self.producer.window {
            self.beside(window.take_beside(bytes, behind)).await?;
        }
        let message = Message::new(Body::Chunk(chunk), self.batch.priority);
        self.send(self.queue, message, bytes, upto).await
    }

    /// Publishes the outcomes of what was refused. It never waits for the window: an earlier item may still be uncut,
    /// and whoever reads in order would wait for that one.
    pub(super) async fn refuse(
        &mut self,
        outcomes: &mut Vec<Arc<Outcome>>,
        all_is_cut: bool,
    ) -> Result<(), ProduceError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let outcomes = std::mem::take(outcomes);
        let bytes = outcomes.iter().map(|outcome| outcome.weight_bytes()).sum();
        if let Some(window) = self.producer.window {
            window.take_now(bytes);
            self.behind += if all_is_cut { 0 } else { bytes };
        }
        let body = Body::Outcomes { batch: self.batch.id.clone(), outcomes };
        self.send(Queue::Results, Message::new(body, Priority::default()), bytes, 0).await
    }

    /// Says that the batch begins, and does not wait: nothing counts as accepted before it is confirmed, and an outcome
    /// that overtakes it goes round until it has come.
    pub(super) fn open(&mut self) -> Result<(), ProduceError> {
        let message = Message::new(Body::Open(Arc::clone(&self.batch)), Priority::default());
        self.depart(0, 0, self.producer.broker.publish(Queue::Results, message))
    }

    /// Publishes, and waits only while as much as may be is under way.
    async fn send(&mut self, queue: Queue, message: Message, bytes: u64, upto: u64) -> Result<(), ProduceError> {
        let UnderWay { messages, bytes: most } = self.producer.under_way;
        while self.flying.len() >= messages || (self.bytes + bytes > most && !self.flying.is_empty()) {
            if let Some(landed) = self.flying.next().await {
                self.landed(landed)?;
            }
        }
        let broker = self.producer.broker;
        self.depart(bytes, upto, async move {
            reach("producer.publish.before");
            let published = broker.publish(queue, message).await;
            reach("producer.publish.after");
            published
        })
    }

    /// Sends a message on its way, with which the items before `upto` are accepted.
    fn depart(
        &mut self,
        bytes: u64,
        upto: u64,
        published: impl Future<Output = Result<(), BrokerError>> + Send + 'p,
    ) -> Result<(), ProduceError> {
        let number = self.front + self.order.len() as u64;
        self.order.push_back((upto, false));
        self.bytes += bytes;
        self.flying.push(Box::pin(async move { (number, bytes, published.await) }));
        // It begins to travel with the first poll, in the order of sending.
        if let Some(Some(landed)) = futures::FutureExt::now_or_never(self.flying.next()) {
            self.landed(landed)?;
        }
        Ok(())
    }

    /// Waits until everything is confirmed.
    pub(super) async fn land(&mut self) -> Result<(), ProduceError> {
        while let Some(landed) = self.flying.next().await {
            self.landed(landed)?;
        }
        Ok(())
    }

    fn landed(&mut self, (number, bytes, result): Landed) -> Result<(), ProduceError> {
        result?;
        self.bytes -= bytes;
        if let Some((_, is_confirmed)) = usize::try_from(number - self.front).ok().and_then(|n| self.order.get_mut(n)) {
            *is_confirmed = true;
        }
        while let Some((upto, true)) = self.order.front().copied() {
            self.order.pop_front();
            self.front += 1;
            self.producer.accepted.send_if_modified(|accepted| {
                let is_more = upto > *accepted;
                *accepted = upto.max(*accepted);
                is_more
            });
        }
        Ok(())
    }
}

/// Makes inputs ready, several at a time, and hands them over in order: up to the first that cannot be.
async fn make_ready(ready: &dyn Ready, bundle: Vec<Input>, readied: mpsc::Sender<Result<Input, NotReady>>) {
    let readying = bundle.into_iter().map(|mut input| async move {
        if input.refused.is_none() {
            ready.ready(&mut input).await?;
        }
        Ok::<_, NotReady>(input)
    });
    let mut readying = std::pin::pin!(stream::iter(readying).buffered(READYING));
    while let Some(input) = readying.next().await {
        let is_last = input.is_err();
        if readied.send(input).await.is_err() || is_last {
            return;
        }
    }
}
