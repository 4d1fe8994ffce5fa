//! HTTP: the API over store, broker and blobs.
//!
//! ```text
//!  socket ─▶ log ─▶ body ─▶ guard ─▶ ┬ batches, results, dead ─▶ Store, Broker
//!                                    ├ create, predict ─▶ Submitter
//!                                    ├ blobs ─▶ Blobs
//!                                    └ about, health, openapi
//!                    whatever goes wrong ─▶ problem (RFC 9457)
//! ```
//!
//! Every route is described in `http/openapi.json`; a test makes sure of it.

mod about;
mod asked;
mod batches;
mod blobs;
mod body;
mod connections;
mod create;
mod dead;
mod guard;
mod health;
mod log;
mod openapi;
mod predict;
mod problem;
mod pump;
mod results;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{self, DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::serve::ListenerExt as _;
use serde_json::Value;
use tidemill_core::blobs::Blobs;
use tidemill_core::broker::{Broker, Health};
use tidemill_core::settings::{ApiSettings, Secret};
use tidemill_core::store::{BatchInfo, Shared};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

pub use create::{Entry, NewBatch, NewRetry, SubmitError, SubmitErrorKind, Submitted, Submitter, check_key, is_one};
pub use health::{Role, install_metrics, serve_role};
pub use metrics_exporter_prometheus::PrometheusHandle;

use self::problem::Problem;

/// How long a stop waits for answers under way; streams are broken off at once, and their readers come back elsewhere.
const GRACE: Duration = Duration::from_secs(10);
/// How long the beginning of an answer may take; a stream may then go on for days.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long nobody asks why it takes so long.
const PATIENT_FOR: Duration = Duration::from_secs(1);
/// The largest body that is read whole, but for those that say otherwise.
const MAX_BODY_BYTES: usize = 1 << 20;
/// About how many bytes a list has: options of a batch, or a dead item's input, may have MiBs.
const MAX_LIST_BYTES: usize = 64 << 20;

/// What the API serves.
#[derive(Debug)]
pub struct Api {
    /// Where outcomes are.
    pub store: Arc<dyn Shared>,
    /// Where cancellations are announced, and whose health is told.
    pub broker: Arc<dyn Broker>,
    /// Whether others reach the broker too: whoever revives a dead item publishes it there.
    pub is_broker_shared: bool,
    /// Where blobs are stored; without one, `/v1/blobs` answers that there is none.
    pub blobs: Option<Blobs>,
    /// Publishes the batches that are created over HTTP; without one, `POST /v1/batches` answers that nobody does.
    pub submitter: Option<Arc<dyn Submitter>>,
    /// What `/v1/tasks` and `/v1/models` tell.
    pub catalogue: Catalogue,
    /// Where `/metrics` come from; see [`install_metrics`].
    pub metrics: Option<PrometheusHandle>,
    /// Who may call.
    pub access: Access,
    /// Nothing new is taken once this is cancelled; what was begun is still answered.
    pub stop_taking: CancellationToken,
}

impl Api {
    fn submitter(&self) -> Result<&dyn Submitter, Problem> {
        if self.stop_taking.is_cancelled() {
            return Err(Problem::stopping());
        }
        self.submitter.as_deref().ok_or_else(|| {
            Problem::not_done_here("no_submitter", "this results API publishes no batches; `tidemill submit` does")
        })
    }

    fn must_share_its_broker(&self) -> Result<(), Problem> {
        if self.is_broker_shared {
            return Ok(());
        }
        let detail = "nobody can publish the item again, for the broker is inside this process; send its input anew";
        Err(Problem::not_done_here("broker_not_shared", detail))
    }
}

/// Who may call.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What callers must present; without one, only this machine may call.
    pub token: Option<Secret>,
    /// Anybody may call even without a token: something else guards the API.
    pub is_open: bool,
    /// The names, beside localhost and addresses, by which it is called where there is no token.
    pub hosts: Vec<String>,
}

impl From<&ApiSettings> for Access {
    fn from(settings: &ApiSettings) -> Self {
        Self { token: settings.token.clone(), is_open: settings.open, hosts: settings.hosts.clone() }
    }
}

/// What there is to run, as the command `tidemill tasks --json` and `tidemill models --json` tell it.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// `{"about": {"name": …}, "schemas": …}` each.
    pub tasks: Vec<Value>,
    /// `{"folder": …, "card": {"name": …}}` each.
    pub models: Vec<Value>,
}

/// What every handler has at hand.
#[derive(Debug)]
struct Served {
    api: Api,
    /// For the bodies that are read whole.
    room: body::Room,
    /// Submissions that go on without their callers.
    submitting: TaskTracker,
    /// Streams end when this is cancelled.
    stop: CancellationToken,
}

impl Access {
    /// Checks that nobody can call from elsewhere without a token, unless that is meant.
    ///
    /// # Errors
    /// [`ServeError::Unguarded`]
    pub fn check(&self, address: SocketAddr) -> Result<(), ServeError> {
        if self.token.is_none() && !self.is_open && !address.ip().is_loopback() {
            return Err(ServeError::Unguarded(address));
        }
        Ok(())
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A matter of settings: the message names the keys.
    #[error(
        "api.listen is {0}, which others can reach, and there is no token\n\
         set api.token or api.token_file; or api.open = true where something else guards the API"
    )]
    Unguarded(SocketAddr),
    /// The system would not.
    #[error("cannot serve the results API: {0}")]
    System(#[from] std::io::Error),
}

