//! Consuming: deliveries of one queue, over however many connections it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::Fuse;
use futures::{FutureExt as _, StreamExt as _};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::link::{Live, why};
use super::pace::Pace;
use super::settle::{Settled, settle_all};
use super::{RabbitMq, message};
use crate::broker::{BrokerError, BrokerErrorKind, Deliveries, Delivery, Incoming, Permits, Queue};

/// Quorum queues allow no larger prefetch.
const MOST: usize = 2000;
/// How long urgent work that waits already is given to arrive before other work is asked for.
const URGENT_FIRST: Duration = Duration::from_secs(2);
/// How long the broker may wait for an acknowledgement: eight days, longer than any attempt takes. What it takes back counts
/// as a crash, and whether a worker lives it knows by its connection.
const WAIT_FOR_ACK_MS: i64 = 8 * 24 * 60 * 60 * 1000;

/// How long the broker may take to hand out no more.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// Starts to consume; see [`crate::broker::Broker::consume`].
pub(super) async fn consume(
    broker: &RabbitMq,
    queue: Queue,
    permits: Permits,
    stop: CancellationToken,
) -> Result<Deliveries, BrokerError> {
    let until = broker.patience.map(|patience| Instant::now() + patience);
    let live = broker.consuming.get().live(until).await?;
    let pace = Pace::new(queue, permits.0.clamp(1, MOST), broker.look_ahead);
    Ok(Box::new(Intake {
        broker: broker.clone(),
        queue,
        permits: Arc::new(Semaphore::new(pace.prefetch.into())),
        excess: 0,
        pace,
        stop,
        subscription: None,
        first: Some(live),
        is_told: false,
    }))
}

/// Takes one message; see [`crate::broker::Broker::take_one`]. Without a subscription nothing comes unasked for: what is given
/// back counts as delivered once more.
pub(super) async fn take_one(broker: &RabbitMq, queue: Queue) -> Result<Option<Delivery>, BrokerError> {
    let until = broker.patience.map(|patience| Instant::now() + patience);
    let live = broker.consuming.get().live(until).await?;
    let failed = |error: lapin::Error| BrokerError {
        kind: BrokerErrorKind::Unreachable,
        action: format!("take a message from {queue}"),
        reason: why(&error),
    };
    let channel = live.connection.create_channel().await.map_err(failed)?;
    let (settler, settled) = mpsc::channel(1);
    broker.settling.spawn(settle_all(channel.clone(), settled, Arc::clone(&live), Arc::new(AtomicU16::new(1))));
    for name in broker.topology.names(queue) {
        while let Some(got) =
            channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.map_err(failed)?
        {
            if let Some(delivery) = hand_out(broker, queue, got.delivery, &settler, None) {
                return Ok(Some(delivery));
            }
        }
    }
    Ok(None)
}

/// The delivery of a message; `None` of one that cannot be read, which goes to the dead letters.
fn hand_out(
    broker: &RabbitMq,
    queue: Queue,
    mut came: lapin::message::Delivery,
    settler: &mpsc::Sender<Settled>,
    permit: Option<OwnedSemaphorePermit>,
) -> Option<Delivery> {
    let redelivered = message::redelivered(&came);
    let kind = came.properties.kind().as_ref().map(|kind| kind.as_str().to_owned());
    let (broker, settler) = (broker.clone(), settler.clone());
    let held = Held { broker, tag: came.delivery_tag, settler, _permit: permit, body: None, kind };
    match message::read(&mut came, queue == Queue::Dead) {
        Ok(message) => {
            let message = Arc::new(message);
            let held = Held { body: Some(Arc::clone(&message)), ..held };
            Some(Delivery::new(message, redelivered, Box::new(held)))
        }
        Err((malformed, bytes)) => {
            tracing::warn!(%queue, reason = %malformed, "a message cannot be read, it goes to the dead letters");
            // By itself: whoever asks for the next message may ask once and no more.
            let settling = held.broker.settling.clone();
            settling.spawn(async move { held.bury(bytes, &malformed.to_string()).await });
            None
        }
    }
}

