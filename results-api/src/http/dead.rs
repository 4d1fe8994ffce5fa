//! Dead: the items that ended their workers, and how one gets another try.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemill_core::batch::BatchId;
use tidemill_core::store::{AtMost, DeadItem};

use super::asked::{Asked, Id, Index, Limit};
use super::problem::Problem;
use super::{MAX_LIST_BYTES, Served};

/// Which dead items are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listing {
    batch: Option<String>,
    limit: Limit<100, 10_000>,
}

/// Dead items as they are answered: written as they are, for an input may be JSON that no [`Value`] holds.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    dead: Vec<DeadItem>,
}

/// `GET /v1/dead`
pub(super) async fn list(
    State(served): State<Arc<Served>>,
    Asked(listing): Asked<Listing>,
) -> Result<Json<Listed>, Problem> {
    let batch = listing.batch.map(|id| id.parse::<BatchId>()).transpose()?;
    let most = AtMost { count: listing.limit.get(), bytes: MAX_LIST_BYTES };
    Ok(Json(Listed { dead: served.api.store.dead(batch.as_ref(), most).await? }))
}

/// `POST /v1/batches/{id}/items/{index}/revive`
///
/// The item has no outcome then; whoever revives it publishes it again.
pub(super) async fn revive(
    State(served): State<Arc<Served>>,
    Id(batch): Id,
    Index(index): Index,
) -> Result<Json<Value>, Problem> {
    served.api.must_share_its_broker()?;
    let is_revived = served.api.store.revive(&batch, index).await?;
    Ok(Json(json!({ "revived": is_revived })))
}
