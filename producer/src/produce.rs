//! Produce: opens a batch, publishes its chunks, seals it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, stream};
use serde_json::value::RawValue;
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use tidemill_core::broker::{Body, Broker, BrokerError, Message, Queue, ReplyTo};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::failpoint::reach;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::store::{Store, StoreErrorKind};
use tidemill_core::task::Job;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cut::{Cut, Cutter};
use crate::inputs::{Input, Inputs, InputsError};
use crate::window::Window;

/// How long an unfinished chunk waits for more inputs.
const LINGER: Duration = Duration::from_millis(20);
/// How long a store may take to write a batch's end before that goes through the broker, which keeps it for a store that is
/// away. Twice is as good as once.
const SEAL_WITHIN: Duration = Duration::from_secs(2);
/// Inputs that are made ready at the same time.
const READYING: usize = 8;

/// Publishes one batch.
#[derive(Debug)]
pub struct Producer<'a> {
    /// Where everything goes: the chunks, and the batch's beginning and end.
    pub broker: &'a dyn Broker,
    /// The store, for whoever reaches it and has opened the batch there: its end is written at once then, and only
    /// where that does not work does it go through the broker.
    pub store: Option<&'a dyn Store>,
    /// How chunks are cut.
    pub cut: Cut,
    /// How much may be on its way between here and whoever reads; without it, whatever the broker takes.
    pub window: Option<&'a Window>,
    /// What may be published and not confirmed yet.
    pub under_way: UnderWay,
    /// Larger inputs are refused.
    pub max_input_bytes: usize,
    /// What is done to each input before it is published.
    pub ready: Option<&'a dyn Ready>,
    /// Told how many items, from the first on, the broker has confirmed.
    pub accepted: watch::Sender<u64>,
    /// Where copies of the outcomes are waited for.
    pub reply_to: Option<ReplyTo>,
}

/// How much may be published and not confirmed yet.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay {
    /// Messages.
    pub messages: usize,
    /// Bytes of input in them.
    pub bytes: u64,
}

/// Makes an input ready for workers, which run in another folder or cannot see this machine.
#[async_trait]
pub trait Ready: Send + Sync + std::fmt::Debug {
    /// Puts the bytes of a file where workers find them, unless they lie there, and names that place in the input.
    ///
    /// # Errors
    /// What stops the whole submission: nothing can be stored. That a single file cannot be read is no error but
    /// the input's refusal.
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady>;
}

/// Files cannot be put where workers find them; why, for people.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// Where a submission begins and what it does at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The index of the first input: the items before it were accepted before, and [passed over](Inputs::pass_over).
    pub from: u64,
    /// Whether the batch is sealed at what was read when it is stopped; else it stays open and can be resumed.
    pub seal_when_stopped: bool,
}

/// A batch that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// How many items it has.
    pub total: u64,
    /// Whether these are all the inputs; not so where it was stopped.
    pub is_whole: bool,
}

/// Why a batch was not published whole.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The broker would not.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Inputs could not be put where workers find them.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The batch has ended with other inputs meanwhile: somebody else has sent it too.
    #[error("{0}")]
    Conflict(String),
    /// The inputs end where they should not.
    #[error(transparent)]
    Inputs(#[from] InputsError),
}

/// A message that has come to its end: its number, its bytes, and whether the broker has it.
type Landed = (u64, u64, Result<(), BrokerError>);

/// One batch on its way out.
struct Sending<'p, 'a> {
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

/// Parts the inputs that go out as items from those that the task does not take.
struct Sieve<'a> {
    job: &'a dyn Job,
    max_input_bytes: usize,
    /// The index of the next input.
    next: u64,
    cutter: Cutter,
    /// Outcomes that are not published yet.
    refused: Vec<Arc<Outcome>>,
    /// Who made them.
    nobody: Arc<Maker>,
}

