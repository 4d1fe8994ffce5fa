//! Upload: files that workers cannot see become blobs, once each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tidemill_core::blobs::{BlobError, file_behind, scheme};
use tidemill_core::failure::Failure;
use tidemill_core::task::Arguments;
use tidemill_producer::inputs::Input;
use tidemill_producer::{NotReady, Ready};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use super::sent::Sent;
use crate::client::{ApiError, BlobTrouble, Client, Trouble, digest_of};

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
    /// By digest: several files may have the same bytes.
    under_way: OneAtATime,
    sent: Arc<Sent>,
    /// Whether it was said that uploads fail: once for all files, until one succeeds again.
    is_told: AtomicBool,
}

/// Why the bytes of a file are not stored.
enum NotStored {
    /// The file is at fault.
    Refused(Failure),
    /// Nothing can be stored.
    NotReady(NotReady),
}

impl From<NotReady> for NotStored {
    fn from(error: NotReady) -> Self {
        Self::NotReady(error)
    }
}

impl Uploads {
    pub(super) fn new(client: Client, arguments: Arguments, patience: Duration, sent: Arc<Sent>) -> Self {
        let (known, under_way, is_told) = (Mutex::default(), OneAtATime::default(), AtomicBool::new(false));
        Self { client, arguments, patience, known, under_way, sent, is_told }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob's digest; a refusal where the file is at fault.
    async fn upload(&self, path: &Path) -> Result<Result<String, Failure>, NotReady> {
        let (digest, bytes) = match digest_of(path.to_owned()).await {
            Ok(content) => content,
            Err(error) => return Ok(Err(unreadable(path, &error))),
        };
        match self.under_way.run(&digest, self.store(path, &digest, bytes)).await {
            Ok(()) => Ok(Ok(digest)),
            Err(NotStored::Refused(failure)) => Ok(Err(failure)),
            Err(NotStored::NotReady(error)) => Err(error),
        }
    }

    /// Stores a file of that content, however often it takes.
    async fn store(&self, path: &Path, digest: &str, bytes: u64) -> Result<(), NotStored> {
        let mut failing_since = None;
        loop {
            match self.try_to_store(path, digest, bytes).await? {
                Ok(()) => {
                    self.is_told.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(BlobTrouble::File(error)) => return Err(NotStored::Refused(unreadable(path, &error))),
                Err(BlobTrouble::Api(error)) if error.trouble == Trouble::Refused => {
                    let message = format!("{}: {error}", path.display());
                    return Err(NotStored::Refused(Failure::permanent("too_large", message)));
                }
                Err(BlobTrouble::Api(error)) if error.is_transient() => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.patience {
                        return Err(self.is_away(path).into());
                    }
                    if !self.is_told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "cannot upload, trying again");
                    }
                    tokio::time::sleep(PAUSE.min(self.patience)).await;
                }
                Err(BlobTrouble::Api(error)) => return Err(NotReady(error.into()).into()),
            }
        }
    }

    /// A transfer takes as long as it takes, while something moves.
    async fn try_to_store(&self, path: &Path, digest: &str, bytes: u64) -> Result<Result<(), BlobTrouble>, NotReady> {
        let (moved, mut moves) = watch::channel(());
        let going = Arc::new(self.sent.begin());
        let told = Arc::clone(&going);
        let uploading = self.client.upload(path, digest, bytes, move |gone| {
            told.moved(gone);
            moved.send_replace(());
        });
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
            uploaded = uploading => Ok(uploaded.map(|had_to_be_sent| {
                if had_to_be_sent {
                    going.arrived(bytes);
                }
            })),
            () = standing => Err(self.is_away(path)),
        }
    }

    fn is_away(&self, path: &Path) -> NotReady {
        let message = format!("cannot upload {}: the results API at {} is away", path.display(), self.client.url());
        NotReady(ApiError::new(Trouble::Away, message).into())
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    BlobError::unreadable(path, error).into()
}

/// Work of which there is one of a name at a time. Whoever comes with the same meanwhile waits for its end, and does it
/// himself only where it failed.
#[derive(Debug, Default)]
struct OneAtATime(Mutex<HashMap<String, Arc<OnceCell<()>>>>);

