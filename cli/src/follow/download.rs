//! Download: fetches the files that outcomes name, and puts them where the user wants them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value};
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Outcome};

use super::sink::Stop;
use crate::client::{BlobTrouble, Client, Trouble};
use crate::error::{CliError, Exit};
use crate::out::Out;

/// Files that are fetched at the same time.
const AT_ONCE: usize = 8;
/// Nothing is fetched by way of these: the client does it.
const NO_LIMITS: FetchLimits = FetchLimits { max_bytes: u64::MAX, timeout: Duration::MAX };

/// The folder for fetched files.
pub(super) struct Download {
    out: Out,
    /// Where they lie until they are placed. A file that several outcomes name is fetched once.
    staged: Blobs,
}

impl Download {
    pub(super) fn open(folder: &Path) -> Result<Self, CliError> {
        let out = Out::open(folder, &[])?;
        let staged = out.blobs(NO_LIMITS)?;
        Ok(Self { out, staged })
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.out.staging()
    }

    /// Fetches and places the files of these outcomes, and adds to each where they are. An outcome whose file is gone
    /// becomes a failure.
    pub(super) async fn fetch(&mut self, client: &Client, outcomes: &mut [Outcome]) -> Result<(), Stop> {
        let wanted: HashMap<String, BlobRef> =
            outcomes.iter().flat_map(blobs_of).map(|blob| (blob.blob.clone(), blob)).collect();
        let staged = &self.staged;
        let fetched = futures::stream::iter(wanted.into_values())
            .map(|blob| async move { Ok::<_, Stop>((blob.blob.clone(), fetch_one(client, staged, &blob).await?)) })
            .buffer_unordered(AT_ONCE);
        let failed: HashMap<String, Failure> = fetched
            .try_filter_map(|(name, failure)| async { Ok(failure.map(|failure| (name, failure))) })
            .try_collect()
            .await?;
        for outcome in outcomes {
            if let Some(failure) = blobs_of(outcome).iter().find_map(|blob| failed.get(&blob.blob)) {
                outcome.ending = Ending::Failed(failure.clone());
            } else if let Some(placed) = self.out.place(outcome, &self.staged) {
                *outcome = placed;
            }
        }
        Ok(())
    }
}

/// Fetches one into the staging folder; a failure where it will not come however often it is asked for.
async fn fetch_one(client: &Client, staged: &Blobs, blob: &BlobRef) -> Result<Option<Failure>, Stop> {
    let invalid = |error: tidemill_core::blobs::BlobError| Some(Failure::from(error));
    let path = match staged.path_of(blob) {
        Ok(path) => path,
        Err(error) => return Ok(invalid(error)),
    };
    if tokio::fs::try_exists(&path).await.unwrap_or(false) {
        return Ok(None);
    }
    match client.fetch_blob(&blob.blob, &path).await {
        Ok(()) => Ok(None),
        Err(BlobTrouble::Api(error)) if error.trouble == Trouble::Unknown => {
            Ok(Some(Failure::permanent("not_found", format!("the file it made is gone: {error}"))))
        }
        Err(BlobTrouble::Api(error)) => Err(Stop::Api(error)),
        Err(BlobTrouble::File(error)) => Err(not_written(&path, &error)),
    }
}

/// The files that an outcome names, as [`Out::place`] finds them.
fn blobs_of(outcome: &Outcome) -> Vec<BlobRef> {
    let Ending::Ok(output) = &outcome.ending else { return Vec::new() };
    let fields: Map<String, Value> = serde_json::from_str(output.get()).unwrap_or_default();
    fields.into_values().filter_map(|field| serde_json::from_value(field).ok()).collect()
}

/// A local disk that will not take it is no matter of waiting.
fn not_written(path: &Path, error: &std::io::Error) -> Stop {
    let message = format!("--download: cannot write {}: {error}", path.display());
    Stop::Cli(CliError::new(Exit::Fault, message).hint("is there room on the disk?"))
}
