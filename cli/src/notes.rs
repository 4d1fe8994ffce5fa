//! Notes: how far the items have come that take long, as their workers say.

use tidemill_core::batch::BatchId;

use crate::client::Client;
use crate::columns::one_line;

/// What is said of the items of a batch that are being worked on: `item 0 on vm-1: epoch 3 of 30`. Nothing where the
/// results API is away: it is not what was asked for.
pub(crate) async fn of(client: &Client, batch: &BatchId) -> Vec<String> {
    let workers = client.workers().await.unwrap_or_default();
    let notes = workers.iter().flat_map(|worker| worker.notes.iter().map(move |note| (&worker.name, note)));
    notes
        .filter(|(_, note)| note.batch == *batch)
        .map(|(worker, note)| one_line(&format!("item {} on {worker}: {}", note.index.0, note.text)))
        .collect()
}
