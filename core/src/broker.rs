//! The seam to the message queue: what carries chunks to workers and outcomes to the collector.
//!
//! [`embedded`] lives in this process; RabbitMQ is the one for clusters. `conformance` is the contract as tests,
//! which every implementation passes unchanged.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod rabbitmq;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, BatchId, ItemIndex, Priority};
use crate::chunk::Chunk;
use crate::notes::Note;
use crate::outcome::Outcome;
use crate::segment::Segment;
use crate::task::Lane;

/// The queues there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Chunks for the workers that serve a lane.
    Jobs(Lane),
    /// Chunks whose worker ended while it held them: each runs alone, to find out whether it was the reason.
    Suspects(Lane),
    /// Chunks of one item whose outcome somebody waits for, in memory and for no longer than [`EXPRESS_WAIT`]. Only there
    /// while a worker serves it. Whoever publishes here has accepted nothing yet, and publishes to [`Queue::Jobs`] where no
    /// outcome comes; see [`Broker::reply`].
    Express(Lane),
    /// Outcomes, and the beginnings and ends of batches, for the collector.
    Results,
    /// What workers say of themselves; what nobody collects is soon forgotten.
    Workers,
    /// Messages that nobody can work on, each with its reason.
    Dead,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [what, lane] = self.parts();
        write!(f, "tidemill{what}{lane}")
    }
}

impl Queue {
    /// Its name behind the prefix, without and with only its lane.
    pub(crate) const fn parts(self) -> [&'static str; 2] {
        match self {
            Self::Jobs(lane) => [".jobs.", lane.as_str()],
            Self::Suspects(lane) => [".suspects.", lane.as_str()],
            Self::Express(lane) => [".express.", lane.as_str()],
            Self::Workers => [".workers", ""],
            Self::Results => [".results", ""],
            Self::Dead => [".dead", ""],
        }
    }
}

/// How long a chunk may wait in [`Queue::Express`] for a worker. What takes a worker longer is in no hurry either: its outcome
/// goes by [`Queue::Results`].
pub const EXPRESS_WAIT: Duration = Duration::from_secs(1);

/// What travels.
#[derive(Clone, Debug)]
pub enum Body {
    /// A batch begins, for [`Queue::Results`].
    Open(Arc<Batch>),
    /// Work, for [`Queue::Jobs`], [`Queue::Suspects`] and [`Queue::Express`].
    Chunk(Chunk),
    /// What became of it, for [`Queue::Results`].
    Outcomes {
        /// The batch that all of them belong to.
        batch: BatchId,
        /// One or more outcomes, in ascending order of index.
        outcomes: Vec<Arc<Outcome>>,
    },
    /// The same as it arrives over the wire.
    Segment(Segment),
    /// A batch is whole, for [`Queue::Results`].
    Seal {
        /// Which.
        batch: BatchId,
        /// How many items it has.
        total: u64,
    },
    /// A worker lives, for [`Queue::Workers`].
    Heartbeat(Heartbeat),
    /// What could not be read; only in [`Queue::Dead`].
    Unreadable(Bytes),
}

impl Body {
    /// The batch that it belongs to, where it belongs to one.
    pub fn batch(&self) -> Option<&BatchId> {
        match self {
            Self::Open(batch) => Some(&batch.id),
            Self::Chunk(chunk) => Some(&chunk.batch.id),
            Self::Outcomes { batch, .. } | Self::Seal { batch, .. } => Some(batch),
            Self::Segment(segment) => Some(segment.batch()),
            Self::Heartbeat(_) | Self::Unreadable(_) => None,
        }
    }

    /// What it counts for in a queue that is bounded in bytes.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Self::Chunk(chunk) => chunk.weight_bytes(),
            Self::Outcomes { outcomes, .. } => outcomes.iter().map(|outcome| outcome.weight_bytes()).sum(),
            Self::Segment(segment) => segment.bytes().len() as u64,
            Self::Unreadable(bytes) => bytes.len() as u64,
            Self::Open(_) | Self::Seal { .. } | Self::Heartbeat(_) => crate::chunk::Item::RECORD_BYTES,
        }
    }
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Its name, as outcomes give it.
    pub name: String,
    /// The version of Tidemill.
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started: u64,
    /// When it said this, in milliseconds since 1970.
    pub at: u64,
    /// How long until it says so again, in milliseconds: after a few of these it is gone.
    pub every: u64,
    /// The lanes that it serves.
    pub lanes: Vec<Lane>,
    /// Its computing threads.
    pub threads: u64,
    /// The memory of its machine or container.
    pub memory_bytes: u64,
    /// What it runs networks on.
    pub devices: Vec<String>,
    /// The models that it has.
    pub models: Vec<String>,
    /// Deliveries in its hands.
    pub held: u64,
    /// Items that it has ended since it started.
    pub items: u64,
    /// Whether it takes nothing new any more.
    pub is_stopping: bool,
    /// What its networks have done; none where it runs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkWork>,
    /// How far the items have come that it works on and that say so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// What a worker has done with one model since it started. Times are added up: those of queue and input over the pictures,
