//! Spool: bytes on their way to the store whose digest nobody knows before the last of them has come.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::{BlobError, BlobRef, Blobs, UNFINISHED, io_reason};

/// What is read back at a time, where the store is no folder.
const PIECE_BYTES: usize = 1 << 20;

/// A blob that comes in pieces. It waits in a file, not in memory; dropped before it is finished, the file is gone.
#[derive(Debug)]
pub struct Spool {
    blobs: Blobs,
    file: File,
    path: TempPath,
    hasher: Sha256,
    bytes: u64,
}

impl Blobs {
    /// Begins to store a blob of which nobody knows the digest yet.
    ///
    /// # Errors
    /// [`BlobError`] of kind `storage`: there is no store, or no room for a file.
    pub async fn spool(&self) -> Result<Spool, BlobError> {
        // In the store's own folder placing it is a rename; elsewhere it is copied over the network.
        let folder = self.store()?.folder.as_ref().map_or_else(std::env::temp_dir, |folder| folder.join(UNFINISHED));
        let failed = |error: std::io::Error| no_room(&folder, &error);
        let making = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || make(&folder))
        };
        let (file, path) = making.await.map_err(std::io::Error::other).flatten().map_err(failed)?;
        let file = File::from_std(file);
        Ok(Spool { blobs: self.clone(), file, path, hasher: Sha256::new(), bytes: 0 })
    }
}

impl Spool {
    /// Adds a piece.
    ///
    /// # Errors
    /// [`BlobError`] of kind `storage`: the disk is full.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&piece);
        self.bytes += piece.len() as u64;
        self.file.write_all(&piece).await.map_err(|error| no_room(&self.path, &error))
    }

    /// Makes the blob appear under the name of its content.
    ///
    /// # Errors
    /// [`BlobError`] of kind `storage`.
    pub async fn finish(mut self, media_type: &str, extension: &str) -> Result<BlobRef, BlobError> {
        self.file.flush().await.map_err(|error| no_room(&self.path, &error))?;
        let digest = format!("sha256:{:x}", std::mem::take(&mut self.hasher).finalize());
        let blob = BlobRef {
            blob: digest,
            bytes: self.bytes,
            media_type: media_type.to_owned(),
            extension: extension.to_owned(),
            name: None,
        };
        if self.blobs.renew(&blob.blob).await? != Some(self.bytes) {
            match &self.blobs.store()?.folder {
                Some(_) => place(self.path, self.blobs.path_of(&blob)?).await?,
                None => self.send(&blob.blob).await?,
            }
        }
        Ok(blob)
    }

    async fn send(mut self, digest: &str) -> Result<(), BlobError> {
        let mut writer = self.blobs.writer(digest).await?;
        let failed = |error: std::io::Error| no_room(&self.path, &error);
        self.file.rewind().await.map_err(failed)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = (&mut self.file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await.map_err(failed)?;
            if read == 0 {
                break;
            }
            // The digest was made of these very bytes, and their number was bounded where they came from.
            writer.write_unchecked(piece.into()).await?;
        }
        writer.close().await.map(drop)
    }
}

/// A file with the rights of any other: it may become one that a user looks at.
fn make(folder: &Path) -> std::io::Result<(std::fs::File, TempPath)> {
    std::fs::create_dir_all(folder)?;
    let rights = std::fs::Permissions::from_mode(0o666);
    Ok(tempfile::Builder::new().prefix("tidemill-").permissions(rights).tempfile_in(folder)?.into_parts())
}

async fn place(from: TempPath, to: PathBuf) -> Result<(), BlobError> {
    let shown = to.clone();
    let placing = tokio::task::spawn_blocking(move || from.persist(to).map_err(|error| error.error));
    placing.await.map_err(std::io::Error::other).flatten().map_err(|error| no_room(&shown, &error))
}

fn no_room(path: &Path, error: &std::io::Error) -> BlobError {
    BlobError::permanent("storage", format!("cannot store a file at {}: {}", path.display(), io_reason(error)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::FetchLimits;
    use super::*;

    const LIMITS: FetchLimits = FetchLimits { max_bytes: 10 << 20, timeout: Duration::from_secs(5) };

    #[tokio::test]
    async fn what_came_in_pieces_is_stored_by_its_content_wherever_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        for blobs in [
            Blobs::in_folder(folder.path(), LIMITS).unwrap(),
            Blobs::at(&"memory://".parse().unwrap(), LIMITS, None).unwrap(),
        ] {
            for _ in ["new", "known"] {
                let mut spool = blobs.spool().await.unwrap();
                for piece in bytes.chunks(70_000) {
                    spool.write(Bytes::copy_from_slice(piece)).await.unwrap();
                }
                let blob = spool.finish("application/x-grist", "grist").await.unwrap();
                assert_eq!(blob.bytes, 3_000_000);
                assert_eq!(blobs.fetch(&format!("blob:{}", blob.blob)).await.unwrap(), bytes);
            }
        }
        assert_eq!(std::fs::read_dir(folder.path().join(UNFINISHED)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_folder(folder.path(), LIMITS).unwrap();
        let mut spool = blobs.spool().await.unwrap();
        spool.write(Bytes::from_static(b"half")).await.unwrap();
        drop(spool);
        assert_eq!(std::fs::read_dir(folder.path().join(UNFINISHED)).unwrap().count(), 0);
    }
}
