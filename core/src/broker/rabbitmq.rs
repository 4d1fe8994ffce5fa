//! The broker on RabbitMQ: messages that outlive every process of ours. Works on 3.10 to 4.4.
//!
//! ```text
//!             ┌ link (publishing) ── channels, each with its publisher: a window of unconfirmed messages
//!  RabbitMq ──┤
//!             └ link (consuming)  ── a channel for each consumer: prefetch, acknowledgements
//! ```
//!
//! A [`link`] is a connection that is kept up: when it breaks, everything that hung on it is built anew under the next
//! generation, and what was delivered under an old one can no longer be acknowledged (the broker delivers it again).
//! Publishing and consuming have connections of their own, for a broker that is short of memory blocks those that
//! publish. Nothing but [`topology`] knows what queues look like.

mod consume;
mod held;
mod link;
mod message;
mod own;
mod pace;
mod publish;
mod settle;
mod socket;
mod topology;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use lapin::uri::AMQPUri;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::link::Link;
use self::publish::Parcel;
use self::topology::Topology;
use super::{
    Body, Broker, BrokerError, BrokerErrorKind, Deliveries, Delivery, Health, Message, Notice, Notices, Permits, Queue,
    Replies, Reply, ReplyTo,
};
use crate::batch::Priority;
use crate::lock::lock;
use crate::wire;

/// How to reach a RabbitMQ.
#[derive(Clone)]
pub struct Options {
    /// `amqp://` or `amqps://` URLs, separated by commas, which are tried in turn.
    pub url: String,
    /// In place of the password in the URLs.
    pub password: Option<String>,
    /// How the names of queues and exchanges begin.
    pub prefix: String,
    /// What the broker shows as the connection's name.
    pub name: String,
    /// How long a message may wait for the broker before [`Broker::publish`] gives up; `None`: as long as it takes.
    pub patience: Option<Duration>,
    /// How much work a consumer of [`Queue::Jobs`] may hold ahead, beyond its permits, where messages are short.
    pub look_ahead: Option<Duration>,
    /// What it uses and declares, for a process that is over soon; `None`: everything.
    pub used: Option<Used>,
}

/// What of the broker a process uses that is over soon: it publishes, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// The only queues that it publishes to.
    pub queues: Vec<Queue>,
    /// The priority of all that it publishes.
    pub priority: Priority,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prefix, name, patience, .. } = self;
        f.debug_struct("Options").field("prefix", prefix).field("name", name).field("patience", patience).finish()
    }
}

/// Queues in RabbitMQ. Cheap to clone; the connections end with the last clone.
#[derive(Clone, Debug)]
pub struct RabbitMq {
    topology: Topology,
    patience: Option<Duration>,
    look_ahead: Option<Duration>,
    publishing: Arc<Link>,
    consuming: Arc<LazyLink>,
    /// The queue of [`Broker::replies`], while there is one.
    reply_to: Arc<Mutex<Option<ReplyTo>>>,
    /// What still has acknowledgements to tell.
    settling: TaskTracker,
}

/// A link that is made when it is first used: whoever only publishes has one connection.
#[derive(Debug)]
struct LazyLink {
    link: OnceLock<Link>,
    uris: Vec<AMQPUri>,
    name: String,
    topology: Topology,
}

impl LazyLink {
    fn get(&self) -> &Link {
        self.link.get_or_init(|| Link::keep(self.uris.clone(), self.name.clone(), self.topology.clone()))
    }
}

impl RabbitMq {
    /// Begins to connect, and keeps connected until it is dropped. [`RabbitMq::ready`] waits for it.
    ///
    /// # Errors
    /// [`BrokerErrorKind::Mismatch`] where an address is none.
    pub fn connect(options: Options) -> Result<Self, BrokerError> {
        crate::blobs::choose_cryptography();
        let uris = addresses(&options)?;
        let topology = Topology::new(&options.prefix, options.used.clone());
        let name = |role: &str| format!("{} ({role})", options.name);
        let publishing = Link::keep(uris.clone(), name("publishing"), topology.clone());
        let consuming = LazyLink { link: OnceLock::new(), uris, name: name("consuming"), topology: topology.clone() };
        Ok(Self {
            publishing: Arc::new(publishing),
            consuming: Arc::new(consuming),
            reply_to: Arc::default(),
            settling: TaskTracker::new(),
            topology,
            patience: options.patience,
            look_ahead: options.look_ahead,
        })
    }

    /// The same broker, over the same connections, for those who wait for it no longer than that.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self.clone() }
    }

    /// Resolves when it is connected and its queues are there.
    ///
    /// # Errors
    /// After `patience`: [`BrokerErrorKind::Unreachable`]. At once where waiting does not help:
    /// [`BrokerErrorKind::Mismatch`].
    pub async fn ready(&self, patience: Option<Duration>) -> Result<(), BrokerError> {
        let until = patience.map(|patience| Instant::now() + patience);
        self.publishing.live(until).await.map(drop)
    }

    /// Resolves when the broker knows of every acknowledgement, for whoever is about to end: what it does not know of is
    /// delivered again. To be called when all deliveries are settled and their consumers are gone.
    pub async fn flush(&self) {
        self.settling.close();
        if tokio::time::timeout(FLUSH_WITHIN, self.settling.wait()).await.is_err() {
            tracing::warn!("the broker may not know of the last acknowledgements; what they were for comes again");
        }
    }

    /// The addresses that are tried, without passwords.
    pub fn addresses(&self) -> String {
        self.publishing.addresses()
    }

    async fn post(&self, parcel: Parcel) -> Result<(), BrokerError> {
        publish::post(&self.publishing, &self.topology, parcel, self.patience).await
    }
}

