//! The place where blobs are stored, as a URL names it: a folder, Redis, a bucket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use opendal::{Builder, Configurator, Operator, OperatorUri, services};
use redis::IntoConnectionInfo as _;

use super::{BlobError, UNFINISHED, why};
use crate::settings::ServiceUrl;

/// The folder within a Redis, where its URL names none: keys begin with it.
const REDIS_ROOT: &str = "tidemill-blobs";

/// A place for blobs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The folder, where it is one: then a blob is a file that can be linked and mapped.
    pub(super) folder: Option<PathBuf>,
    operator: Operator,
    /// How long a blob is kept; `None` for ever, or as long as a bucket's own rules say.
    pub(super) keep: Option<Duration>,
    /// For people, without passwords.
    shown: String,
}

impl Place {
    pub(super) fn folder(folder: &Path, keep: Option<Duration>) -> Result<Self, BlobError> {
        let unusable = |reason: &dyn std::fmt::Display| unusable(&folder.display(), reason);
        let root = folder.to_str().ok_or_else(|| unusable(&"its path is not UTF-8"))?;
        // A blob appears whole or not at all, also when two items make the same one at the same time.
        let unfinished = folder.join(UNFINISHED);
        let unfinished = unfinished.to_str().ok_or_else(|| unusable(&"its path is not UTF-8"))?;
        let service = services::Fs::default().root(root).atomic_write_dir(unfinished);
        let operator = Operator::new(service).map_err(|error| unusable(&error))?;
        Ok(Self { folder: Some(folder.to_owned()), operator, keep, shown: folder.display().to_string() })
    }

    pub(super) fn at(url: &ServiceUrl, keep: Option<Duration>) -> Result<Self, BlobError> {
        let (operator, keep) = match url.scheme() {
            "file" => return Self::folder(Path::new(url.rest()), keep),
            "memory" => (Operator::new(services::Memory::default()), None),
            "redis" | "rediss" => (redis(url, keep), keep),
            "s3" => (bucket::<services::S3Config>(url, Ok), None),
            "gs" => (bucket::<services::GcsConfig>(url, Ok), None),
            "az" => (bucket(url, azure), None),
            scheme => {
                let message = format!("cannot store blobs at {url}: {scheme}: is not among {SCHEMES}");
                return Err(BlobError::permanent("storage", message));
            }
        };
        let operator = operator.map_err(|error| unusable(url, &why(&error)))?;
        Ok(Self { folder: None, operator, keep, shown: url.to_string() })
    }

    pub(super) fn unusable(&self, reason: &dyn std::fmt::Display) -> BlobError {
        unusable(&self.shown, reason)
    }

    /// Whether a blob that is there may as well be written again: only that makes it stay.
    pub(super) fn lives_by_writing(&self) -> bool {
        self.keep.is_some() && self.folder.is_none()
    }

    /// Writes a blob over itself; `false` where it has gone meanwhile.
    pub(super) async fn write_again(&self, name: &str) -> Result<bool, BlobError> {
        match self.operator.read(name).await {
            Ok(bytes) => match self.operator.write(name, bytes).await {
                Ok(_) => Ok(true),
                Err(error) => Err(self.failed("store", name, &error)),
            },
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("read", name, &error)),
        }
    }

    /// How large the blob of that name is; `None` where there is none.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, BlobError> {
        match self.operator.stat(name).await {
            Ok(metadata) => Ok(Some(metadata.content_length())),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look for", name, &error)),
        }
    }

    /// The bytes of a blob, piece by piece.
    pub(super) async fn read(&self, name: &str) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        let failed = {
            let (place, name) = (self.clone(), name.to_owned());
            move |error: std::io::Error| BlobError {
                kind: "unreachable",
                message: format!("cannot read {name} in {}: {}", place.shown, super::io_reason(&error)),
                transient: true,
                retry_after: None,
            }
        };
        let reader = self.operator.reader(name).await.map_err(|error| self.failed("read", name, &error))?;
        let stream = reader.into_bytes_stream(..).await.map_err(|error| self.failed("read", name, &error))?;
        Ok(stream.map_err(failed).boxed())
    }

    /// Begins to write a blob, which appears when it is finished.
    pub(super) async fn write(&self, name: &str) -> Result<opendal::Writer, BlobError> {
        self.operator.writer(name).await.map_err(|error| self.failed("store", name, &error))
    }

    pub(super) fn failed(&self, what: &str, name: &str, error: &opendal::Error) -> BlobError {
        BlobError {
            kind: "storage",
            message: format!("cannot {what} {name} in {}: {}", self.shown, why(error)),
            transient: error.is_temporary() || error.kind() == opendal::ErrorKind::Unexpected && self.folder.is_none(),
            retry_after: None,
        }
    }
}

fn unusable(place: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> BlobError {
    BlobError::permanent("storage", format!("cannot store blobs at {place}: {reason}"))
}

const SCHEMES: &str = "file, memory, redis, rediss, s3, gs and az";

/// `redis://user:password@host:6379/2/folder`: database 2, keys that begin with `folder`.
fn redis(url: &ServiceUrl, keep: Option<Duration>) -> Result<Operator, opendal::Error> {
    super::choose_cryptography();
    let invalid = |reason: String| opendal::Error::new(opendal::ErrorKind::ConfigInvalid, reason);
    let (authority, path) = url.rest().split_once('/').unwrap_or((url.rest(), ""));
    let (database, folder) = match path.split_once('/').unwrap_or((path, "")) {
        (number, folder) if number.parse::<i64>().is_ok() => (number, folder),
        _ => ("0", path),
    };
    // The client itself takes its address apart, with whatever is escaped in it.
    let address = format!("{}://{authority}/{database}", url.scheme());
    let info = address.into_connection_info().map_err(|error| invalid(error.to_string()))?;
    let settings = info.redis_settings();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let folder = if folder.is_empty() { REDIS_ROOT } else { folder };
    let mut service = services::Redis::default()
        .endpoint(&format!("{}://{host}", url.scheme()))
        .username(settings.username().unwrap_or_default())
        .password(settings.password().unwrap_or_default())
        .db(settings.db())
        .root(&format!("/{folder}"));
    if let Some(keep) = keep {
        service = service.default_ttl(keep);
    }
    Operator::new(service)
}

/// `s3://bucket/folder?endpoint=…&region=…`; what is not said comes from the environment, by each provider's own
/// names, and so do credentials.
fn bucket<C: Configurator>(
    url: &ServiceUrl,
    complete: impl FnOnce(C) -> Result<C, opendal::Error>,
) -> Result<Operator, opendal::Error>
where
    C::Builder: Builder,
{
    // Once is enough, and more does no harm: without it opendal has nothing to speak HTTP with.
    super::install_opendal();
    let uri = OperatorUri::new(url.expose(), std::iter::empty::<(String, String)>())?;
    let operator = Operator::new(complete(C::from_uri(&uri)?)?.into_builder())?;
    Ok(operator.layer(super::bucket::within(super::bucket::SILENT)))
}

fn azure(mut config: services::AzblobConfig) -> Result<services::AzblobConfig, opendal::Error> {
    if config.endpoint.is_none() {
        let missing = |missing| opendal::Error::new(opendal::ErrorKind::ConfigInvalid, missing);
        config.endpoint = Some(super::bucket::azure_endpoint().map_err(missing)?);
    }
    Ok(config)
}
