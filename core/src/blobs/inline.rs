//! Inline: bytes that travel within their location, as a `data:` URL (RFC 2397).

use std::fmt::Debug;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::BlobError;

/// A location that is these very bytes; a third longer than they are.
pub fn inline(bytes: &[u8]) -> String {
    let mut url = String::from("data:;base64,");
    STANDARD.encode_string(bytes, &mut url);
    url
}

/// The bytes within such a location.
pub(super) fn bytes_of(url: &str) -> Result<Vec<u8>, BlobError> {
    let bad = |why: &dyn Debug| BlobError::permanent("invalid_input", format!("a data: URL is not good: {why:?}"));
    let url = data_url::DataUrl::process(url).map_err(|error| bad(&error))?;
    let (bytes, _) = url.decode_to_vec().map_err(|error| bad(&error))?;
    Ok(bytes)
}