/// A consumer that subscribes again whenever its subscription ends.
struct Intake {
    broker: RabbitMq,
    queue: Queue,
    permits: Arc<Semaphore>,
    /// Permits that are out and go when they come back.
    excess: usize,
    pace: Pace,
    stop: CancellationToken,
    subscription: Option<Subscription>,
    first: Option<Arc<Live>>,
    /// Whether it was said that it cannot subscribe.
    is_told: bool,
}

/// What a channel delivers until it breaks.
struct Subscription {
    live: Arc<Live>,
    /// The most urgent first. Fused: the client tells the end of a consumer once, and it counts later too.
    queues: Vec<Fuse<Consumer>>,
    channel: Channel,
    settler: mpsc::Sender<Settled>,
    /// How many messages are asked for at a time; the settling task goes by it.
    prefetch: Arc<AtomicU16>,
    /// Consumers on their way that ask for so many at a time; those that they replace end before. In a task of its own: whoever
    /// waits for the next delivery may cease to at any moment, and what has come to a consumer must not be lost with it.
    asking: Option<JoinHandle<Asked>>,
    /// Consumers that were replaced, with what had come to them, and their places among the queues.
    leftover: Vec<(usize, Fuse<Consumer>)>,
}

/// New consumers, and how many messages they ask for at a time.
type Asked = Result<(u16, Vec<Fuse<Consumer>>), lapin::Error>;

impl Subscription {
    /// Asks for so many messages at a time: a consumer keeps the prefetch that it began with, so new ones take the places
    /// of the old ones on the same channel, as soon as they are there. What was delivered stays ours. The old ones are
    /// cancelled whether anybody takes what has come or not, for the broker fills them up with every acknowledgement.
    fn ask_for(&mut self, queue: Queue, prefetch: u16) {
        let channel = self.channel.clone();
        let old: Vec<_> = self.queues.iter().map(|queue| (queue.get_ref().queue(), queue.get_ref().tag())).collect();
        self.asking = Some(tokio::spawn(async move {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let mut fresh = Vec::with_capacity(old.len());
            for (name, tag) in old {
                channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
                let options = BasicConsumeOptions::default();
                fresh.push(channel.basic_consume(name, "".into(), options, asked(queue)).await?.fuse());
            }
            Ok((prefetch, fresh))
        }));
    }

    /// Lets the consumers that were asked for take their places, once they are there.
    fn take_their_places(&mut self, context: &mut Context<'_>) {
        let Some(asking) = &mut self.asking else { return };
        let Poll::Ready(asked) = asking.poll_unpin(context) else { return };
        self.asking = None;
        let (prefetch, fresh) = match asked {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => {
                // The channel is broken by it, and those that there are have ended or end.
                tracing::debug!(error = why(&error), "cannot ask for another number of messages at a time");
                return;
            }
            // A panic, which the hook has logged. Where those that there are have ended, the subscription is over.
            Err(_) => return,
        };
        self.prefetch.store(prefetch, Ordering::Relaxed);
        let old = std::mem::replace(&mut self.queues, fresh);
        self.leftover.extend(old.into_iter().enumerate());
    }
}

#[async_trait]
impl Incoming<Delivery> for Intake {
    async fn next(&mut self) -> Option<Delivery> {
        let stop = self.stop.clone();
        let next = stop.run_until_cancelled(self.take()).await;
        if next.is_none()
            && let Some(subscription) = self.subscription.take()
        {
            subscription.give_back().await;
        }
        next
    }
}

impl Intake {
    /// Lets so many be held from now on.
    fn permit(&mut self, before: usize, now: usize) {
        if let Some(less) = before.checked_sub(now) {
            self.excess += less - self.permits.forget_permits(less);
        } else {
            let paid = self.excess.min(now - before);
            self.excess -= paid;
            self.permits.add_permits(now - before - paid);
        }
    }

