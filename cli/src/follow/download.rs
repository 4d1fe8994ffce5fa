//! Download: fetches the files that outcomes name, and puts them where the user wants them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Outcome};
use tidemill_producer::inputs::Source;

use super::sink::Stop;
use crate::client::{BlobTrouble, Client, Trouble};
use crate::error::CliError;
use crate::out::{Out, blobs_in};

/// Files that are fetched at the same time.
const AT_ONCE: usize = 8;
/// Nothing is fetched by way of these: the client does it.
const NO_LIMITS: FetchLimits = FetchLimits { max_bytes: u64::MAX, timeout: Duration::MAX };

/// Files that are fetched.
pub(super) struct Download {
    to: To,
    /// Where they lie until they are placed or looked at. A file that several outcomes name is fetched once.
    staged: Blobs,
}

/// What becomes of them.
enum To {
    /// All are placed in a folder.
    Folder(Out),
    /// Masks are only looked at.
    Look(TempDir),
}

impl Download {
    /// All files, into a folder; see [`Out::open`].
    pub(super) fn into_folder(folder: &Path, inputs: Option<&[Source]>) -> Result<Self, CliError> {
        let out = Out::open(folder, inputs)?;
        let staged = blobs_in(&out.staging(), NO_LIMITS)?;
        Ok(Self { to: To::Folder(out), staged })
    }

    /// Masks alone, to be looked at.
    pub(super) fn of_masks(folder: TempDir) -> Result<Self, CliError> {
        let staged = blobs_in(folder.path(), NO_LIMITS)?;
        Ok(Self { to: To::Look(folder), staged })
    }

    pub(super) fn staging(&self) -> PathBuf {
        match &self.to {
            To::Folder(out) => out.staging(),
            To::Look(folder) => folder.path().to_owned(),
        }
    }

    /// The files that were fetched.
    pub(super) fn staged(&self) -> &Blobs {
        &self.staged
    }

    /// See [`Out::remember`].
    pub(super) fn remember(&mut self, output: &RawValue) -> Result<(), CliError> {
        match &mut self.to {
            To::Folder(out) => out.remember(output),
            To::Look(_) => Ok(()),
        }
    }

    /// Fetches and places the files of these outcomes, and adds to each where they are. An outcome whose file is gone
    /// becomes a failure.
    pub(super) async fn fetch(&mut self, client: &Client, outcomes: &mut [Outcome]) -> Result<(), Stop> {
        let wanted: HashMap<String, BlobRef> =
            outcomes.iter().flat_map(|outcome| self.wanted(outcome)).map(|blob| (blob.blob.clone(), blob)).collect();
        let staged = &self.staged;
        let fetched = futures::stream::iter(wanted.into_values())
            .map(|blob| async move { Ok::<_, Stop>((blob.blob.clone(), fetch_one(client, staged, &blob).await?)) })
            .buffer_unordered(AT_ONCE);
        let failed: HashMap<String, Failure> = fetched
            .try_filter_map(|(name, failure)| async { Ok(failure.map(|failure| (name, failure))) })
            .try_collect()
            .await?;
        for outcome in outcomes {
            if let Some(failure) = self.wanted(outcome).iter().find_map(|blob| failed.get(&blob.blob)) {
                outcome.ending = Ending::Failed(failure.clone());
            } else if let To::Folder(out) = &mut self.to
                && let Some(placed) = out.place(outcome, &self.staged)
            {
                *outcome = placed;
            }
        }
        Ok(())
    }

    /// Removes what was only looked at.
    pub(super) fn forget(&self, outcomes: &[Outcome]) {
        if matches!(self.to, To::Look(_)) {
            let looked_at = outcomes.iter().flat_map(|outcome| self.wanted(outcome));
            for path in looked_at.filter_map(|blob| self.staged.path_of(&blob).ok()) {
                // Two outcomes may have had the same one.
                drop(std::fs::remove_file(path));
            }
        }
    }

    /// The files that are fetched for an outcome.
    fn wanted(&self, outcome: &Outcome) -> Vec<BlobRef> {
        let Ending::Ok(output) = &outcome.ending else { return Vec::new() };
        let mut fields: Map<String, Value> = serde_json::from_str(output.get()).unwrap_or_default();
        if matches!(self.to, To::Look(_)) {
            fields.retain(|key, _| key == "mask");
        }
        fields.into_values().filter_map(|field| serde_json::from_value(field).ok()).collect()
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

/// A local disk that will not take it is no matter of waiting.
fn not_written(path: &Path, error: &std::io::Error) -> Stop {
    let message = format!("cannot write {}: {error}", path.display());
    Stop::Cli(CliError::fault(message).hint("is there room on the disk?"))
}
