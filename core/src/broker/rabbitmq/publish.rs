//! Publishing: a window of messages that were sent and are not confirmed yet, on one channel, or on each of two.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::link::{Link, Live, why};
use super::topology::Route;
use crate::broker::{BrokerError, BrokerErrorKind};
use crate::lock::lock;

/// After so many messages a second channel is opened, which keeps the broker busy while the first waits for a flush to disk.
/// It costs the broker a millisecond, of the ten that all of the shortest batch takes there.
const FEW: u64 = 64;
/// Unconfirmed messages on a channel. The broker gains up to about a thousand; the client searches all of them at some
/// confirms, so more would cost (research: RabbitMQ's own benchmarks, "windows of ~1000 are fine").
const WINDOW: usize = 512;
/// Messages on a channel that are with the client and not on the wire yet.
const LEAVING: usize = 64;
/// Messages that wait for a place in the window. Whoever publishes more waits itself.
const WAITING: usize = 64;

/// A message as the broker takes it.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) route: Route,
    pub(super) bytes: Bytes,
    pub(super) properties: BasicProperties,
    /// Whether it is an error that no queue takes it.
    pub(super) is_mandatory: bool,
}

/// What became of a parcel on one connection.
#[derive(Debug)]
enum Fate {
    Confirmed,
    /// The broker would not have it.
    Nacked,
    /// No queue takes it.
    Returned(String),
    /// The connection broke before it was sent.
    Unsent,
    /// The connection broke before it was confirmed: it may have arrived.
    Unknown,
}

/// A parcel and whoever waits for it.
struct Request {
    parcel: Arc<Parcel>,
    number: u64,
    tell: oneshot::Sender<Fate>,
}

/// The channels of one connection.
pub(super) struct Publishers {
    first: mpsc::Sender<Request>,
    /// Once it is open, if the broker allows another.
    second: OnceLock<mpsc::Sender<Request>>,
    /// For what nobody waits for: without confirms. Opened when it is first used, and again where it was closed.
    tossing: tokio::sync::Mutex<Option<Channel>>,
    number: AtomicU64,
    /// The retry steps that were declared over this connection.
    steps: Mutex<HashSet<String>>,
}

impl Publishers {
    /// Begins with a channel that confirms.
    pub(super) fn new(channel: Channel, broken: &CancellationToken) -> Self {
        Self {
            first: start(channel, broken),
            second: OnceLock::new(),
            tossing: tokio::sync::Mutex::default(),
            number: AtomicU64::new(0),
            steps: Mutex::default(),
        }
    }

    async fn ready_step(
        &self,
        link: &Link,
        live: &Live,
        route: &Route,
        topology: &super::Topology,
    ) -> Result<(), BrokerError> {
        let Some(delay) = route.delay else { return Ok(()) };
        if lock(&self.steps).contains(&route.exchange) {
            return Ok(());
        }
        topology.declare_step(&live.connection, delay).await.map_err(|(kind, reason)| BrokerError {
            kind,
            action: format!("declare {} at {}", route.exchange, link.addresses()),
            reason,
        })?;
        lock(&self.steps).insert(route.exchange.clone());
        Ok(())
    }
}

/// Publishes a parcel over one connection. Half of those behind the first few go over the second channel.
async fn publish(live: &Arc<Live>, parcel: Arc<Parcel>) -> Fate {
    let Publishers { first, second, number, .. } = &live.publishers;
    let number = number.fetch_add(1, Ordering::Relaxed);
    if number == FEW {
        // Nobody waits for it: where the broker allows no other channel, the first goes on.
        tokio::spawn(open_second(Arc::clone(live)));
    }
    let channel = second.get().filter(|_| number % 2 == 1).unwrap_or(first);
    let (tell, fate) = oneshot::channel();
    if channel.send(Request { parcel, number, tell }).await.is_err() {
        return Fate::Unsent;
    }
    fate.await.unwrap_or(Fate::Unknown)
}

async fn open_second(live: Arc<Live>) {
    let open = async {
        let channel = live.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(start(channel, &live.broken))
    };
    match live.broken.run_until_cancelled(open).await {
        Some(Ok(second)) => drop(live.publishers.second.set(second)),
        Some(Err(error)) => tracing::debug!(error = why(&error), "there is no second channel to publish on"),
        None => {}
    }
}

/// Sends a parcel over the connection that there is now. Where it gets to is not asked, nor when: who would wait for it to be
/// on the wire is woken for that.
pub(super) async fn toss(link: &Link, parcel: Parcel) {
    let Some(live) = link.live_now() else { return };
    let Parcel { route, bytes, properties, .. } = parcel;
    let tossing = async {
        let mut open = live.publishers.tossing.lock().await;
        let channel = match &*open {
            Some(channel) if channel.status().connected() => channel,
            _ => open.insert(live.connection.create_channel().await?),
        };
        let (exchange, key) = (route.exchange.as_str().into(), route.key.as_str().into());
        // The first poll hands it to the client.
        let sending = channel.basic_publish(exchange, key, BasicPublishOptions::default(), &bytes, properties);
        sending.now_or_never().transpose().map(drop)
    };
    if let Err(error) = tossing.await {
        tracing::warn!(error = why(&error), "what is in a hurry could not be sent");
    }
}