fn addresses(options: &Options) -> Result<Vec<AMQPUri>, BrokerError> {
    let wrong = |reason: &str| BrokerError {
        kind: BrokerErrorKind::Mismatch,
        action: "read the address of the broker".into(),
        reason: format!("{reason}; it should be amqp://user@host:5672 or amqps://…"),
    };
    let addresses = options.url.split(',').map(str::trim).filter(|address| !address.is_empty());
    let addresses = addresses
        .map(|address| {
            let mut uri: AMQPUri = address.parse().map_err(|reason: String| wrong(&reason))?;
            if let Some(host) = ipv6(address) {
                // The client's own reader knows that it is an address, but takes this machine in its place.
                uri.authority.host = host.to_owned();
            }
            if let Some(password) = &options.password {
                uri.authority.userinfo.password.clone_from(password);
            }
            // A lost host is noticed after two of these; the client's own default is a minute.
            uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
            uri.query.connection_timeout.get_or_insert(CONNECTION_TIMEOUT_MS);
            if options.used.is_some() {
                uri.query.frame_max.get_or_insert(SHORT_FRAMES);
            }
            Ok(uri)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() { Err(wrong("there is none")) } else { Ok(addresses) }
}

/// What stands in brackets in place of a host's name.
fn ipv6(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    Some(host.strip_prefix('[')?.split_once(']')?.0)
}

/// How long the broker may take to hear of the last acknowledgements.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// The client begins with buffers for 64 frames, which it writes over: 8 MiB with the broker's own 128 KiB, and some 3 ms of
/// the 20 that the shortest command takes.
const SHORT_FRAMES: u32 = 16 << 10;
const HEARTBEAT_SECONDS: u16 = 10;
const CONNECTION_TIMEOUT_MS: u64 = 10_000;

#[async_trait]
impl Broker for RabbitMq {
    async fn publish(&self, queue: Queue, message: Message) -> Result<(), BrokerError> {
        let bodies = wire::encode(&message.body);
        let most = if matches!(message.body, Body::Chunk(_)) { wire::MAX_CHUNK_BYTES } else { wire::MAX_BYTES };
        if let Some(bytes) = bodies.iter().map(bytes::Bytes::len).find(|bytes| *bytes > most) {
            // The broker would close the channel, with all that is under way on it.
            return Err(BrokerError {
                kind: BrokerErrorKind::Refused,
                action: format!("publish to {queue}"),
                reason: format!("a message of {bytes} bytes is larger than the {most} that it may have"),
            });
        }
        let route = self.topology.route(queue, &message);
        let parcel = if matches!(queue, Queue::Express(_)) { message::in_a_hurry } else { message::parcel };
        let parcels: Vec<_> = bodies.into_iter().map(|bytes| parcel(&message, bytes, route.clone())).collect();
        // Many are under way, and what travels is the bytes.
        drop(message);
        futures::future::try_join_all(parcels.into_iter().map(|parcel| self.post(parcel))).await.map(drop)
    }

    async fn toss(&self, queue: Queue, message: Message) {
        for bytes in wire::encode(&message.body) {
            let parcel = message::in_a_hurry(&message, bytes, self.topology.route(queue, &message));
            publish::toss(&self.publishing, parcel).await;
        }
    }

    async fn consume(
        &self,
        queue: Queue,
        permits: Permits,
        stop: CancellationToken,
    ) -> Result<Deliveries, BrokerError> {
        consume::consume(self, queue, permits, stop).await
    }

    async fn take_one(&self, queue: Queue) -> Result<Option<Delivery>, BrokerError> {
        consume::take_one(self, queue).await
    }

    async fn depth(&self, queue: Queue) -> Result<u64, BrokerError> {
        let until = self.patience.map(|patience| Instant::now() + patience);
        let live = self.consuming.get().live(until).await?;
        self.topology.depth(&live, queue).await
    }

    async fn announce(&self, notice: Notice) -> Result<(), BrokerError> {
        self.post(message::notice(&notice, self.topology.control())).await
    }

    async fn notices(&self) -> Result<Notices, BrokerError> {
        own::notices(self).await
    }

    async fn replies(&self) -> Result<Replies, BrokerError> {
        own::replies(self).await
    }

    fn reply_to(&self) -> Option<ReplyTo> {
        lock(&self.reply_to).clone()
    }

    async fn reply(&self, to: &ReplyTo, reply: Reply) {
        publish::toss(&self.publishing, message::reply(to, &reply)).await;
    }

    fn health(&self) -> Health {
        let consuming = self.consuming.link.get().map_or(Health::Ready, Link::health);
        match (self.publishing.health(), consuming) {
            (Health::Ready, other) | (other, Health::Ready) => other,
            (Health::Away(reason), _) | (_, Health::Away(reason)) => Health::Away(reason),
            (blocked, _) => blocked,
        }
    }

    fn back_since(&self) -> Option<Instant> {
        self.consuming.link.get().and_then(Link::back_since)
    }
}

#[cfg(test)]
mod tests;
