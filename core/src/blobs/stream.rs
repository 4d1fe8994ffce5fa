//! Stream: what is behind a location, piece by piece.

use std::path::PathBuf;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

use super::{BlobError, Blobs, Most, file_behind, io_reason, other_bytes, scheme};

impl Blobs {
    /// The file of this machine that a location of [`Blobs::fetch`] is, where it is one: a path, a `file:` URL, or a blob in
    /// a folder.
    ///
    /// # Errors
    /// [`BlobError`], naming the location.
    pub fn file_at(&self, location: &str) -> Result<Option<PathBuf>, BlobError> {
        if let Some(path) = file_behind(location)? {
            return Ok(Some(path.to_owned()));
        }
        match scheme(location) {
            None => Ok(Some(location.into())),
            Some(("blob", digest)) if self.store()?.folder.is_some() => self.path_of_digest(digest).map(Some),
            Some(_) => Ok(None),
        }
    }

    /// What [`Blobs::fetch`] would fetch, in pieces as they come.
    ///
    /// # Errors
    /// As there; within the stream where it breaks off, and at the end of a blob that is not what its name says.
    pub async fn stream(&self, location: &str) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        match scheme(location) {
            Some(("blob", digest)) => {
                self.check_size(digest, self.stored_size(digest).await?)?;
                Ok(checked(self.read(digest).await?, digest.to_owned()))
            }
            Some(("http" | "https", _)) => {
                let most = Most { bytes: self.limits.max_bytes, setting: "fetch.max_bytes" };
                let answer = self.get(location, "*/*", most).await?;
                let pieces = futures::stream::try_unfold(answer, |mut answer| async move {
                    Ok(answer.piece().await?.map(|piece| (piece, answer)))
                });
                Ok(pieces.boxed())
            }
            Some((scheme @ ("s3" | "gs" | "az"), rest)) => {
                let object = self.object(location, scheme, rest).await?;
                let failed = |error: opendal::Error| object.failed(&error);
                let reader = object.operator.reader(object.key).await.map_err(failed)?;
                let pieces = reader.into_bytes_stream(..).await.map_err(failed)?;
                let location = location.to_owned();
                let broken_off = move |error: std::io::Error| BlobError {
                    kind: "unreachable",
                    message: format!("cannot fetch {location}: {}", io_reason(&error)),
                    transient: true,
                    retry_after: None,
                };
                Ok(pieces.map_err(broken_off).boxed())
            }
            _ => {
                let bytes = self.fetch(location).await?;
                Ok(futures::stream::once(std::future::ready(Ok(bytes.into()))).boxed())
            }
        }
    }
}

/// The same pieces, and an error behind them where they are not what the digest names.
fn checked(
    pieces: BoxStream<'static, Result<Bytes, BlobError>>,
    digest: String,
) -> BoxStream<'static, Result<Bytes, BlobError>> {
    let checked =
        futures::stream::try_unfold((pieces, Sha256::new(), digest), |(mut pieces, mut hasher, digest)| async move {
            if let Some(piece) = pieces.next().await.transpose()? {
                hasher.update(&piece);
                return Ok(Some((piece, (pieces, hasher, digest))));
            }
            if format!("sha256:{:x}", hasher.finalize()) == digest { Ok(None) } else { Err(other_bytes(&digest)) }
        });
    checked.boxed()
}
