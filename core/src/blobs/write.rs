//! Writing a blob piece by piece, under a name that its bytes must turn out to deserve.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::BlobError;
use super::place::Place;

/// A blob that is being written. Dropped before it is finished, it was never there.
pub struct BlobWriter {
    place: Place,
    name: String,
    /// Taken when it ends.
    writer: Option<opendal::Writer>,
    hasher: Sha256,
    bytes: u64,
    max_bytes: u64,
}

impl fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter").field("name", &self.name).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl BlobWriter {
    pub(super) fn new(place: Place, name: String, writer: opendal::Writer, max_bytes: u64) -> Self {
        Self { place, name, writer: Some(writer), hasher: Sha256::new(), bytes: 0, max_bytes }
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// [`BlobError`] of kind `too_large` over the limit, `storage` where the store does not take it.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&piece);
        if self.bytes + piece.len() as u64 > self.max_bytes {
            self.abort().await;
            let message = format!("a blob has at most the {} bytes that fetch.max_bytes allows", self.max_bytes);
            return Err(BlobError::permanent("too_large", message));
        }
        self.write_unchecked(piece).await
    }

    /// Adds a piece that somebody else has looked at.
    pub(super) async fn write_unchecked(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.bytes += piece.len() as u64;
        let Some(writer) = &mut self.writer else { return Err(self.is_over()) };
        let Err(error) = writer.write(piece).await else { return Ok(()) };
        self.abort().await;
        Err(self.place.failed("store", &self.name, &error))
    }

    /// Makes the blob appear, if its bytes are those that its name promises; gives their number.
    ///
    /// # Errors
    /// [`BlobError`] of kind `invalid_input` where they are others; nothing is stored then.
    pub async fn finish(mut self) -> Result<u64, BlobError> {
        let digest = format!("{:x}", std::mem::take(&mut self.hasher).finalize());
        if digest != self.name {
            self.abort().await;
            let message = format!("the bytes are those of sha256:{digest}, not of sha256:{}", self.name);
            return Err(BlobError::permanent("invalid_input", message));
        }
        self.close().await
    }

    /// Makes the blob appear.
    pub(super) async fn close(mut self) -> Result<u64, BlobError> {
        let Some(writer) = &mut self.writer else { return Err(self.is_over()) };
        match writer.close().await {
            Ok(_) => {
                self.writer = None;
                Ok(self.bytes)
            }
            Err(error) => {
                self.abort().await;
                Err(self.place.failed("store", &self.name, &error))
            }
        }
    }

    fn is_over(&self) -> BlobError {
        BlobError::permanent("storage", format!("the blob {} was given up before", self.name))
    }

    async fn abort(&mut self) {
        if let Some(writer) = self.writer.take() {
            give_up(writer, &self.name).await;
        }
    }
}

/// On a full disk the half that was written takes the room of others.
async fn give_up(mut writer: opendal::Writer, name: &str) {
    if writer.abort().await.is_err() {
        tracing::warn!(name, "what was written of a blob could not be removed");
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        let (Some(writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) else { return };
        let name = std::mem::take(&mut self.name);
        runtime.spawn(async move { give_up(writer, &name).await });
    }
}