/// those of compute and output over the executions, each of which takes a batch of pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkWork {
    /// The model's name.
    pub model: String,
    /// What it runs on, as outcomes give it.
    pub device: String,
    /// What it computes with: `fp32`, `bf16`, `fp16`.
    pub precision: String,
    /// Pictures that were answered.
    pub items: u64,
    /// Pictures on which the network failed.
    pub failures: u64,
    /// How often it ran, the tries among them that single out a bad picture.
    pub executions: u64,
    /// How long pictures waited for their batch, in milliseconds.
    pub queue_ms: u64,
    /// How long their decoding and resizing took, in milliseconds.
    pub input_ms: u64,
    /// From pixels to what the network gives: the copy to the device, and the network itself, in milliseconds.
    pub compute_ms: u64,
    /// From what it gives to answers, in milliseconds.
    pub output_ms: u64,
}

/// Where somebody waits for replies: a queue that the broker has named and that goes with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo(String);

impl ReplyTo {
    /// What RabbitMQ calls the queues that it names. Nobody else can make one of such a name, so a forged address leads
    /// to no queue of ours.
    const PREFIX: &str = "amq.gen-";
    const MAX_BYTES: usize = 64;

    /// The address of that name; `None` where it is not one that a broker gives.
    pub fn new(name: &str) -> Option<Self> {
        let is_one = name.len() <= Self::MAX_BYTES
            && name.strip_prefix(Self::PREFIX).is_some_and(|rest| !rest.is_empty())
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_one.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// More bytes do not go in a hurry, neither to a worker nor back: many are held at a time, and what is so large takes its time
/// anyway.
pub const MAX_EXPRESS_BYTES: usize = 256 << 10;

/// What a worker says straight to whoever waits for a chunk of [`Queue::Express`].
#[derive(Clone, Debug)]
pub enum Reply {
    /// The outcome.
    Outcomes(Segment),
    /// It comes as that of every other item: published and confirmed, or to be run again.
    Passed(BatchId),
    /// Nothing came of it, and the worker forgets it.
    Declined(BatchId),
}

impl Reply {
    /// The batch that it is about.
    pub fn batch(&self) -> &BatchId {
        match self {
            Self::Outcomes(segment) => segment.batch(),
            Self::Passed(batch) | Self::Declined(batch) => batch,
        }
    }
}

/// A body and how it is to travel.
#[derive(Clone, Debug)]
pub struct Message {
    /// What travels.
    pub body: Body,
    /// Larger goes first within its queue; equals keep the order in which they were published.
    pub priority: Priority,
    /// Delivered no earlier than this after it was published. The broker waits, nobody else.
    pub delay: Duration,
    /// Why it lies in [`Queue::Dead`].
    pub refusal: Option<String>,
    /// How often it was published again because nobody could work on it yet.
    pub rounds: u32,
    /// Of a chunk in [`Queue::Express`]: where its outcome is waited for.
    pub reply_to: Option<ReplyTo>,
}

impl Message {
    /// A message to be delivered at once.
    pub fn new(body: Body, priority: Priority) -> Self {
        Self { body, priority, delay: Duration::ZERO, refusal: None, rounds: 0, reply_to: None }
    }
}

/// Unsettled deliveries that a consumer may hold at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits(pub usize);

/// A word to every worker at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Drop what is queued of this batch and stop what is running at its next item.
    Cancel(BatchId),
    /// Take nothing new, finish what is held, end: every worker, or the one of that name.
    Drain(Option<String>),
    /// Somebody is about to take this item for dead: a worker that has it in hand says [`Notice::Found`].
    Find(BatchId, ItemIndex),
    /// A worker that lives has this item in hand: its outcome will come.
    Found(BatchId, ItemIndex),
}

/// A message queue. At least once: a message is delivered again until somebody settles it.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// Resolves once the message is accepted. Waits while the queue is full, except for messages that are delayed
    /// or outcomes: those who publish them hold deliveries that must not wait for room made by themselves.
    ///
    /// Dropping the future before it resolves leaves open whether the message was accepted.
    ///
    /// # Errors
    /// [`BrokerError`], of a kind that says whether trying again may help.
    async fn publish(&self, queue: Queue, message: Message) -> Result<(), BrokerError>;

    /// Sends a message and waits for nothing: nobody learns whether it arrives.
    async fn toss(&self, queue: Queue, message: Message) {
        drop(self.publish(queue, message).await);
    }

    /// Starts to consume: at most `permits` unsettled deliveries at a time, until `stop` is cancelled.
    ///
    /// # Errors
    /// [`BrokerError`]
    async fn consume(&self, queue: Queue, permits: Permits, stop: CancellationToken)
    -> Result<Deliveries, BrokerError>;

    /// Takes the message at the head of the queue and no other, if one is there.
    ///
    /// # Errors
    /// [`BrokerError`]
    async fn take_one(&self, queue: Queue) -> Result<Option<Delivery>, BrokerError>;