    async fn take(&mut self) -> Delivery {
        loop {
            let began = Instant::now();
            // Closed never: the semaphore is ours.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { continue };
            if self.excess > 0 {
                permit.forget();
                self.excess -= 1;
                continue;
            }
            let waited = began.elapsed();
            let subscription = match &mut self.subscription {
                Some(subscription) => subscription,
                none => {
                    let (prefetch, first) = (self.pace.prefetch, self.first.take());
                    let fresh = subscribe(&self.broker, self.queue, prefetch, first, &mut self.is_told).await;
                    let Some(fresh) = fresh else { continue };
                    none.insert(fresh)
                }
            };
            let Some(came) = subscription.next().await else {
                // One of its queues may have ended; what has come from the other is not to wait for the channel's end.
                if let Some(subscription) = self.subscription.take() {
                    subscription.give_back().await;
                }
                continue;
            };
            // From here on nothing waits: with this future what came would be dropped, and not come again.
            let settler = subscription.settler.clone();
            let before = self.pace.prefetch;
            self.pace.handed_out(waited, came.data.len());
            if subscription.asking.is_none()
                && let Some(prefetch) = self.pace.change()
            {
                tracing::debug!(queue = %self.queue, before, prefetch, "messages are of another length or size now, asking for others at a time");
                subscription.ask_for(self.queue, prefetch);
                self.permit(before.into(), prefetch.into());
            }
            if let Some(delivery) = hand_out(&self.broker, self.queue, came, &settler, Some(permit)) {
                return delivery;
            }
        }
    }
}

impl Subscription {
    /// Gives back what came and nobody was handed. What is still on its way goes back when the channel closes, with the
    /// last delivery that somebody holds.
    async fn give_back(self) {
        let Self { channel, mut queues, leftover, settler, asking, .. } = self;
        if let Some(asking) = asking
            && let Ok(Ok(Ok((_, fresh)))) = tokio::time::timeout(CANCEL_WITHIN, asking).await
        {
            queues.extend(fresh);
        }
        // First: what is given back while the broker still hands out comes here again, and counts twice.
        let cancelling =
            queues.iter().map(|queue| channel.basic_cancel(queue.get_ref().tag(), BasicCancelOptions::default()));
        drop(tokio::time::timeout(CANCEL_WITHIN, join_all(cancelling)).await);
        queues.extend(leftover.into_iter().map(|(_, old)| old));
        for queue in &mut queues {
            while let Some(Some(Ok(delivery))) = queue.next().now_or_never() {
                drop(settler.send(Settled::GiveBack(delivery.delivery_tag)).await);
            }
        }
    }

    /// The next delivery, of the most urgent queue that has one; `None` when the subscription is over.
    async fn next(&mut self) -> Option<lapin::message::Delivery> {
        let broken = self.live.broken.clone();
        let next = std::future::poll_fn(|context| {
            self.take_their_places(context);
            let Self { queues, leftover, asking, .. } = &mut *self;
            for (place, queue) in queues.iter_mut().enumerate() {
                // What came before, first.
                let mut n = 0;
                while let Some((of, old)) = leftover.get_mut(n) {
                    if *of != place {
                        n += 1;
                        continue;
                    }
                    match old.poll_next_unpin(context) {
                        Poll::Ready(Some(Ok(delivery))) => return Poll::Ready(Some(delivery)),
                        // It is cancelled, so it ends.
                        Poll::Ready(_) => drop(leftover.remove(n)),
                        Poll::Pending => n += 1,
                    }
                }
                if let Poll::Ready(came) = queue.poll_next_unpin(context) {
                    // It has given all that it had, and its successor is on its way.
                    if came.is_none() && asking.is_some() {
                        continue;
                    }
                    // An end, and an error, are the broker's way to say that this subscription is over.
                    if let Some(Err(error)) = &came
                        && is_out_of_patience(error)
                    {
                        tracing::warn!(
                            error = why(error),
                            "an item takes longer than the broker waits; it is handed out again, and that counts as a \
                             crash: set the broker's consumer_timeout higher than items take"
                        );
                    }
                    return Poll::Ready(came.and_then(Result::ok));
                }
            }
            Poll::Pending
        });
        broken.run_until_cancelled(next).await.flatten()
    }
}

