//! Blobs over the API.

use std::path::{Path, PathBuf};

use reqwest::{Method, header};
use sha2::{Digest as _, Sha256};
use tidemill_core::blobs::must_be_file;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ApiError, Client, Trouble};

/// How much of a file goes out at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Why a blob is not in its file.
#[derive(Debug)]
pub(crate) enum BlobTrouble {
    /// It did not come.
    Api(ApiError),
    /// It could not be written.
    File(std::io::Error),
}

impl From<ApiError> for BlobTrouble {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<std::io::Error> for BlobTrouble {
    fn from(error: std::io::Error) -> Self {
        Self::File(error)
    }
}

impl Client {
    /// Stores a file of that content (see [`digest_of`]), unless it is stored already; gives whether it had to be. `moved`
    /// is called whenever some of it has gone out, with how many bytes; of the last ones it may not be told.
    pub(crate) async fn upload(
        &self,
        path: &Path,
        digest: &str,
        bytes: u64,
        moved: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<bool, BlobTrouble> {
        let blob = format!("/v1/blobs/{digest}");
        match self.begin(Method::HEAD, &blob, |request| request).await {
            Ok(_) => return Ok(false),
            Err(error) if error.trouble == Trouble::Unknown => {}
            Err(error) => return Err(error.into()),
        }
        let file = tokio::fs::File::open(path).await?;
        // Whoever asks for the next piece has sent the one before.
        let pieces = futures::stream::try_unfold((file, 0), move |(mut file, gone)| {
            moved(gone);
            async move {
                let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
                let count = file.read_buf(&mut piece).await?;
                Ok::<_, std::io::Error>((count > 0).then(|| (piece.freeze(), (file, count as u64))))
            }
        });
        let body = reqwest::Body::wrap_stream(pieces);
        self.begin(Method::PUT, &blob, |request| request.header(header::CONTENT_LENGTH, bytes).body(body)).await?;
        Ok(true)
    }

    /// Fetches the blob of that digest (`sha256:…`) into a file, which is there whole or not at all. What comes is
    /// checked: a blob is what its name says.
    pub(crate) async fn fetch_blob(&self, digest: &str, path: &Path) -> Result<(), BlobTrouble> {
        let mut response = self.begin(Method::GET, &format!("/v1/blobs/{digest}"), |request| request).await?;
        let unfinished = path.with_extension("unfinished");
        let mut file = tokio::fs::File::create(&unfinished).await?;
        let mut hasher = Sha256::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            hasher.update(&piece);
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        if format!("sha256:{:x}", hasher.finalize()) != digest {
            let message = format!("{} sent other bytes than {digest} names", self.shown);
            return Err(ApiError::new(Trouble::Fault, message).into());
        }
        Ok(tokio::fs::rename(&unfinished, path).await?)
    }
}

/// The name of a file's content (`sha256:…`) and its size. It is read once through, on a thread for that.
pub(crate) async fn digest_of(path: PathBuf) -> std::io::Result<(String, u64)> {
    let hashing = tokio::task::spawn_blocking(move || {
        must_be_file(&std::fs::metadata(&path)?)?;
        let mut hasher = Sha256::new();
        let bytes = std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok((format!("sha256:{:x}", hasher.finalize()), bytes))
    });
    hashing.await.map_err(std::io::Error::other)?
}
