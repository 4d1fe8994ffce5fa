//! The cluster: what the commands that need one share.

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::blobs::Blobs;
use tidemill_core::broker::rabbitmq::{self, RabbitMq, Used};
use tidemill_core::broker::{BrokerError, BrokerErrorKind};
use tidemill_core::compute::available_cores;
use tidemill_core::settings::Settings;
use tidemill_core::store::redis::{self, Redis};
use tidemill_core::web::Web;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Exit};

/// How long a role that has ended waits for threads that are blocked: by a name that is looked up, a file that is written, a
/// model that is loaded.
const THREADS_WITHIN: Duration = Duration::from_secs(5);

/// The broker of the cluster. It is connected to in the background; [`ready`] waits for it.
///
/// `used`: all that it uses, for a command that is over soon.
pub(crate) fn broker(
    settings: &Settings,
    role: &str,
    patience: Option<Duration>,
    used: Option<Used>,
) -> Result<RabbitMq, CliError> {
    let broker = &settings.broker;
    if broker.url.is_memory() {
        return Err(CliError::new(Exit::Configuration, "broker.url is memory://, the broker inside one process")
            .hint("a cluster needs RabbitMQ: set broker.url, or TIDEMILL__BROKER__URL=amqp://host"));
    }
    RabbitMq::connect(rabbitmq::Options {
        url: broker.url.expose().to_owned(),
        password: broker.password.as_ref().map(|password| password.expose().to_owned()),
        prefix: broker.prefix.clone(),
        name: format!("tidemill {role} {}", own_name()),
        patience,
        look_ahead: Some(broker.look_ahead),
        used,
    })
    .map_err(|error| broker_error(&error))
}

/// Waits until the broker is there.
pub(crate) async fn ready(broker: &RabbitMq, patience: Option<Duration>) -> Result<(), CliError> {
    broker.ready(patience).await.map_err(|error| broker_error(&error))
}

/// A broker's trouble, for people.
pub(crate) fn broker_error(error: &BrokerError) -> CliError {
    let (exit, hint) = match error.kind {
        BrokerErrorKind::Unreachable | BrokerErrorKind::NotConfirmed => {
            (Exit::Unreachable, "is RabbitMQ running there? `tidemill doctor` says what can be reached")
        }
        BrokerErrorKind::Blocked => (Exit::Unreachable, "RabbitMQ is short of memory or disk; its log says which"),
        BrokerErrorKind::Mismatch => {
            (Exit::Configuration, "see broker.url and broker.password in `tidemill doctor --config`")
        }
        BrokerErrorKind::Unroutable | BrokerErrorKind::Refused => {
            (Exit::Fault, "was a queue deleted or limited? `tidemill doctor` says what there is")
        }
    };
    CliError::new(exit, error.to_string()).hint(hint)
}

/// The store of the cluster, which waits for Redis as long as it takes.
pub(crate) fn store(settings: &Settings) -> Result<Arc<Redis>, CliError> {
    let store = &settings.store;
    if store.url.is_memory() {
        return Err(CliError::new(Exit::Configuration, "store.url is memory://, the store inside one process")
            .hint("a cluster needs Redis: set store.url, or TIDEMILL__STORE__URL=redis://host"));
    }
    let redis = Redis::connect(redis::Options {
        url: store.url.clone(),
        password: store.password.clone(),
        prefix: store.prefix.clone(),
        ttl: settings.results.ttl,
        patience: None,
    });
    redis.map(Arc::new).map_err(|error| CliError::new(Exit::Configuration, error.to_string()))
}

/// Where workers store and fetch bytes.
pub(crate) fn blobs(settings: &Settings) -> Result<Blobs, CliError> {
    let limits = crate::fetch_limits(settings);
    let blobs = match &settings.blobs.url {
        None => Ok(Blobs::without_store(limits)),
        Some(url) => Blobs::at(url, limits, Some(settings.blobs.keep)),
    };
    blobs
        .map(|blobs| blobs.with_web(Web::new(settings.net.clone())))
        .map_err(|error| CliError::new(Exit::Configuration, format!("blobs.url: {error}")))
}

/// How many threads wait for servers in a process that has other things to do: half of the cores, as the others compute, or
/// are the servers'. On two cores a worker of short messages took a sixth less with one than with two, which woke each other.
pub(crate) fn waiting_threads() -> usize {
    (available_cores() / 2).max(1)
}

/// A runtime for a role, or for who waits for one.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| CliError::fault(format!("cannot start the runtime: {error}")))
}

/// Runs a role to its end. Where a second signal has dropped it, which gives `None`, nothing is waited for any more.
pub(crate) fn run_role<T>(
    threads: usize,
    role: impl Future<Output = Result<Option<T>, CliError>>,
) -> Result<Option<T>, CliError> {
    let runtime = runtime(threads)?;
    let ended = runtime.block_on(role);
    match &ended {
        Ok(None) => runtime.shutdown_background(),
        _ => runtime.shutdown_timeout(THREADS_WITHIN),
    }
    ended
}

/// The signals that end a process.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let heard = |kind| signal(kind).map_err(|error| CliError::fault(format!("cannot hear signals: {error}")));
        Ok(Self { interrupt: heard(SignalKind::interrupt())?, terminate: heard(SignalKind::terminate())? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs a role until it ends by itself or is told to: the first signal cancels `stop`, the second drops the role.
    pub(crate) async fn govern<T>(&mut self, stop: &CancellationToken, role: impl Future<Output = T>) -> Option<T> {
        let mut role = std::pin::pin!(role);
        tokio::select! {
            ended = &mut role => return Some(ended),
            () = self.next() => {}
        }
        tracing::info!("stopping: what is under way is finished; a second signal ends it at once");
        stop.cancel();
        tokio::select! {
            ended = &mut role => Some(ended),
            () = self.next() => None,
        }
    }
}

/// Host and process: what tells workers apart.
pub(crate) fn own_name() -> String {
    format!("{}-{}", gethostname::gethostname().to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_role_that_was_dropped_waits_for_no_thread() {
        let (let_go, held) = mpsc::channel::<()>();
        let role = async {
            let (begin, begun) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                begin.send(()).unwrap();
                held.recv().is_err()
            });
            begun.await.unwrap();
            Ok(None::<()>)
        };

        let ended = run_role(1, role);

        assert!(matches!(ended, Ok(None)));
        drop(let_go);
    }
}