impl OneAtATime {
    async fn run<E>(&self, name: &str, work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let done = Arc::clone(self.under_way().entry(name.to_owned()).or_default());
        let ended = done.get_or_try_init(|| work).await.copied();
        let mut under_way = self.under_way();
        // It is the map's and this one's: nobody waits for it any more.
        if Arc::strong_count(&done) == 2 {
            under_way.remove(name);
        }
        // While nobody else looks how many there are.
        drop(done);
        ended
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Arc<OnceCell<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::AtomicUsize;

    use axum::extract::Request;
    use axum::http::{Method, StatusCode};
    use futures::future::join_all;
    use sha2::{Digest as _, Sha256};
    use tidemill_core::settings::Settings;
    use tidemill_core::task::raw;

    use super::*;
    use crate::error::{CliError, Exit};

    #[tokio::test]
    async fn what_several_want_at_the_same_time_is_done_once() {
        let (one, runs) = (OneAtATime::default(), &AtomicUsize::new(0));
        let work = || async move {
            runs.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok::<_, &str>(())
        };

        let ended = join_all((0..8).map(|number| one.run(["a", "b"][number % 2], work()))).await;

        assert!(ended.iter().all(Result::is_ok));
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        assert!(one.under_way().is_empty());
    }

    #[tokio::test]
    async fn where_it_failed_the_next_tries_again() {
        let (one, runs) = (OneAtATime::default(), &AtomicUsize::new(0));
        let work = || async move {
            let number = runs.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if number == 0 { Err("away") } else { Ok(()) }
        };

        let ended = join_all((0..4).map(|_| one.run("a", work()))).await;

        assert_eq!(ended, [Err("away"), Ok(()), Ok(()), Ok(())]);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        assert!(one.under_way().is_empty());
    }

    /// A client of something that keeps blobs as the results API does, or has this answer to each, and how often it was sent
    /// one.
    async fn api(always: Option<StatusCode>) -> (Client, Arc<AtomicUsize>) {
        let (kept, came) = (Arc::<Mutex<HashSet<String>>>::default(), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&came);
        let blobs = move |request: Request| {
            let (kept, came) = (Arc::clone(&kept), Arc::clone(&counted));
            async move {
                let (parts, body) = request.into_parts();
                let blob = parts.uri.path().to_owned();
                if parts.method == Method::HEAD {
                    let is_kept = kept.lock().unwrap().contains(&blob);
                    return if is_kept { StatusCode::OK } else { StatusCode::NOT_FOUND };
                }
                let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST };
                came.fetch_add(1, Ordering::Relaxed);
                if let Some(always) = always {
                    return always;
                }
                if !blob.ends_with(&format!("{:x}", Sha256::digest(&bytes))) {
                    return StatusCode::BAD_REQUEST;
                }
                kept.lock().unwrap().insert(blob);
                StatusCode::CREATED
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = Settings::default();
        settings.api.url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(blobs)).await });
        (Client::new(&settings).unwrap(), came)
    }

    #[tokio::test]
    async fn files_of_the_same_bytes_are_sent_once() {
        let (client, came) = api(None).await;
        let folder = tempfile::tempdir().unwrap();
        let file = |number: usize| {
            let path = folder.path().join(format!("{number}.jpg"));
            std::fs::write(&path, [7_u8; 1000]).unwrap();
            Input::value(raw(path.to_str().unwrap()))
        };
        let mut inputs: Vec<Input> = (0..8).map(file).collect();
        let sent = Arc::<Sent>::default();
        let uploads = Uploads::new(client, Arguments::Files, Duration::from_secs(60), Arc::clone(&sent));

        let ended = join_all(inputs.iter_mut().map(|input| uploads.ready(input))).await;

        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        assert_eq!(came.load(Ordering::Relaxed), 1);
        assert!(inputs.iter().all(|input| input.source == inputs[0].source && input.refused.is_none()), "{inputs:?}");
        assert!(inputs[0].source.as_deref().unwrap().starts_with("blob:sha256:"));
        assert_eq!(sent.shown().unwrap(), "1 file sent, 1000 B");
    }

    #[tokio::test]
    async fn a_file_that_is_changed_while_it_is_sent_is_refused_alone() {
        let (client, came) = api(None).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        for (now, sent) in
            [(&b"short"[..], 0), (b"a log of the same length!", 1), (b"a log that has grown meanwhile", 1)]
        {
            std::fs::write(&path, b"a log as it was hashed ..").unwrap();
            let (digest, bytes) = digest_of(path.clone()).await.unwrap();
            std::fs::write(&path, now).unwrap();
            let before = came.load(Ordering::Relaxed);

            let trouble = client.upload(&path, &digest, bytes, |_| {}).await.unwrap_err();

            let BlobTrouble::File(error) = trouble else { panic!("{trouble:?}") };
            assert_eq!(error.to_string(), "it was changed while it was sent");
            assert_eq!(came.load(Ordering::Relaxed) - before, sent, "{now:?}");
        }
        // What it had when it was looked at is there.
        std::fs::write(&path, b"a log that only grows").unwrap();
        let (digest, bytes) = digest_of(path.clone()).await.unwrap();
        std::fs::write(&path, b"a log that only grows: one line more").unwrap();
        assert!(client.upload(&path, &digest, bytes, |_| {}).await.unwrap());
    }

    #[tokio::test]
    async fn what_a_setting_is_to_blame_for_is_told_as_that() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        std::fs::write(&path, [7; 1000]).unwrap();
        for (status, trouble) in
            [(StatusCode::UNAUTHORIZED, Trouble::Unauthorised), (StatusCode::NOT_FOUND, Trouble::NoBlobs)]
        {
            let (client, _came) = api(Some(status)).await;
            let uploads = Uploads::new(client, Arguments::Files, Duration::from_secs(60), Arc::default());

            let NotReady(error) = uploads.ready(&mut Input::value(raw(path.to_str().unwrap()))).await.unwrap_err();

            let error = error.downcast::<ApiError>().unwrap();
            assert_eq!(error.trouble, trouble);
            assert_eq!(CliError::from(*error).exit, Exit::Configuration);
        }
    }
}
