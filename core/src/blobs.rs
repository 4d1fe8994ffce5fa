//! Blobs: bytes too large for a message, named by their content; and the bytes behind a path or URL.

pub mod bucket;
mod inline;
mod keep;
mod place;
mod spool;
mod stream;
mod write;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::inline::inline;
use self::place::Place;
pub use self::spool::Spool;
pub use self::write::BlobWriter;
use crate::failure::{Failure, shortened};
use crate::settings::ServiceUrl;
use crate::web::{Answer, Most, Web};

/// Names a blob: the SHA-256 of its bytes, and what a reader wants to know before fetching them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// `sha256:` and 64 hexadecimal digits.
    pub blob: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// Such as `image/jpeg`.
    pub media_type: String,
    /// The usual ending of a file's name, without the dot.
    pub extension: String,
    /// The name that the file has where it comes from, if it has one: a name, not a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What may be fetched.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Larger inputs are refused.
    pub max_bytes: u64,
    /// Over the network: the longest wait for an answer and between two pieces of it.
    pub timeout: Duration,
}

/// The folder, within one for blobs, where they lie while they are written.
const UNFINISHED: &str = "unfinished";

/// Where blobs are stored, and how inputs are fetched. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Option<Place>,
    limits: FetchLimits,
    web: Web,
}

/// Why bytes could not be fetched or stored.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BlobError {
    /// For programs: `not_found`, `denied`, `too_large`, `unreachable`, `storage`, `invalid_input`; more in
    /// [`Web::get`].
    pub kind: &'static str,
    /// For people; names the path or URL.
    pub message: String,
    /// Whether trying again may help.
    pub transient: bool,
    /// It should not be tried before that, says the server.
    pub retry_after: Option<Duration>,
}

impl BlobError {
    /// One that will come again however often it is tried.
    pub(crate) fn permanent(kind: &'static str, message: String) -> Self {
        Self { kind, message, transient: false, retry_after: None }
    }

    /// A file that cannot be read. The system may be short of something just now, or a file system over the network may
    /// not answer.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => "not_found",
            std::io::ErrorKind::PermissionDenied => "denied",
            _ => "unreadable",
        };
        let passing =
            [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::IO, Errno::STALE, Errno::TIMEDOUT];
        let transient = Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno));
        let message = format!("cannot read {}: {}", path.display(), io_reason(error));
        Self { kind, message, transient, retry_after: None }
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        let BlobError { kind, message, transient, retry_after } = error;
        Self { kind: kind.into(), message: shortened(message), retryable: transient, retry_after }
    }
}

impl Blobs {
    /// Fetches inputs; stores nothing.
    pub fn without_store(limits: FetchLimits) -> Self {
        Self { store: None, limits, web: Web::default() }
    }

