//! Blobs over the API.

use std::path::Path;

use reqwest::Method;
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