impl<'a> Producer<'a> {
    /// Publishes every input and seals the batch. When `stop` is cancelled it takes no more inputs.
    ///
    /// An input that the task does not take is not sent: its outcome is published at once.
    ///
    /// # Errors
    /// [`ProduceError`]; the batch is not sealed then.
    pub async fn produce(
        &self,
        batch: Arc<Batch>,
        job: &dyn Job,
        mut inputs: Inputs,
        span: Span,
        stop: &CancellationToken,
    ) -> Result<Produced, ProduceError> {
        let mut sending = Sending {
            producer: self,
            batch: Arc::clone(&batch),
            queue: Queue::Jobs(job.lane()),
            flying: FuturesUnordered::new(),
            bytes: 0,
            order: VecDeque::new(),
            front: 0,
            behind: 0,
        };
        self.accepted.send_replace(span.from);
        if self.store.is_none() {
            sending.open()?;
        }
        let mut sieve = Sieve {
            job,
            max_input_bytes: self.max_input_bytes,
            next: span.from,
            cutter: Cutter::new(self.cut),
            refused: Vec::new(),
            nobody: Arc::new(Maker { worker: String::new(), device: String::new() }),
        };
        let mut is_whole = false;
        while let Some(next) = sending.next(&mut inputs, &mut sieve.cutter, stop).await? {
            let Some(bundle) = next else {
                inputs.whole()?;
                is_whole = true;
                break;
            };
            match self.ready {
                Some(ready) => sending.pass_when_ready(bundle, ready, &mut sieve).await?,
                None => {
                    for input in bundle {
                        sending.pass(input, &mut sieve).await?;
                    }
                }
            }
            let all_is_cut = sieve.cutter.is_empty();
            sending.refuse(&mut sieve.refused, all_is_cut).await?;
        }
        if let Some(items) = sieve.cutter.take() {
            sending.chunk(items).await?;
        }
        sending.land().await?;
        let total = sieve.next;
        if is_whole || span.seal_when_stopped {
            reach("producer.seal.before");
            self.seal(&batch.id, total).await?;
            reach("producer.seal.after");
            self.accepted.send_replace(total);
        }
        Ok(Produced { total, is_whole })
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), ProduceError> {
        if let Some(store) = self.store {
            match tokio::time::timeout(SEAL_WITHIN, store.seal(batch, total)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.kind == StoreErrorKind::Conflict => {
                    return Err(ProduceError::Conflict(error.reason));
                }
                Ok(Err(error)) => tracing::debug!(%error, "the batch's end goes through the broker"),
                Err(_) => tracing::debug!("the store does not answer, the batch's end goes through the broker"),
            }
        }
        let body = Body::Seal { batch: batch.clone(), total };
        self.broker.publish(Queue::Results, Message::new(body, Priority::default())).await?;
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

impl Sieve<'_> {
    /// Gives the next input its place; gives a chunk's items when they are complete.
    fn push(&mut self, mut input: Input) -> Option<Vec<Item>> {
        let index = ItemIndex(self.next);
        self.next += 1;
        let Some(failure) = refusal(self.job, &mut input, self.max_input_bytes) else {
            return self.cutter.push(Item { index, input: input.json, name: input.name, source: input.source });
        };
        self.refused.push(Arc::new(Outcome {
            index,
            input: input.json,
            name: None,
            source: None,
            ending: Ending::Failed(failure),
            attempts: Attempt(0),
            maker: Arc::clone(&self.nobody),
            queued: Duration::ZERO,
            run: Duration::ZERO,
        }));
        None
    }
}

impl<'p> Sending<'p, '_> {
    /// The next inputs, `Some(None)` at their end, `None` when it was stopped. While the window is full or the inputs
    /// are slow, what was cut so far goes out: whoever reads in order may be waiting for just that.
    ///
    /// Only waiting for inputs is broken off by `stop`: a chunk that was cut is published, or its items were lost.
    async fn next(
        &mut self,
        inputs: &mut Inputs,
        cutter: &mut Cutter,
        stop: &CancellationToken,
    ) -> Result<Option<Option<Vec<Input>>>, ProduceError> {
        let window = self.producer.window;
        if !window.is_some_and(Window::is_full) {
            match stop.run_until_cancelled(tokio::time::timeout(LINGER, inputs.next())).await {
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
    async fn pass_when_ready(
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

    async fn pass(&mut self, input: Input, sieve: &mut Sieve<'_>) -> Result<(), ProduceError> {
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

    async fn chunk(&mut self, items: Vec<Item>) -> Result<(), ProduceError> {
        let upto = items.last().map_or(0, |item| item.index.0 + 1);
        let chunk = Chunk { batch: Arc::clone(&self.batch), attempt: Attempt::FIRST, items };
        let bytes = chunk.weight_bytes();
        let behind = std::mem::take(&mut self.behind);
        if let Some(window) = self.producer.window {
            self.beside(window.take_beside(bytes, behind)).await?;
        }
        let reply_to = self.producer.reply_to.clone();
        let message = Message { reply_to, ..Message::new(Body::Chunk(chunk), self.batch.priority) };
        self.send(self.queue, message, bytes, upto).await
    }

    /// Publishes the outcomes of what was refused. It never waits for the window: an earlier item may still be uncut,
    /// and whoever reads in order would wait for that one.
    async fn refuse(&mut self, outcomes: &mut Vec<Arc<Outcome>>, all_is_cut: bool) -> Result<(), ProduceError> {
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
    fn open(&mut self) -> Result<(), ProduceError> {
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
    async fn land(&mut self) -> Result<(), ProduceError> {
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

/// Why an input is none: it could not be read, or the task does not take it.
fn refusal(job: &dyn Job, input: &mut Input, max_bytes: usize) -> Option<Failure> {
    let is_too_large = input.json.get().len() > max_bytes;
    let too_large = is_too_large.then(|| {
        let bytes = input.json.get().len();
        // Its outcome repeats the input, and travels too.
        input.json = RawValue::NULL.to_owned();
        let hint = "put it into a file or behind a URL";
        Failure::permanent(
            "too_large",
            format!("an input of {bytes} bytes is larger than the {max_bytes} that travel in a message; {hint}"),
        )
    });
    input.refused.take().or(too_large).or_else(|| job.check(&input.json).err().map(Failure::from))
}

#[cfg(test)]
mod tests;