    /// Fetches inputs, and stores blobs in `folder`.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub fn in_folder(folder: &Path, limits: FetchLimits) -> Result<Self, BlobError> {
        Ok(Self { store: Some(Place::folder(folder, None)?), ..Self::without_store(limits) })
    }

    /// Fetches inputs, and stores blobs at a URL: `file:///folder`, `redis://host/0/folder`, `s3://bucket/folder`,
    /// `gs://…`, `az://…`, or `memory://` for tests. Nothing is connected to yet. In a folder, once
    /// [`Blobs::sweep`] comes by, and in Redis a blob is kept for `keep`, and for ever without it.
    ///
    /// # Errors
    /// Where the URL is of another kind, or lacks something.
    pub fn at(url: &ServiceUrl, limits: FetchLimits, keep: Option<Duration>) -> Result<Self, BlobError> {
        Ok(Self { store: Some(Place::at(url, keep)?), ..Self::without_store(limits) })
    }

    /// Fetches over HTTP by other rules than the built-in ones.
    #[must_use]
    pub fn with_web(self, web: Web) -> Self {
        Self { web, ..self }
    }

    /// Stores bytes under the name of their content. Storing the same bytes twice stores them once.
    ///
    /// # Errors
    /// [`BlobError`] of kind `storage`: the store is full, or not there, or there is none.
    pub async fn put(&self, bytes: Vec<u8>, media_type: &str, extension: &str) -> Result<BlobRef, BlobError> {
        let digest = format!("sha256:{:x}", Sha256::digest(&bytes));
        let length = bytes.len() as u64;
        if self.store()?.lives_by_writing() || self.renew(&digest).await? != Some(length) {
            let mut writer = self.writer(&digest).await?;
            // The digest was made of these very bytes.
            writer.write_unchecked(bytes.into()).await?;
            writer.close().await?;
        }
        Ok(BlobRef {
            blob: digest,
            bytes: length,
            media_type: media_type.to_owned(),
            extension: extension.to_owned(),
            name: None,
        })
    }

    /// How large the blob of that digest (`sha256:…`) is; `None` where it is not stored.
    ///
    /// # Errors
    /// [`BlobError`] where there is no store, it is away, or the name is not a blob's.
    pub async fn size_of(&self, digest: &str) -> Result<Option<u64>, BlobError> {
        self.store()?.size(&file_name(digest)?).await
    }

    /// The bytes of a stored blob, piece by piece.
    ///
    /// # Errors
    /// As [`Blobs::size_of`], and within the stream where it goes away.
    pub async fn read(&self, digest: &str) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        self.store()?.read(&file_name(digest)?).await
    }

    /// Begins to store the blob of that digest.
    ///
    /// # Errors
    /// As [`Blobs::size_of`].
    pub async fn writer(&self, digest: &str) -> Result<BlobWriter, BlobError> {
        let store = self.store()?;
        let name = file_name(digest)?;
        let writer = store.write(&name).await?;
        Ok(BlobWriter::new(store.clone(), name, writer, self.limits.max_bytes))
    }

    /// The file that holds a stored blob.
    ///
    /// # Errors
    /// [`BlobError`] where there is no store, it is no folder, or the name is not a blob's.
    pub fn path_of(&self, blob: &BlobRef) -> Result<PathBuf, BlobError> {
        self.path_of_digest(&blob.blob)
    }

    /// The file that holds the blob of that digest (`sha256:…`).
    ///
    /// # Errors
    /// As [`Blobs::path_of`].
    pub fn path_of_digest(&self, digest: &str) -> Result<PathBuf, BlobError> {
        let folder = self.store()?.folder.as_ref();
        let folder =
            folder.ok_or_else(|| BlobError::permanent("storage", "blobs are not stored in a folder".into()))?;
        Ok(folder.join(file_name(digest)?))
    }

    fn store(&self) -> Result<&Place, BlobError> {
        self.store.as_ref().ok_or_else(|| {
            BlobError::permanent(
                "storage",
                "there is no place to store files in: set blobs.url, for workers and results API alike".into(),
            )
        })
    }

    /// The bytes behind a path, `file:`, `http(s):`, `s3:`, `gs:` or `az:` URL, within a `data:` URL (RFC 2397), or of
    /// `blob:sha256:…`.
    ///
    /// # Errors
    /// [`BlobError`], naming the location.
    pub async fn fetch(&self, location: &str) -> Result<Vec<u8>, BlobError> {
        if let Some(path) = file_behind(location)? {
            return self.fetch_file(path).await;
        }
        match scheme(location) {
            None => self.fetch_file(Path::new(location)).await,
            Some(("blob", digest)) => self.fetch_blob(digest).await,
            Some(("data", _)) => self.within(location),
            Some(("http" | "https", _)) => {
                let most = Most { bytes: self.limits.max_bytes, setting: "fetch.max_bytes" };
                self.get(location, "*/*", most).await?.read().await
            }
            Some((scheme, rest)) => self.fetch_object(location, scheme, rest).await,
        }
    }

    /// What comes over a network is checked: a blob is what its name says. A folder of ours is believed.
    async fn fetch_blob(&self, digest: &str) -> Result<Vec<u8>, BlobError> {
        let store = self.store()?;
        if let Some(folder) = &store.folder {
            return self.fetch_file(&folder.join(file_name(digest)?)).await;
        }
        let size = self.stored_size(digest).await?;
        self.check_size(digest, size)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let mut pieces = self.read(digest).await?;
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        if format!("sha256:{:x}", Sha256::digest(&bytes)) != digest {
            return Err(other_bytes(digest));
        }
        Ok(bytes)
    }

    async fn stored_size(&self, digest: &str) -> Result<u64, BlobError> {
        let not_found =
            || BlobError::permanent("not_found", format!("no blob {digest} is stored; it may have expired"));
        self.size_of(digest).await?.ok_or_else(not_found)
    }

    fn within(&self, location: &str) -> Result<Vec<u8>, BlobError> {
        let bytes = inline::bytes_of(location)?;
        self.check_size("a data: URL", bytes.len() as u64)?;
        Ok(bytes)
    }

    async fn fetch_file(&self, path: &Path) -> Result<Vec<u8>, BlobError> {
        let (path, most) = (path.to_owned(), self.limits.max_bytes.saturating_add(1));
        let reading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let metadata = std::fs::metadata(&path)?;
                must_be_file(&metadata)?;
                if metadata.len() >= most {
                    return Ok((metadata.len(), Vec::new()));
                }
                let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
                // What it says of its size need not be so: a file may grow, and one of /proc says 0.
                std::fs::File::open(&path)?.take(most).read_to_end(&mut bytes)?;
                Ok((bytes.len() as u64, bytes))
            }
        });
        // It ends early with the runtime only.
        let read = reading.await.unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
        let (size, bytes) = read.map_err(|error: std::io::Error| BlobError::unreadable(&path, &error))?;
        self.check_size(&path.display().to_string(), size)?;
        Ok(bytes)
    }

    /// Asks for what is at an `http(s):` URL; see [`Web::get`].
    ///
    /// # Errors
    /// As there.
    pub async fn get(&self, url: &str, accept: &str, most: Most) -> Result<Answer, BlobError> {
        self.web.get(url, accept, most, self.limits.timeout).await
    }

    async fn fetch_object(&self, location: &str, scheme: &str, rest: &str) -> Result<Vec<u8>, BlobError> {
        let object = self.object(location, scheme, rest).await?;
        Ok(object.operator.read(object.key).await.map_err(|error| object.failed(&error))?.to_vec())
    }

    /// An object that is there, and not too large.
    async fn object<'a>(&self, location: &'a str, scheme: &str, rest: &'a str) -> Result<Object<'a>, BlobError> {
        let (bucket, key) =
            rest.trim_start_matches('/').split_once('/').filter(|(_, key)| !key.is_empty()).ok_or_else(|| {
                BlobError::permanent(
                    "invalid_input",
                    format!("{location} names no object; it should be {scheme}://bucket/key"),
                )
            })?;
        bucket::as_written(location, key)?;
        let operator = bucket::operator(location, scheme, bucket, self.limits.timeout)?;
        let operator = operator.map_err(|error| cannot_fetch(location, &error))?;
        let object = Object { location, key, operator };
        let metadata = object.operator.stat(key).await.map_err(|error| object.failed(&error))?;
        self.check_size(location, metadata.content_length())?;
        Ok(object)
    }

    fn check_size(&self, location: &str, bytes: u64) -> Result<(), BlobError> {
        if bytes > self.limits.max_bytes {
            let max = self.limits.max_bytes;
            return Err(BlobError::permanent(
                "too_large",
                format!("{location} has more than the {max} bytes that fetch.max_bytes allows"),
            ));
        }
        Ok(())
    }
}