    /// Messages that wait in the queue, neither delivered nor delayed.
    ///
    /// # Errors
    /// [`BrokerError`]
    async fn depth(&self, queue: Queue) -> Result<u64, BrokerError>;

    /// Says something to everyone who listens now; nobody else hears it later.
    ///
    /// # Errors
    /// [`BrokerError`]
    async fn announce(&self, notice: Notice) -> Result<(), BrokerError>;

    /// Listens to what is announced from now on.
    ///
    /// # Errors
    /// [`BrokerError`]
    async fn notices(&self) -> Result<Notices, BrokerError>;

    /// Takes in what workers say straight to whoever waits here. Nothing ever comes where nothing can go in a hurry.
    ///
    /// # Errors
    /// [`BrokerError`]
    async fn replies(&self) -> Result<Replies, BrokerError> {
        Ok(Box::new(Silence))
    }

    /// Where replies are to be sent now; `None` where nobody takes them in.
    fn reply_to(&self) -> Option<ReplyTo> {
        None
    }

    /// Says something straight to whoever waits. It may be lost.
    async fn reply(&self, to: &ReplyTo, reply: Reply) {
        let _ = (to, reply);
    }

    /// Whether it can be spoken to now.
    fn health(&self) -> Health {
        Health::Ready
    }

    /// Since when it can be spoken to again, where it could not be for a while: others that lost it then may not be back yet.
    /// While it is away, that is now.
    fn back_since(&self) -> Option<Instant> {
        None
    }
}

/// Whether a broker or a store can be spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    #[default]
    Ready,
    /// It answers and takes nothing: an alarm of memory or disk. The reason is the broker's.
    Blocked(String),
    /// It does not answer; why.
    Away(String),
}

/// A consumer's deliveries, one after the other.
pub type Deliveries = Box<dyn Incoming<Delivery>>;

/// The notices since [`Broker::notices`] was called.
pub type Notices = Box<dyn Incoming<Notice>>;

/// The replies since [`Broker::replies`] was called.
pub type Replies = Box<dyn Incoming<Reply>>;

/// Nothing ever comes.
struct Silence;

#[async_trait]
impl Incoming<Reply> for Silence {
    async fn next(&mut self) -> Option<Reply> {
        std::future::pending().await
    }
}

/// Something that comes in bit by bit.
#[async_trait]
pub trait Incoming<T>: Send {
    /// The next one; `None` once the consumer was stopped or the broker is gone for good. Dropping the future
    /// loses nothing.
    async fn next(&mut self) -> Option<T>;
}

/// One handing of one message to one consumer. Dropped without being settled, it is given back.
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// How often it was delivered before and not settled: its consumer gave it back, or ended.
    pub redelivered: u32,
    settler: Option<Box<dyn Settle>>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

/// What a broker does with a delivery in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done with and forgotten.
    Ack,
    /// It goes back to the head of its queue and is delivered again.
    Requeue,
    /// It goes to [`Queue::Dead`] with this reason.
    Reject(String),
}

/// The broker's side of a delivery.
#[async_trait]
pub trait Settle: Send {
    /// Does what the settlement says.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError>;
    /// Gives the delivery back without waiting for anything.
    fn abandon(self: Box<Self>);
}

impl Delivery {
    /// For implementations of [`Broker`].
    pub fn new(message: Arc<Message>, redelivered: u32, settler: Box<dyn Settle>) -> Self {
        Self { message, redelivered, settler: Some(settler) }
    }

    /// Settles it.
    ///
    /// # Errors
    /// [`BrokerError`]: the delivery will come again.
    pub async fn settle(mut self, settlement: Settlement) -> Result<(), BrokerError> {
        match self.settler.take() {
            Some(settler) => settler.settle(settlement).await,
            None => Ok(()),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take() {
            settler.abandon();
        }
    }
}

/// What a broker could not do.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {reason}")]
pub struct BrokerError {
    /// What kind of trouble it is.
    pub kind: BrokerErrorKind,
    /// What was attempted.
    pub action: String,
    /// Why it did not work.
    pub reason: String,
}

/// Kinds of trouble with a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerErrorKind {
    /// The broker cannot be reached; it may come back.
    Unreachable,
    /// The message was sent and the connection was lost before the broker confirmed it: it may have it, or not.
    NotConfirmed,
    /// The broker takes nothing now: an alarm of memory or disk.
    Blocked,
    /// The broker has no such queue: it gave the message back.
    Unroutable,
    /// The broker was reached and would not (nacked, or the queue is full).
    Refused,
    /// What is there differs from what is needed: a queue or exchange declared in another way, a wrong password.
    Mismatch,
}

impl BrokerError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        use BrokerErrorKind::{Blocked, Mismatch, NotConfirmed, Refused, Unreachable, Unroutable};
        match self.kind {
            Unreachable | NotConfirmed | Blocked => true,
            Unroutable | Refused | Mismatch => false,
        }
    }
}
