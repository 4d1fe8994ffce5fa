//! A connection that is kept up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join;
use futures::{StreamExt as _, TryFutureExt as _};
use lapin::options::ConfirmSelectOptions;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::publish::Publishers;
use super::socket;
use super::topology::Topology;
use crate::broker::{BrokerError, BrokerErrorKind, Health};

/// The delays between two tries to connect begin here, double, and end there; each is drawn at random below.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// A connection that has lived for so long was well; one that breaks sooner counts as one that was not made.
const LASTING: Duration = Duration::from_secs(1);

/// A connection that was made, until it breaks.
pub(super) struct Live {
    /// Counts the connections of its link.
    pub(super) generation: u64,
    /// When it was made.
    since: Instant,
    pub(super) connection: Connection,
    pub(super) publishers: Publishers,
    /// Cancelled when it is found to be broken.
    pub(super) broken: CancellationToken,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Where a link stands.
#[derive(Clone, Debug)]
enum State {
    /// Connected; the reason if the broker takes nothing now.
    Up(Arc<Live>, Option<String>),
    /// Not connected; why not, and whether waiting may help.
    Down(BrokerErrorKind, String),
}

/// A connection that is made again whenever it breaks, until this value is dropped.
#[derive(Debug)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// Tells whoever waits that the state has changed, one after the other as they came: a batch's beginning leaves before
    /// its chunks.
    changed: Arc<Notify>,
    addresses: String,
    _ends_when_dropped: DropGuard,
}

impl Link {
    pub(super) fn keep(uris: Vec<AMQPUri>, name: String, topology: Topology) -> Self {
        let (tell, state) = watch::channel(State::Down(BrokerErrorKind::Unreachable, "not connected yet".into()));
        let stop = CancellationToken::new();
        let addresses = uris.iter().map(address).collect::<Vec<_>>().join(", ");
        let changed = Arc::<Notify>::default();
        let keeper = Keeper { uris, name, topology, state: tell, changed: Arc::clone(&changed) };
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(keeper.keep()).await });
        Self { state, changed, addresses, _ends_when_dropped: stop.drop_guard() }
    }

    pub(super) fn addresses(&self) -> String {
        self.addresses.clone()
    }

    /// The connection, once there is one.
    pub(super) async fn live(&self, until: Option<Instant>) -> Result<Arc<Live>, BrokerError> {
        self.wait(until, |state| match state {
            State::Up(live, _) if !live.broken.is_cancelled() => Some(Ok(Arc::clone(live))),
            State::Down(BrokerErrorKind::Mismatch, reason) => Some(Err(self.error(BrokerErrorKind::Mismatch, reason))),
            _ => None,
        })
        .await?
    }

    /// The connection, if there is one now that takes messages.
    pub(super) fn live_now(&self) -> Option<Arc<Live>> {
        match &*self.state.borrow() {
            State::Up(live, None) if !live.broken.is_cancelled() => Some(Arc::clone(live)),
            _ => None,
        }
    }

    /// Waits until `look` finds something in the state. An error once `until` is there.
    async fn wait<T>(&self, until: Option<Instant>, look: impl Fn(&State) -> Option<T>) -> Result<T, BrokerError> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = look(&self.state.borrow()) {
                    return found;
                }
                changed.await;
            }
        };
        let found = match until {
            Some(until) => tokio::time::timeout_at(until, waiting).await.ok(),
            None => Some(waiting.await),
        };
        found.ok_or_else(|| self.trouble())
    }

    /// Why the broker cannot be worked with now, as an error.
    pub(super) fn trouble(&self) -> BrokerError {
        match &*self.state.borrow() {
            State::Up(_, Some(reason)) => self.error(BrokerErrorKind::Blocked, reason),
            State::Up(_, None) => self.error(BrokerErrorKind::NotConfirmed, "it did not confirm in time"),
            State::Down(kind, reason) => self.error(*kind, reason),
        }
    }

    /// Since when there is a connection again, where one was lost before; now, while there is none.
    pub(super) fn back_since(&self) -> Option<Instant> {
        match &*self.state.borrow() {
            State::Up(live, _) if !live.broken.is_cancelled() => (live.generation > 0).then_some(live.since),
            State::Up(..) | State::Down(..) => Some(Instant::now()),
        }
    }

    fn error(&self, kind: BrokerErrorKind, reason: &str) -> BrokerError {
        BrokerError { kind, action: format!("work with the broker at {}", self.addresses), reason: reason.to_owned() }
    }

    pub(super) fn health(&self) -> Health {
        match &*self.state.borrow() {
            State::Up(_, None) => Health::Ready,
            State::Up(_, Some(reason)) => Health::Blocked(reason.clone()),
            State::Down(_, reason) => Health::Away(reason.clone()),
        }
    }
}

/// The task behind a link.
struct Keeper {
    uris: Vec<AMQPUri>,
    name: String,
    topology: Topology,
    state: watch::Sender<State>,
    changed: Arc<Notify>,
}

