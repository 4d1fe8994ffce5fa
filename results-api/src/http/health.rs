//! Health: whether the process lives, whether it can do its work, and its numbers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tidemill_core::broker::{Broker, Health, Queue};
use tidemill_core::task::Lane;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::{Served, connections, guard};

/// A store that has not answered by then is away, as far as anybody who waits is concerned.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// The same for the broker's queues.
const BROKER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Times in seconds; a summary's quantiles could not be added up over several processes, a histogram's buckets can.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// How often what was measured is put into the histograms' buckets. Until then each measurement is kept by itself.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes this process count; once a process. The handle is for [`super::Api::metrics`]. To be called within a tokio runtime,
/// which keeps its memory from growing where nobody asks for the metrics.
///
/// # Errors
/// [`BuildError`] where it counts already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(&SECONDS)?.install_recorder()?;
    let kept = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            kept.run_upkeep();
        }
    });
    Ok(handle)
}

/// `GET /healthz`
pub(super) async fn lives() -> Json<Value> {
    Json(json!({ "lives": true }))
}

/// `GET /readyz`
pub(super) async fn ready(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let store = store_health(&served).await;
    let broker = served.api.broker.health();
    let stops = served.api.stop_taking.is_cancelled();
    let is_ready = broker == Health::Ready && store == Health::Ready && !stops;
    // Reasons name hosts: they are for those who may call.
    let tells = guard::check(&served.api.access, &Method::GET, &headers).is_ok();
    let body = json!({
        "ready": is_ready, "stopping": stops, "broker": told(&broker, tells), "store": told(&store, tells)
    });
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn store_health(served: &Served) -> Health {
    let health = tokio::time::timeout(STORE_ANSWERS_WITHIN, served.api.store.health()).await;
    health.unwrap_or_else(|_| Health::Away("it does not answer".into()))
}

/// What a role without the API answers about itself.
#[derive(Clone, Debug)]
pub struct Role {
    /// What it cannot work without.
    pub broker: Arc<dyn Broker>,
    /// Where `/metrics` come from; see [`install_metrics`].
    pub metrics: Option<PrometheusHandle>,
}

/// Serves `/healthz`, `/readyz` and `/metrics` for a role without the API, until `stop` is cancelled.
///
/// # Errors
/// Where the system would not.
pub async fn serve_role(listener: TcpListener, role: Role, stop: CancellationToken) -> std::io::Result<()> {
    // Reasons name hosts: they are told where nobody but this machine can ask.
    let tells = listener.local_addr()?.ip().is_loopback();
    let ready = async |State((role, tells)): State<(Role, bool)>| {
        let broker = role.broker.health();
        let status = if broker == Health::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(json!({ "ready": broker == Health::Ready, "broker": told(&broker, tells) })))
    };
    let metrics = async |State((role, _)): State<(Role, bool)>| {
        gauge!("tidemill_broker_up").set(up(&role.broker.health()));
        let text = role.metrics.as_ref().map(|handle| {
            handle.run_upkeep();
            handle.render()
        });
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.unwrap_or_default())
    };
    let router = Router::new()
        .route("/healthz", get(lives))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state((role, tells));
    connections::serve(listener, router, stop).await;
    Ok(())
}

fn told(health: &Health, with_reason: bool) -> Value {
    let (state, reason) = match health {
        Health::Ready => ("ready", None),
        Health::Blocked(reason) => ("blocked", Some(reason)),
        Health::Away(reason) => ("away", Some(reason)),
    };
    match reason.filter(|_| with_reason) {
        Some(reason) => json!({ "state": state, "reason": reason }),
        None => json!({ "state": state }),
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(served): State<Arc<Served>>) -> Result<Response, Problem> {
    let handle = served.api.metrics.as_ref().ok_or_else(|| {
        Problem::not_found("no_metrics", "this process does not count; the results API of a cluster does")
    })?;
    let (store, ()) = tokio::join!(store_health(&served), measure_queues(&served));
    gauge!("tidemill_store_up").set(up(&store));
    gauge!("tidemill_broker_up").set(up(&served.api.broker.health()));
    handle.run_upkeep();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response())
}

/// 1 for what can be worked with, else 0: as `/readyz` says it.
fn up(health: &Health) -> f64 {
    if *health == Health::Ready { 1.0 } else { 0.0 }
}

/// The queues whose depth is told.
fn queues() -> impl Iterator<Item = Queue> {
    let of_lanes = Lane::ALL.into_iter().flat_map(|lane| [Queue::Jobs(lane), Queue::Suspects(lane)]);
    of_lanes.chain([Queue::Results, Queue::Dead])
}

/// Asked for when somebody looks, and not otherwise. Of a broker that does not tell, no depth is known: not even the last.
async fn measure_queues(served: &Served) {
    let until = Instant::now() + BROKER_ANSWERS_WITHIN;
    for queue in queues() {
        // `jobs.cpu`: whatever the broker's prefix is.
        let name = queue.to_string().trim_start_matches("tidemill.").to_owned();
        let depth = match tokio::time::timeout_at(until, served.api.broker.depth(queue)).await {
            Ok(Ok(depth)) => depth as f64,
            Ok(Err(error)) => {
                tracing::debug!(%error, queue = name, "the depth of a queue is not known");
                f64::NAN
            }
            Err(_) => {
                tracing::debug!(queue = name, "the broker does not tell how deep a queue is");
                f64::NAN
            }
        };
        gauge!("tidemill_queue_depth", "queue" => name).set(depth);
    }
}
