//! Upload: files that workers cannot see become blobs, once each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_core::blobs::{io_kind, io_reason, scheme};
use tidemill_core::failure::Failure;
use tidemill_producer::inputs::Input;
use tidemill_producer::{NotReady, Ready};

use crate::client::{BlobTrouble, Client, Trouble};

/// Between two tries while the results API is away; there are as many tries as fit into the patience.
const PAUSE: Duration = Duration::from_millis(500);
/// Paths whose blobs are remembered, so that a path that is named again is not read again.
const REMEMBERED: usize = 100_000;

/// Uploads the files that inputs name.
#[derive(Debug)]
pub(super) struct Uploads {
    client: Client,
    patience: Duration,
    known: Mutex<HashMap<PathBuf, String>>,
}

impl Uploads {
    pub(super) fn new(client: Client, patience: Duration) -> Self {
        Self { client, patience, known: Mutex::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob's digest; a refusal where the file is at fault.
    async fn upload(&self, path: &Path) -> Result<Result<String, Failure>, NotReady> {
        let waiting = async {
            loop {
                match self.client.upload(path).await {
                    Ok((digest, _)) => return Ok(Ok(digest)),
                    Err(BlobTrouble::File(error)) => {
                        let reason = format!("cannot read {}: {}", path.display(), io_reason(&error));
                        return Ok(Err(Failure::permanent(io_kind(&error), reason)));
                    }
                    Err(BlobTrouble::Api(error)) if error.trouble == Trouble::Refused => {
                        return Ok(Err(Failure::permanent("too_large", format!("{}: {error}", path.display()))));
                    }
                    Err(BlobTrouble::Api(error)) if error.is_transient() => {
                        tracing::warn!(%error, "cannot upload, trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(BlobTrouble::Api(error)) => return Err(NotReady(error.to_string())),
                }
            }
        };
        tokio::time::timeout(self.patience, waiting).await.unwrap_or_else(|_| {
            let path = path.display();
            Err(NotReady(format!("cannot upload {path}: the results API at {} is away", self.client.url())))
        })
    }
}

#[async_trait]
impl Ready for Uploads {
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady> {
        let Some(path) = local_path(input) else { return Ok(()) };
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
fn local_path(input: &Input) -> Option<PathBuf> {
    let path = match serde_json::from_str(input.json.get()).ok()? {
        Value::String(path) => path,
        Value::Object(mut fields) => match fields.remove("path")? {
            Value::String(path) => path,
            _ => return None,
        },
        _ => return None,
    };
    match scheme(&path) {
        None => Some(path.into()),
        Some(("file", rest)) => Some(rest.strip_prefix("//").unwrap_or(rest).into()),
        Some(_) => None,
    }
}
