//! Dead: the items that ended their workers, and how one gets another try.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_core::batch::BatchId;

use super::Served;
use super::asked::{Asked, Id, Index};
use super::problem::Problem;

/// How many items a list has, unless it is asked for more, and at most.
const USUAL_LIMIT: usize = 100;
const MAX_LIMIT: usize = 10_000;

/// Which dead items are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listing {
    batch: Option<String>,
    limit: usize,
}

impl Default for Listing {
    fn default() -> Self {
        Self { batch: None, limit: USUAL_LIMIT }
    }
}

/// `GET /v1/dead`
pub(super) async fn list(
    State(served): State<Arc<Served>>,
    Asked(listing): Asked<Listing>,
) -> Result<Json<Value>, Problem> {
    let batch = listing.batch.map(|id| id.parse::<BatchId>()).transpose()?;
    let dead = served.api.store.dead(batch.as_ref(), listing.limit.min(MAX_LIMIT)).await?;
    Ok(Json(json!({ "dead": dead })))
}

/// `POST /v1/batches/{id}/items/{index}/revive`
///
/// The item has no outcome then; whoever revives it publishes it again.
pub(super) async fn revive(
    State(served): State<Arc<Served>>,
    Id(batch): Id,
    Index(index): Index,
) -> Result<Json<Value>, Problem> {
    let is_revived = served.api.store.revive(&batch, index).await?;
    Ok(Json(json!({ "revived": is_revived })))
}
