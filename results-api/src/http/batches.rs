//! Batches: listed, shown, cancelled, verified.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidemill_core::batch::BatchId;
use tidemill_core::broker::Notice;
use tidemill_core::outcome::Status;
use tidemill_core::store::BatchInfo;

use super::asked::{Asked, Id, Told};
use super::problem::Problem;
use super::{Served, State as BatchState};

/// How many batches a list has, unless it is asked for more, and at most.
const USUAL_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

/// How much of a list is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listing {
    limit: usize,
}

impl Default for Listing {
    fn default() -> Self {
        Self { limit: USUAL_LIMIT }
    }
}

/// `GET /v1/batches`
pub(super) async fn list(
    State(served): State<Arc<Served>>,
    Asked(listing): Asked<Listing>,
) -> Result<Json<Value>, Problem> {
    let infos = served.api.store.list(listing.limit.min(MAX_LIMIT)).await?;
    let batches = infos.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({ "batches": batches })))
}

/// `GET /v1/batches/{id}`
pub(super) async fn show(State(served): State<Arc<Served>>, Id(batch): Id) -> Result<Json<Value>, Problem> {
    Ok(Json(shown(&served.api.store.info(&batch).await?)?))
}

/// `DELETE /v1/batches/{id}`
pub(super) async fn cancel(State(served): State<Arc<Served>>, Id(batch): Id) -> Result<Json<Value>, Problem> {
    stop(&served, &batch).await?;
    Ok(Json(shown(&served.api.store.info(&batch).await?)?))
}

/// Cancels a batch that is not complete.
pub(super) async fn stop(served: &Served, batch: &BatchId) -> Result<(), Problem> {
    let store = &served.api.store;
    if store.progress(batch).await?.is_complete() {
        return Ok(());
    }
    store.cancel(batch).await?;
    // What is written is what counts: workers ask for it now and then. The notice makes it prompt.
    if let Err(error) = served.api.broker.announce(Notice::Cancel(batch.clone())).await {
        tracing::warn!(%error, %batch, "a cancellation was recorded but could not be announced");
    }
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
    served.api.store.accept(&batch, before).await?;
    Ok(Json(json!({ "before": before })))
}

/// `GET /v1/batches/{id}/verify`
pub(super) async fn verify(State(served): State<Arc<Served>>, Id(batch): Id) -> Result<Json<Value>, Problem> {
    let books = served.api.store.verify(&batch).await?;
    let mut value = object(&books)?;
    value.insert("balanced".into(), books.balance().into());
    value.insert("statuses".into(), by_status(&books.counts));
    Ok(Json(value.into()))
}

/// What is known of a batch, and in words what programs would else have to work out.
fn shown(info: &BatchInfo) -> Result<Value, Problem> {
    let mut value = object(info)?;
    value.insert("state".into(), BatchState::of(info).as_str().into());
    value.insert("recorded".into(), info.progress.recorded().into());
    value.insert("statuses".into(), by_status(&info.progress.counts));
    Ok(value.into())
}

fn object(value: &impl serde::Serialize) -> Result<Map<String, Value>, Problem> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        other => {
            tracing::error!(?other, "what is known of a batch could not be written as an object");
            Err(Problem::fault())
        }
    }
}

fn by_status(counts: &[u64; Status::ALL.len()]) -> Value {
    Status::ALL.into_iter().map(|status| (status.as_str().to_owned(), Value::from(counts[status as usize]))).collect()
}