/// An object of a bucket.
struct Object<'a> {
    location: &'a str,
    key: &'a str,
    operator: opendal::Operator,
}

impl Object<'_> {
    fn failed(&self, error: &opendal::Error) -> BlobError {
        cannot_fetch(self.location, error)
    }
}

fn cannot_fetch(location: &str, error: &opendal::Error) -> BlobError {
    BlobError {
        kind: if error.kind() == opendal::ErrorKind::NotFound { "not_found" } else { "unreachable" },
        message: format!("cannot fetch {location}: {}", why(error)),
        transient: error.is_temporary(),
        retry_after: None,
    }
}

fn other_bytes(digest: &str) -> BlobError {
    BlobError::permanent("storage", format!("blob {digest} is stored with other bytes than its name says"))
}

/// HTTP clients are built without a cryptography of their own, so that the process has one: call this before making one.
pub fn choose_cryptography() {
    // An error means that it was chosen before.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// Makes opendal's services known, and what they speak HTTP with. More than once does no harm.
fn install_opendal() {
    choose_cryptography();
    opendal::install_default();
    opendal_http_transport_reqwest::install_default();
}

/// Splits `scheme:rest`, for schemes of two letters or more (`c:` is a drive, `a:b.jpg` may be a file). Those that are
/// known are in small letters, however they were written.
pub fn scheme(location: &str) -> Option<(&str, &str)> {
    const KNOWN: [&str; 8] = ["file", "blob", "data", "http", "https", "s3", "gs", "az"];
    let (scheme, rest) = location.split_once(':')?;
    let scheme = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(scheme)).unwrap_or(scheme);
    let known = scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (known && (rest.starts_with("//") || matches!(scheme, "blob" | "data"))).then_some((scheme, rest))
}

/// The file that a `file:` URL names; `None` where it is another URL, or none. Nothing in it is decoded: people write paths
/// behind `file://` as they are.
///
/// # Errors
/// [`BlobError`] of kind `invalid_input` where it names no file of this machine. `file://out/a.png` is none: its first part
/// is a host, and whoever takes it for a folder looks elsewhere than who does not.
pub fn file_behind(location: &str) -> Result<Option<&Path>, BlobError> {
    let Some(("file", rest)) = scheme(location) else { return Ok(None) };
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let path = match rest.split_once('/') {
        Some((host, _)) if host.eq_ignore_ascii_case("localhost") => &rest[host.len()..],
        _ => rest,
    };
    if !path.starts_with('/') {
        let hint = "it should be file:///folder/file, or the path alone";
        return Err(BlobError::permanent("invalid_input", format!("{location} names no file of this machine; {hint}")));
    }
    Ok(Some(Path::new(path)))
}

/// `sha256:ab12…` as a file's name. Nothing but a digest passes, so no name can lead out of the folder.
fn file_name(digest: &str) -> Result<String, BlobError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => {
            Ok(hex.to_owned())
        }
        _ => Err(BlobError::permanent(
            "invalid_input",
            format!("{digest:?} does not name a blob; it should be sha256: and 64 hexadecimal digits"),
        )),
    }
}

/// Refuses what is no regular file: a pipe or a device could keep whoever opens it waiting for ever.
///
/// # Errors
/// That it is none.
pub fn must_be_file(metadata: &std::fs::Metadata) -> std::io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(std::io::Error::other("it is not a regular file")) }
}

/// The system's words without Rust's "(os error 2)".
pub fn io_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// opendal's errors carry a page of context; the innermost cause is what people need.
fn why(error: &opendal::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
