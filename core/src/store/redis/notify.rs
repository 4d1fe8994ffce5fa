//! Who waits for a batch to change: one connection listens for all of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use redis::RedisResult;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::Link;
use crate::lock::lock;

/// A message may be lost (a broken connection, a batch that expires); then it is only this late.
const MOMENT: Duration = Duration::from_secs(1);

/// Whoever reads a batch waits for it again and again: that long its channel is kept.
const KEEP: Duration = Duration::from_secs(10);

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Rings when a channel has had a message.
#[derive(Debug)]
pub(super) struct Bell {
    link: Arc<Link>,
    shared: Arc<Shared>,
    /// Ends the listening with the bell. Set when it begins.
    end: OnceLock<DropGuard>,
}

#[derive(Debug, Default)]
struct Shared {
    channels: Mutex<HashMap<String, Channel>>,
    /// There are other channels than before.
    has_changed: Notify,
}

#[derive(Debug)]
struct Channel {
    rings: watch::Sender<()>,
    wanted: Instant,
}

/// Somebody's ear at a channel.
pub(super) struct Ear {
    rings: watch::Receiver<()>,
}

impl Ear {
    /// Resolves when there was a message since the last time, or after a moment.
    pub(super) async fn ring_or_moment(&mut self) {
        // Late is harmless, and so is a bell that ended.
        drop(tokio::time::timeout(MOMENT, self.rings.changed()).await);
    }
}

impl Bell {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, shared: Arc::default(), end: OnceLock::new() }
    }

    /// Begins to listen to a channel.
    pub(super) fn listen(&self, channel: String) -> Ear {
        self.end.get_or_init(|| {
            let end = CancellationToken::new();
            let listening = listen(Arc::clone(&self.link), Arc::clone(&self.shared));
            tokio::spawn(end.clone().run_until_cancelled_owned(listening));
            end.drop_guard()
        });
        let mut channels = lock(&self.shared.channels);
        let known = channels.entry(channel).or_insert_with(|| {
            self.shared.has_changed.notify_one();
            Channel { rings: watch::Sender::default(), wanted: Instant::now() }
        });
        known.wanted = Instant::now();
        Ear { rings: known.rings.subscribe() }
    }
}

impl Shared {
    /// The channels that somebody listens to, or did a moment ago.
    fn wanted(&self) -> HashSet<String> {
        let mut channels = lock(&self.channels);
        channels.retain(|_, channel| channel.rings.receiver_count() > 0 || channel.wanted.elapsed() < KEEP);
        channels.keys().cloned().collect()
    }

    fn ring(&self, channel: &str) {
        let channels = lock(&self.channels);
        if let Some(channel) = channels.get(channel) {
            channel.rings.send_replace(());
        }
    }
}

/// Listens until it is dropped, on one connection after the other.
async fn listen(link: Arc<Link>, shared: Arc<Shared>) {
    let mut pause = PAUSES.0;
    loop {
        if let Ok(connection) = link.listen().await {
            pause = PAUSES.0;
            let (sink, messages) = connection.split();
            let ended = serve(sink, messages, &shared).await;
            tracing::debug!(?ended, "listen again for changes in the store");
        }
        // While it is away, those who wait look themselves, and say so.
        tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Passes messages on until the connection breaks.
async fn serve(mut sink: PubSubSink, mut messages: PubSubStream, shared: &Shared) -> RedisResult<()> {
    let mut heard = HashSet::new();
    let mut sweep = tokio::time::interval(KEEP);
    loop {
        // A connection that is dead and does not know it says nothing at all.
        match tokio::time::timeout(ANSWER, tune(&mut sink, &mut heard, shared)).await {
            Ok(tuned) => tuned?,
            Err(_) => return Ok(()),
        }
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => shared.ring(message.get_channel_name()),
                    None => return Ok(()),
                },
                () = shared.has_changed.notified() => break,
                _ = sweep.tick() => break,
            }
        }
    }
}

/// Listens to what is wanted and to nothing else.
async fn tune(sink: &mut PubSubSink, heard: &mut HashSet<String>, shared: &Shared) -> RedisResult<()> {
    let wanted = shared.wanted();
    for channel in heard.difference(&wanted) {
        sink.unsubscribe(channel).await?;
    }
    for channel in wanted.difference(heard) {
        sink.subscribe(channel).await?;
        // What came before is lost: whoever listens looks once more.
        shared.ring(channel);
    }
    *heard = wanted;
    sink.ping::<redis::Value>().await.map(drop)
}