/// Serves until `stop` is cancelled and the answers under way have ended.
///
/// # Errors
/// [`ServeError::Unguarded`] where others could call and need no token.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    api.access.check(address)?;
    tracing::info!(%address, "the results API listens");
    let submitting = TaskTracker::new();
    let room = body::Room::default();
    let router = router(Arc::new(Served { api, room, submitting: submitting.clone(), stop: stop.clone() }));
    let serving = async {
        connections::serve(listener.tap_io(prepare), router, stop.clone()).await;
        submitting.close();
        submitting.wait().await;
    };
    let grace_is_over = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = serving => {}
        () = grace_is_over => tracing::warn!("some answers had not ended and were broken off"),
    }
    Ok(())
}

/// A reader that vanished without a word would be waited for as long as its batch runs.
fn prepare(socket: &mut TcpStream) {
    let keep_alive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    let prepared =
        socket.set_nodelay(true).and_then(|()| socket2::SockRef::from(&*socket).set_tcp_keepalive(&keep_alive));
    if let Err(error) = prepared {
        tracing::debug!(%error, "a socket has the system's own options");
    }
}

/// Every route.
fn router(served: Arc<Served>) -> Router {
    let guarded = Router::new()
        .route("/v1/batches", get(batches::list))
        .route("/v1/batches/{id}", get(batches::show).delete(batches::cancel))
        .route("/v1/batches/{id}/accepted", put(batches::accept))
        .route("/v1/batches/{id}/results", get(results::stream))
        .route("/v1/batches/{id}/items/{index}", get(results::item))
        .route("/v1/batches/{id}/items/{index}/revive", post(dead::revive))
        .route("/v1/dead", get(dead::list))
        .route("/v1/tasks", get(about::tasks))
        .route("/v1/tasks/{name}", get(about::task))
        .route("/v1/models", get(about::models))
        .route("/v1/workers", get(about::workers))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&served), bounded))
        .merge(counting(&served))
        // Bounded by itself: that something is away is what it tells.
        .route("/metrics", get(health::metrics))
        .merge(uploads())
        .route_layer(middleware::from_fn(body::only_plain))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&served), guard::guard));
    Router::new()
        .merge(guarded)
        .route("/healthz", get(health::lives))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::description))
        .fallback(|| async { Problem::no_such_address() })
        .method_not_allowed_fallback(|method: Method| async move { Problem::method_not_allowed(&method) })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(body::lend))
        .layer(middleware::from_fn(log::log))
        .with_state(served)
}

/// Bounds how long an answer takes to begin. What is asked of a store that is away, or full, waits for it; its caller does
/// not.
async fn bounded(extract::State(served): extract::State<Arc<Served>>, request: Request, next: Next) -> Response {
    answer_unless_away(&served, Some(Instant::now() + ANSWER_WITHIN), request, next).await
}

/// The same for what takes as long as it takes: nobody waits longer for a store that is away.
async fn patient(extract::State(served): extract::State<Arc<Served>>, request: Request, next: Next) -> Response {
    answer_unless_away(&served, None, request, next).await
}

async fn answer_unless_away(served: &Served, late: Option<Instant>, request: Request, next: Next) -> Response {
    let only_reads = request.method().is_safe();
    let gives_up = async {
        let mut problem = Problem::late();
        loop {
            tokio::time::sleep(PATIENT_FOR).await;
            let until = late.unwrap_or_else(|| Instant::now() + ANSWER_WITHIN);
            match tokio::time::timeout_at(until, served.api.store.health()).await {
                Ok(Health::Away(reason)) => return Problem::away(format!("the store is away: {reason}")),
                Ok(Health::Blocked(reason)) => {
                    problem = Problem::away(format!("the store takes nothing now: {reason}"));
                    // One that is full can still be read, which may take its time.
                    if !only_reads {
                        return problem;
                    }
                }
                Ok(Health::Ready) => {}
                Err(_) if late.is_none() => return Problem::away("the store does not answer"),
                Err(_) => {}
            }
            if late.is_some_and(|late| Instant::now() >= late) {
                return problem;
            }
        }
    };
    tokio::select! {
        answer = next.run(request) => answer,
        problem = gives_up => problem.into_response(),
    }
}

/// The route that reads all of a batch before it answers.
fn counting(served: &Arc<Served>) -> Router<Arc<Served>> {
    Router::new()
        .route("/v1/batches/{id}/verify", get(batches::verify))
        .route_layer(middleware::from_fn_with_state(Arc::clone(served), patient))
}

/// The routes whose answer comes after a body that may be long.
fn uploads() -> Router<Arc<Served>> {
    let form_limit = DefaultBodyLimit::max(predict::MAX_FORM_BYTES);
    Router::new()
        .route("/v1/batches", post(create::create))
        .route("/v1/predict/classify", post(predict::classify).layer(form_limit))
        .route("/v1/predict/segment", post(predict::segment).layer(form_limit))
        .route("/v1/blobs", post(blobs::post))
        .route("/v1/blobs/{digest}", get(blobs::fetch).head(blobs::look).put(blobs::put))
        .layer(DefaultBodyLimit::disable())
}

/// Where a batch stands, in one word: `open` (more items may come), `running`, `cancelling`, `complete` or `cancelled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained above")]
pub enum State {
    Open,
    Running,
    Cancelling,
    Complete,
    Cancelled,
}

impl State {
    /// The batch's state.
    pub fn of(info: &BatchInfo) -> Self {
        let progress = &info.progress;
        match (progress.is_complete(), progress.cancelled) {
            (true, false) => Self::Complete,
            (true, true) => Self::Cancelled,
            (false, true) => Self::Cancelling,
            (false, false) if progress.total.is_none() => Self::Open,
            (false, false) => Self::Running,
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