/// Publishes a parcel over whatever connection there is, again after a break, until the broker has confirmed it or
/// patience is over. A break may double it: recording is once.
pub(super) async fn post(
    link: &Link,
    topology: &super::Topology,
    parcel: Parcel,
    patience: Option<Duration>,
) -> Result<(), BrokerError> {
    let parcel = Arc::new(parcel);
    let until = patience.map(|patience| Instant::now() + patience);
    let mut is_sent = false;
    loop {
        let live = link.live(until).await.map_err(|error| not_confirmed(error, is_sent))?;
        match live.publishers.ready_step(link, &live, &parcel.route, topology).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                live.broken.cancel();
                continue;
            }
            Err(error) => return Err(error),
        }
        let publishing = publish(&live, Arc::clone(&parcel));
        let fate = match until {
            Some(until) => {
                tokio::time::timeout_at(until, publishing).await.map_err(|_| not_confirmed(link.trouble(), true))?
            }
            None => publishing.await,
        };
        let refused = |kind, reason: String| {
            let key = &parcel.route.key;
            Err(BrokerError { kind, action: format!("publish to {key} at {}", link.addresses()), reason })
        };
        match fate {
            Fate::Confirmed => return Ok(()),
            Fate::Nacked => return refused(BrokerErrorKind::Refused, "the broker refused the message (nack)".into()),
            Fate::Returned(reason) => return refused(BrokerErrorKind::Unroutable, reason),
            Fate::Unsent => live.broken.cancel(),
            Fate::Unknown => {
                is_sent = true;
                live.broken.cancel();
            }
        }
    }
}

/// Why the broker has not confirmed a message in time. Of one that was sent it may have it all the same.
fn not_confirmed(error: BrokerError, is_sent: bool) -> BrokerError {
    match error.kind {
        BrokerErrorKind::Unreachable if is_sent => BrokerError { kind: BrokerErrorKind::NotConfirmed, ..error },
        _ => error,
    }
}

/// The one task that publishes on a channel: confirms are told apart by the order of publishing, so no two may.
struct Publisher<'c> {
    channel: &'c Channel,
    /// What was sent and is not settled, in the order of sending.
    sent: VecDeque<(Request, Sent<'c>)>,
    /// How many of them, from the first on, have left.
    left: usize,
    /// The numbers of messages that came back. The client hands a returned message to whichever confirm comes next.
    returned: HashSet<u64>,
}

enum Sent<'c> {
    Leaving(BoxFuture<'c, Result<PublisherConfirm, lapin::Error>>),
    Waiting(PublisherConfirm),
    Came(Box<Result<Confirmation, lapin::Error>>),
}

/// Begins to publish on a channel.
fn start(channel: Channel, broken: &CancellationToken) -> mpsc::Sender<Request> {
    let (requests, waiting) = mpsc::channel(WAITING);
    tokio::spawn(publish_all(channel, waiting, broken.clone()));
    requests
}

async fn publish_all(channel: Channel, mut waiting: mpsc::Receiver<Request>, broken: CancellationToken) {
    let mut publisher = Publisher { channel: &channel, sent: VecDeque::new(), left: 0, returned: HashSet::new() };
    let mut requests = Vec::new();
    loop {
        let room = publisher.room();
        let is_alive = tokio::select! {
            biased;
            () = broken.cancelled() => false,
            is_alive = publisher.confirms(), if !publisher.sent.is_empty() => is_alive,
            count = waiting.recv_many(&mut requests, room), if room > 0 => count > 0,
        };
        for request in requests.drain(..) {
            publisher.send(request);
        }
        if !is_alive {
            // Whoever waits finds its sender gone, and publishes again over the next connection.
            broken.cancel();
            return;
        }
    }
}

