//! Blobs over the API.

use std::path::{Path, PathBuf};

use reqwest::{Method, header};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{ApiError, Client, Trouble};

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
    /// Stores a file's bytes, unless they are stored already; gives the name of its content (`sha256:…`) and its size.
    pub(crate) async fn upload(&self, path: &Path) -> Result<(String, u64), BlobTrouble> {
        let (digest, bytes) = digest_of(path.to_owned()).await?;
        let blob = format!("/v1/blobs/{digest}");
        match self.begin(Method::HEAD, &blob, |request| request).await {
            Ok(_) => return Ok((digest, bytes)),
            Err(error) if error.trouble == Trouble::Unknown => {}
            Err(error) => return Err(error.into()),
        }
        let file = tokio::fs::File::open(path).await?;
        self.begin(Method::PUT, &blob, |request| request.header(header::CONTENT_LENGTH, bytes).body(file)).await?;
        Ok((digest, bytes))
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

/// Reads a file once through, on a thread for that.
async fn digest_of(path: PathBuf) -> std::io::Result<(String, u64)> {
    let hashing = tokio::task::spawn_blocking(move || {
        let mut hasher = Sha256::new();
        let bytes = std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok((format!("sha256:{:x}", hasher.finalize()), bytes))
    });
    hashing.await.map_err(std::io::Error::other)?
}
