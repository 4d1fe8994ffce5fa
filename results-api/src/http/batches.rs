//! Batches: listed, shown, cancelled, verified.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use tidemill_core::batch::{Batch, BatchId};
use tidemill_core::broker::Notice;
use tidemill_core::outcome::Status;
use tidemill_core::segment::MAX_INDEX;
use tidemill_core::store::{AtMost, BatchInfo, Books, Progress};

use super::asked::{Asked, Id, Limit, Told};
use super::problem::Problem;
use super::{MAX_LIST_BYTES, Served, State as BatchState};

/// How long a cancellation waits to be announced. What is recorded is announced again and again; see [`crate::tend()`].
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);

/// How much of a list is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listing {
    limit: Limit<50, 1000>,
}

/// Batches as they are answered.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    batches: Vec<Shown>,
}

/// What is known of a batch, and in words what programs would else have to work out. It is written as it is: options may be
/// JSON that no [`Value`] holds, and one such batch would spoil the list of all.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    batch: Batch,
    created: u64,
    completed: Option<u64>,
    accepted: u64,
    progress: Progress,
    state: &'static str,
    recorded: u64,
    statuses: Statuses,
}

impl From<BatchInfo> for Shown {
    fn from(info: BatchInfo) -> Self {
        let state = BatchState::of(&info).as_str();
        let BatchInfo { batch, created, completed, accepted, progress } = info;
        let (recorded, statuses) = (progress.recorded(), Statuses(progress.counts));
        Self { batch, created, completed, accepted, progress, state, recorded, statuses }
    }
}

/// Counts by the words of what is counted.
#[derive(Debug)]
struct Statuses([u64; Status::ALL.len()]);

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Status::ALL.into_iter().map(|status| (status.as_str(), self.0[status as usize])))
    }
}

/// `GET /v1/batches`
pub(super) async fn list(
    State(served): State<Arc<Served>>,
    Asked(listing): Asked<Listing>,
) -> Result<Json<Listed>, Problem> {
    let infos = served.api.store.list(AtMost { count: listing.limit.get(), bytes: MAX_LIST_BYTES }).await?;
    Ok(Json(Listed { batches: infos.into_iter().map(Shown::from).collect() }))
}

/// `GET /v1/batches/{id}`
pub(super) async fn show(State(served): State<Arc<Served>>, Id(batch): Id) -> Result<Json<Shown>, Problem> {
    Ok(Json(served.api.store.info(&batch).await?.into()))
}

/// `DELETE /v1/batches/{id}`
pub(super) async fn cancel(State(served): State<Arc<Served>>, Id(batch): Id) -> Result<Json<Shown>, Problem> {
    stop(&served, &batch).await?;
    Ok(Json(served.api.store.info(&batch).await?.into()))
}

/// Cancels a batch that is not complete.
pub(super) async fn stop(served: &Served, batch: &BatchId) -> Result<(), Problem> {
    let store = &served.api.store;
    if store.progress(batch).await?.is_complete() {
        return Ok(());
    }
    store.cancel(batch).await?;
    // What is written is what counts: workers ask for it now and then. The notice makes it prompt.
    let announcing = served.api.broker.announce(Notice::Cancel(batch.clone()));
    let reason = match tokio::time::timeout(ANNOUNCED_WITHIN, announcing).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the broker does not answer".to_owned(),
    };
    tracing::warn!(error = %reason, %batch, "a cancellation was recorded but could not be announced");
    Ok(())
}

/// What the broker is known to have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {
    before: u64,
}

/// `PUT /v1/batches/{id}/accepted`
pub(super) async fn accept(
    State(served): State<Arc<Served>>,
    Id(batch): Id,
    Told(Accepted { before }): Told<Accepted>,
) -> Result<Json<Value>, Problem> {
    if before > MAX_INDEX {
        return Err(Problem::bad_request(format!("before: it is at most {MAX_INDEX}")));
    }
    served.api.store.accept(&batch, before).await?;
    Ok(Json(json!({ "before": before })))
}

/// `GET /v1/batches/{id}/verify`
pub(super) async fn verify(State(served): State<Arc<Served>>, Id(batch): Id) -> Result<Json<Value>, Problem> {
    let books = served.api.store.verify(&batch).await?;
    let mut value = object(&books)?;
    value.insert("balanced".into(), books.balance().into());
    value.insert("statuses".into(), json!(Statuses(books.counts)));
    Ok(Json(value.into()))
}

fn object(books: &Books) -> Result<Map<String, Value>, Problem> {
    match serde_json::to_value(books) {
        Ok(Value::Object(fields)) => Ok(fields),
        other => {
            tracing::error!(?other, "a batch's books could not be written as an object");
            Err(Problem::fault())
        }
    }
}