impl Publisher<'_> {
    /// How many more may be sent now.
    fn room(&self) -> usize {
        let leaving = self.sent.len() - self.left;
        (WINDOW - self.sent.len()).min(LEAVING - leaving)
    }

    /// Hands a message to the client. It leaves in its turn, several in one write; to wait for each would cost a change
    /// of threads and a system call a message.
    fn send(&mut self, request: Request) {
        let (channel, parcel) = (self.channel, Arc::clone(&request.parcel));
        let properties = parcel.properties.clone().with_message_id(request.number.to_string().as_str().into());
        let mut leaving = Box::pin(async move {
            let Parcel { route, bytes, is_mandatory, .. } = &*parcel;
            let options = BasicPublishOptions { mandatory: *is_mandatory, ..Default::default() };
            let (exchange, key) = (route.exchange.as_str().into(), route.key.as_str().into());
            channel.basic_publish(exchange, key, options, bytes, properties).await
        });
        // The first poll gives it its place in the order.
        let sent = match (&mut leaving).now_or_never() {
            Some(result) => Sent::of(result),
            None => Sent::Leaving(leaving),
        };
        self.sent.push_back((request, sent));
    }

    /// Resolves when messages have left or confirms have come, and settles from the oldest on as far as there is no gap:
    /// only then is every returned message known that one of them may have brought for another. Dropping it loses
    /// nothing.
    async fn confirms(&mut self) -> bool {
        std::future::poll_fn(|context| {
            // Confirms come nearly in order: behind an open one there is rarely a closed one.
            let is_any = self.look(context, false);
            if let Some((_, Sent::Came(_))) = self.sent.front() {
                // Of those that one answer of the broker's confirms, the client may have given the oldest's return to any
                // other; to that before it confirmed the oldest. Until there is none behind that could have come meanwhile.
                while self.look(context, true) {}
            }
            if is_any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        while let Some((_, Sent::Came(_))) = self.sent.front() {
            let Some((request, Sent::Came(came))) = self.sent.pop_front() else { break };
            self.left -= 1;
            let fate = match *came {
                _ if self.returned.remove(&request.number) => {
                    Fate::Returned(format!("no queue takes what goes to {}", request.parcel.route.key))
                }
                Ok(Confirmation::Ack(_)) => Fate::Confirmed,
                Ok(Confirmation::Nack(_)) => Fate::Nacked,
                Ok(Confirmation::NotRequested) => return false,
                Err(error) => {
                    tracing::debug!(error = why(&error), "a message was not confirmed");
                    return false;
                }
            };
            // Whoever waited may have given up.
            drop(request.tell.send(fate));
        }
        true
    }
}

impl Publisher<'_> {
    /// Sees what has left and what is confirmed, up to the first that is not or all; whether there was any.
    fn look(&mut self, context: &mut Context<'_>, all: bool) -> bool {
        let mut is_any = false;
        // They leave in order.
        while let Some((_, sent)) = self.sent.get_mut(self.left) {
            if let Sent::Leaving(leaving) = sent {
                let Poll::Ready(result) = leaving.as_mut().poll(context) else { break };
                *sent = Sent::of(result);
            }
            self.left += 1;
            is_any = true;
        }
        for (_, sent) in &mut self.sent {
            match sent {
                Sent::Leaving(_) => break,
                Sent::Waiting(confirm) => match std::pin::Pin::new(confirm).poll(context) {
                    Poll::Ready(came) => {
                        is_any = true;
                        if let Ok(Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back))) = &came
                            && let Some(id) = back.delivery.properties.message_id()
                        {
                            self.returned.extend(id.as_str().parse::<u64>().ok());
                        }
                        *sent = Sent::Came(Box::new(came));
                    }
                    Poll::Pending if all => {}
                    Poll::Pending => break,
                },
                Sent::Came(_) => {}
            }
        }
        is_any
    }
}

impl Sent<'_> {
    fn of(result: Result<PublisherConfirm, lapin::Error>) -> Self {
        match result {
            Ok(confirm) => Self::Waiting(confirm),
            Err(error) => Self::Came(Box::new(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::rabbitmq::{Options, RabbitMq};
    use crate::broker::{Broker as _, Queue, conformance};
    use crate::task::Lane;

    #[test]
    fn of_a_message_that_was_sent_nobody_knows_whether_it_arrived() {
        use BrokerErrorKind::{Blocked, Mismatch, NotConfirmed, Unreachable};
        let after = |kind, is_sent| {
            let error = BrokerError { kind, action: "publish".into(), reason: "the connection broke".into() };
            not_confirmed(error, is_sent).kind
        };

        assert_eq!((after(Unreachable, false), after(Unreachable, true)), (Unreachable, NotConfirmed));
        assert_eq!([Blocked, Mismatch].map(|kind| after(kind, true)), [Blocked, Mismatch], "they say what to mend");
    }

    #[tokio::test]
    async fn whoever_has_patience_waits_no_longer_though_others_wait_for_ever() {
        let broker = RabbitMq::connect(Options {
            url: "amqp://127.0.0.1:1".into(),
            password: None,
            prefix: "tidemill".into(),
            name: "test".into(),
            patience: None,
            look_ahead: None,
            used: None,
        });
        let broker = broker.unwrap();
        let queue = Queue::Jobs(Lane::Cpu);
        let for_ever = tokio::spawn({
            let broker = broker.clone();
            async move { broker.publish(queue, conformance::work(0)).await }
        });

        let error = broker.with_patience(Duration::from_millis(100)).publish(queue, conformance::work(1)).await;

        assert_eq!(error.unwrap_err().kind, BrokerErrorKind::Unreachable);
        assert!(!for_ever.is_finished());
        for_ever.abort();
    }
}
