//! Blobs over the API.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use reqwest::{Method, header};
use sha2::{Digest as _, Sha256};
use tidemill_core::blobs::must_be_file;
use tidemill_core::lock::lock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ApiError, Client, Trouble};

/// How much of a file goes out at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Why a blob is not in its file.
#[derive(Debug)]
pub(crate) enum BlobTrouble {
    /// It did not come.
    Api(ApiError),
    /// It could not be written, or read.
    File(io::Error),
}

impl From<ApiError> for BlobTrouble {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<io::Error> for BlobTrouble {
    fn from(error: io::Error) -> Self {
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
        // The HTTP client tells what is wrong with the file as it tells what is wrong with the way.
        let unreadable = Arc::<Mutex<Option<io::Error>>>::default();
        let told = Arc::clone(&unreadable);
        // Whoever asks for the next piece has sent the one before.
        let pieces = futures::stream::try_unfold((file, bytes, 0), move |(mut file, left, gone)| {
            moved(gone);
            let told = Arc::clone(&told);
            async move {
                let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
                let count = match file.read_buf(&mut piece).await {
                    Ok(0) if left > 0 => Err(has_changed()),
                    read => read,
                };
                let count = count.map_err(|error| {
                    let shown = error.to_string();
                    *lock(&told) = Some(error);
                    io::Error::other(shown)
                })? as u64;
                Ok::<_, io::Error>((count > 0).then(|| (piece.freeze(), (file, left.saturating_sub(count), count))))
            }
        });
        let body = reqwest::Body::wrap_stream(pieces);
        let sent = self.begin(Method::PUT, &blob, |request| request.header(header::CONTENT_LENGTH, bytes).body(body));
        let Err(mut error) = sent.await else { return Ok(true) };
        if let Some(unreadable) = lock(&unreadable).take() {
            return Err(unreadable.into());
        }
        match error.trouble {
            // It may have been right: what came was not what was named.
            Trouble::Refused if digest_of(path.to_owned()).await?.0 != digest => return Err(has_changed().into()),
            Trouble::Unknown => error.trouble = Trouble::NoBlobs,
            _ => {}
        }
        Err(error.into())
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

fn has_changed() -> io::Error {
    io::Error::other("it was changed while it was sent")
}

/// The name of a file's content (`sha256:…`) and its size. It is read once through, on a thread for that.
pub(crate) async fn digest_of(path: PathBuf) -> io::Result<(String, u64)> {
    let hashing = tokio::task::spawn_blocking(move || {
        must_be_file(&std::fs::metadata(&path)?)?;
        let mut hasher = Sha256::new();
        let bytes = io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok((format!("sha256:{:x}", hasher.finalize()), bytes))
    });
    hashing.await.map_err(io::Error::other)?
}