impl Keeper {
    async fn keep(self) {
        let (mut generation, mut tries, mut delay) = (0, 0, FIRST_DELAY);
        loop {
            let uri = &self.uris[tries % self.uris.len()];
            tries += 1;
            match self.connect(uri, generation).await {
                Ok(live) => {
                    tracing::debug!(broker = address(uri), link = self.name, generation, "connected to the broker");
                    if generation > 0 {
                        tracing::info!(broker = address(uri), link = self.name, "the broker is back");
                    }
                    generation += 1;
                    self.tell(State::Up(Arc::clone(&live), None));
                    let reason = self.watch(&live).await;
                    live.broken.cancel();
                    tracing::warn!(broker = address(uri), link = self.name, error = reason, "the broker is away");
                    self.tell(State::Down(BrokerErrorKind::Unreachable, reason));
                    if live.since.elapsed() >= LASTING {
                        delay = FIRST_DELAY;
                    } else {
                        // What ends a connection as soon as there is one is met again by the next.
                        pause(&mut delay).await;
                    }
                }
                Err((kind, reason)) => {
                    let is_news = !matches!(&*self.state.borrow(), State::Down(_, told) if *told == reason);
                    if is_news {
                        tracing::warn!(
                            broker = address(uri),
                            link = self.name,
                            error = reason,
                            "cannot connect to the broker"
                        );
                        self.tell(State::Down(kind, reason));
                    }
                    pause(&mut delay).await;
                }
            }
        }
    }

    fn tell(&self, state: State) {
        self.state.send_replace(state);
        self.changed.notify_waiters();
    }

    async fn connect(&self, uri: &AMQPUri, generation: u64) -> Result<Arc<Live>, (BrokerErrorKind, String)> {
        let why = |error: lapin::Error| (kind_of(&error), why(&error));
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let connecting = socket::connect(uri.clone(), properties);
        let patience = Duration::from_millis(uri.query.connection_timeout.unwrap_or(super::CONNECTION_TIMEOUT_MS));
        let connection = tokio::time::timeout(patience, connecting)
            .await
            .map_err(|_| (BrokerErrorKind::Unreachable, format!("no answer within {patience:?}")))?
            .map_err(why)?;
        let broken = CancellationToken::new();
        // All over one channel, for each costs the broker a millisecond. A mismatch closes it, and the connection is given up
        // with it.
        let channel = connection.create_channel().await.map_err(why)?;
        let confirming = channel.confirm_select(ConfirmSelectOptions::default()).map_err(why);
        // The first to fail is why the other does.
        try_join(self.topology.declare(&channel), confirming).await?;
        let publishers = Publishers::new(channel, &broken);
        Ok(Arc::new(Live { generation, since: Instant::now(), connection, publishers, broken }))
    }

    /// Resolves when the connection is broken, with the reason.
    async fn watch(&self, live: &Arc<Live>) -> String {
        // Exactly one listener: several would each get a part of the events.
        let mut events = Box::pin(live.connection.events_listener());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = live.broken.cancelled() => return "the connection broke".into(),
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(link = self.name, reason, "the broker takes nothing now");
                    self.tell(State::Up(Arc::clone(live), Some(reason)));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(link = self.name, "the broker takes messages again");
                    self.tell(State::Up(Arc::clone(live), None));
                }
                // A channel's own error is no reason to give up the connection; whoever has the channel finds out.
                Some(Event::Error(error)) if live.connection.status().connected() => {
                    tracing::debug!(link = self.name, %error, "an error on the connection");
                }
                Some(Event::Error(error)) => return why(&error),
                Some(_) => {}
                None => return "the connection ended".into(),
            }
        }
    }
}

/// Waits a while, and longer the next time.
async fn pause(delay: &mut Duration) {
    tokio::time::sleep(delay.mul_f64(fastrand::f64())).await;
    *delay = (2 * *delay).min(LAST_DELAY);
}

/// An address without its password.
fn address(uri: &AMQPUri) -> String {
    let scheme = match uri.scheme {
        lapin::uri::AMQPScheme::AMQP => "amqp",
        lapin::uri::AMQPScheme::AMQPS => "amqps",
    };
    let host = &uri.authority.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!("{scheme}://{host}:{}", uri.authority.port)
}

/// Whether waiting may help.
fn kind_of(error: &lapin::Error) -> BrokerErrorKind {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) if matches!(error.get_id(), 403 | 406 | 530) => {
            BrokerErrorKind::Mismatch
        }
        _ => BrokerErrorKind::Unreachable,
    }
}

/// What the client says, for people.
pub(super) fn why(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) if error.get_id() == 403 => {
            format!("{}; are user, password and virtual host right?", error.get_message())
        }
        lapin::ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => crate::failure::chain(error),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::stream::FuturesUnordered;

    use super::*;

    #[tokio::test]
    async fn whoever_waited_first_goes_on_first() {
        let down = |reason: &str| State::Down(BrokerErrorKind::Unreachable, reason.to_owned());
        let (state, seen) = watch::channel(down("not yet"));
        let changed = Arc::<Notify>::default();
        let link = Link {
            state: seen,
            changed: Arc::clone(&changed),
            addresses: String::new(),
            _ends_when_dropped: CancellationToken::new().drop_guard(),
        };
        let keeper =
            Keeper { uris: vec![], name: String::new(), topology: Topology::new("test", None), state, changed };
        let is_now = |state: &State| matches!(state, State::Down(_, reason) if reason == "now").then_some(());
        let mut waiting: FuturesUnordered<_> =
            (0..200).map(|number| link.wait(None, is_now).map(move |waited| waited.map(|()| number))).collect();
        assert!(waiting.next().now_or_never().is_none());

        keeper.tell(down("not yet either"));
        assert!(waiting.next().now_or_never().is_none());
        keeper.tell(down("now"));

        let order: Vec<_> = waiting.map(|waited| waited.unwrap()).collect().await;
        assert_eq!(order, (0..200).collect::<Vec<_>>());
    }
}
