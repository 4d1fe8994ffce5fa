//! Upload: files that workers cannot see become blobs, once each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_core::blobs::{BlobError, file_behind, scheme};
use tidemill_core::failure::Failure;
use tidemill_core::task::Arguments;
use tidemill_producer::inputs::Input;
use tidemill_producer::{NotReady, Ready};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{BlobTrouble, Client, Trouble, digest_of};

/// Between two tries while the results API is away.
const PAUSE: Duration = Duration::from_millis(500);
/// Paths whose blobs are remembered, so that a path that is named again is not read again.
const REMEMBERED: usize = 100_000;

/// Uploads the files that inputs name.
#[derive(Debug)]
pub(super) struct Uploads {
    client: Client,
    /// What inputs of the task are: a text is no file.
    arguments: Arguments,
    /// How long nothing may go out, or every try may fail.
    patience: Duration,
    known: Mutex<HashMap<PathBuf, String>>,
    /// Whether it was said that uploads fail: once for all files, until one succeeds again.
    is_told: AtomicBool,
}

impl Uploads {
    pub(super) fn new(client: Client, arguments: Arguments, patience: Duration) -> Self {
        Self { client, arguments, patience, known: Mutex::default(), is_told: AtomicBool::new(false) }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob's digest; a refusal where the file is at fault.
    async fn upload(&self, path: &Path) -> Result<Result<String, Failure>, NotReady> {
        let unreadable = |error: &std::io::Error| Ok(Err(Failure::from(BlobError::unreadable(path, error))));
        let (digest, bytes) = match digest_of(path.to_owned()).await {
            Ok(content) => content,
            Err(error) => return unreadable(&error),
        };
        let mut failing_since = None;
        loop {
            match self.try_to_upload(path, &digest, bytes).await? {
                Ok(()) => {
                    self.is_told.store(false, Ordering::Relaxed);
                    return Ok(Ok(digest));
                }
                Err(BlobTrouble::File(error)) => return unreadable(&error),
                Err(BlobTrouble::Api(error)) if error.trouble == Trouble::Refused => {
                    return Ok(Err(Failure::permanent("too_large", format!("{}: {error}", path.display()))));
                }
                Err(BlobTrouble::Api(error)) if error.is_transient() => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.patience {
                        return Err(self.is_away(path));
                    }
                    if !self.is_told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "cannot upload, trying again");
                    }
                    tokio::time::sleep(PAUSE.min(self.patience)).await;
                }
                Err(BlobTrouble::Api(error)) => return Err(NotReady(error.to_string())),
            }
        }
    }

    /// A transfer takes as long as it takes, while something moves.
    async fn try_to_upload(&self, path: &Path, digest: &str, bytes: u64) -> Result<Result<(), BlobTrouble>, NotReady> {
        let (moved, mut moves) = watch::channel(());
        let uploading = self.client.upload(path, digest, bytes, move || moved.send_replace(()));
        let standing = async {
            loop {
                match tokio::time::timeout(self.patience, moves.changed()).await {
                    Ok(Ok(())) => {}
                    // All has gone out; the answer has the same time.
                    Ok(Err(_)) => return tokio::time::sleep(self.patience).await,
                    Err(_) => return,
                }
            }
        };
        tokio::select! {
            uploaded = uploading => Ok(uploaded),
            () = standing => Err(self.is_away(path)),
        }
    }

    fn is_away(&self, path: &Path) -> NotReady {
        NotReady(format!("cannot upload {}: the results API at {} is away", path.display(), self.client.url()))
    }
}

#[async_trait]
impl Ready for Uploads {
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady> {
        let Some(path) = local_path(input, self.arguments) else { return Ok(()) };
        let known = self.known().get(&path).cloned();
        let digest = match known {
            Some(digest) => digest,
            None => match self.upload(&path).await? {
                Ok(digest) => digest,
                Err(failure) => {
                    input.refused = Some(failure);
                    return Ok(());
                }
            },
        };
        input.source = Some(format!("blob:{digest}").into());
        let mut known = self.known();
        if known.len() < REMEMBERED {
            known.insert(path, digest);
        }
        Ok(())
    }
}

/// The file of this machine that an input names: the input itself, or its field `path`.
pub(super) fn local_path(input: &Input, arguments: Arguments) -> Option<PathBuf> {
    let path = match serde_json::from_str(input.json.get()).ok()? {
        Value::String(path) if arguments == Arguments::Files => path,
        Value::Object(mut fields) => match fields.remove("path")? {
            Value::String(path) => path,
            _ => return None,
        },
        _ => return None,
    };
    match scheme(&path) {
        None => Some(path.into()),
        // Of one that names no file the worker says so.
        Some(_) => file_behind(&path).ok().flatten().map(Path::to_owned),
    }
}
