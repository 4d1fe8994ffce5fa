//! Dead: the items that ended their workers, and how one gets another try.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemill_core::batch::BatchId;
use tidemill_core::store::DeadItem;

use super::Served;
use super::asked::{Asked, Id, Index, Limit};
use super::problem::Problem;

/// About how many bytes a list has: an input may have MiBs.
const MAX_BYTES: usize = 64 << 20;

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
    let mut dead = served.api.store.dead(batch.as_ref(), listing.limit.get()).await?;
    dead.truncate(fitting(&dead));
    Ok(Json(Listed { dead }))
}

/// How many of these, from the first on, one list has room for: one at least.
fn fitting(dead: &[DeadItem]) -> usize {
    let mut bytes = 0;
    let fit = dead.iter().take_while(|item| {
        bytes += item.input.get().len() + item.source.as_deref().map_or(0, str::len);
        bytes <= MAX_BYTES
    });
    fit.count().max(1)
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