/// Subscribes over the connection there is; `None` where that breaks meanwhile.
async fn subscribe(
    broker: &RabbitMq,
    queue: Queue,
    prefetch: u16,
    first: Option<Arc<Live>>,
    is_told: &mut bool,
) -> Option<Subscription> {
    let live = match first.filter(|live| !live.broken.is_cancelled()) {
        Some(live) => live,
        // It waits as long as it takes; only what no waiting mends comes back as an error.
        None => match broker.consuming.get().live(None).await {
            Ok(live) => live,
            Err(error) => {
                tracing::warn!(%error, "cannot consume, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                return None;
            }
        },
    };
    match open(broker, queue, prefetch, &live).await {
        Ok(subscription) => {
            *is_told = false;
            Some(subscription)
        }
        Err(error) => {
            if !live.connection.status().connected() {
                live.broken.cancel();
            } else if !std::mem::replace(is_told, true) {
                tracing::warn!(error = why(&error), %queue, "cannot subscribe, trying again");
            }
            // A channel error alone (the queue was deleted, say) must not make this spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn open(broker: &RabbitMq, queue: Queue, prefetch: u16, live: &Arc<Live>) -> Result<Subscription, lapin::Error> {
    let channel = live.connection.create_channel().await?;
    // Before basic.consume: the client keeps what comes in memory, however much it is.
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut queues = Vec::new();
    let names = broker.topology.names(queue);
    for (place, name) in names.iter().enumerate() {
        if matches!(queue, Queue::Express(_)) {
            broker.topology.declare_express(&channel, name).await?;
        }
        let (name, options) = (name.as_str().into(), BasicConsumeOptions::default());
        let consumer = channel.basic_consume(name, "".into(), options, asked(queue)).await?;
        queues.push(consumer.fuse());
        if place + 1 < names.len() {
            wait_for_urgent(&channel, &names[place]).await?;
        }
    }
    let (settler, settled) = mpsc::channel(MOST);
    let prefetch = Arc::new(AtomicU16::new(prefetch));
    broker.settling.spawn(settle_all(channel.clone(), settled, Arc::clone(live), Arc::clone(&prefetch)));
    let (live, asking, leftover) = (Arc::clone(live), None, Vec::new());
    Ok(Subscription { live, queues, channel, settler, prefetch, asking, leftover })
}

/// What a consumer asks for besides. RabbitMQ before 4.3 does not look at it: there its own settings decide. From then on it
/// refuses it for a queue that is no quorum queue.
fn asked(queue: Queue) -> FieldTable {
    let mut fields = FieldTable::default();
    if !matches!(queue, Queue::Workers | Queue::Express(_)) {
        fields.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(WAIT_FOR_ACK_MS));
    }
    fields
}

/// Whether the broker has taken back what was not acknowledged in its `consumer_timeout`. Only its words tell.
fn is_out_of_patience(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    error.get_id() == 406 && error.get_message().as_str().contains("delivery acknowledgement")
}

/// Gives urgent work that waits already the time to arrive, so that nothing overtakes it. Only the queue's length is
/// looked at: the deliveries themselves stay where they come in.
async fn wait_for_urgent(channel: &Channel, name: &str) -> Result<(), lapin::Error> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let until = Instant::now() + URGENT_FIRST;
    let mut before = None;
    while Instant::now() < until {
        let waiting = channel.queue_declare(name.into(), passive, FieldTable::default()).await?.message_count();
        // None wait, or as many as before: all that the prefetch allows has been sent.
        if waiting == 0 || before == Some(waiting) {
            break;
        }
        before = Some(waiting);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
