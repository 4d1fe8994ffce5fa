//! Blobs: bytes in and out of the store of blobs, under the name of their content.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde::Deserialize;
use tidemill_core::blobs::{BlobRef, Blobs};

use super::Served;
use super::asked::{Asked, part};
use super::body::{cut_short, drain, whole};
use super::problem::Problem;

/// Without its digest a blob must be held until it has one. Larger ones are put under theirs, and never held.
const MAX_POST_BYTES: usize = 16 << 20;

/// The digest that the address names.
pub(super) struct Digest(String);

impl<S: Send + Sync> FromRequestParts<S> for Digest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(part(parts, state, "digest").await?))
    }
}

/// What is said of a blob beside its bytes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Described {
    extension: String,
}

impl Default for Described {
    fn default() -> Self {
        Self { extension: "bin".into() }
    }
}

/// `HEAD /v1/blobs/{digest}`: whoever would store it need not, and may rely on it as if they had.
pub(super) async fn look(State(served): State<Arc<Served>>, Digest(digest): Digest) -> Result<Response, Problem> {
    let size = store(&served)?.renew(&digest).await?;
    Ok(headers(&digest, size.ok_or_else(|| unknown(&digest))?).into_response())
}

/// `GET /v1/blobs/{digest}`
pub(super) async fn fetch(State(served): State<Arc<Served>>, Digest(digest): Digest) -> Result<Response, Problem> {
    let blobs = store(&served)?;
    let size = size(blobs, &digest).await?;
    let pieces = blobs.read(&digest).await?;
    Ok((headers(&digest, size), Body::from_stream(pieces)).into_response())
}

/// `PUT /v1/blobs/{digest}`
pub(super) async fn put(
    State(served): State<Arc<Served>>,
    Digest(digest): Digest,
    Asked(described): Asked<Described>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let media_type = media_type(&headers)?;
    let mut writer = store(&served)?.writer(&digest).await?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        if let Err(error) = writer.write(piece.map_err(|error| cut_short(&error))?).await {
            drain(pieces).await;
            return Err(error.into());
        }
    }
    let bytes = writer.finish().await?;
    let blob = BlobRef { blob: digest, bytes, media_type, extension: described.extension, name: None };
    Ok((StatusCode::CREATED, Json(blob)).into_response())
}

/// `POST /v1/blobs`
pub(super) async fn post(
    State(served): State<Arc<Served>>,
    Asked(described): Asked<Described>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let media_type = media_type(&headers)?;
    let bytes = whole(body, MAX_POST_BYTES, "larger blobs go to PUT /v1/blobs/sha256:…").await?;
    let blob = store(&served)?.put(bytes.into(), &media_type, &described.extension).await?;
    Ok((StatusCode::CREATED, Json(blob)).into_response())
}

fn store(served: &Served) -> Result<&Blobs, Problem> {
    served
        .api
        .blobs
        .as_ref()
        .ok_or_else(|| Problem::not_found("no_blobs", "this results API stores no blobs; blobs.url would say where"))
}

async fn size(blobs: &Blobs, digest: &str) -> Result<u64, Problem> {
    let size = blobs.size_of(digest).await?;
    size.ok_or_else(|| unknown(digest))
}

fn unknown(digest: &str) -> Problem {
    Problem::not_found("unknown_blob", format!("no blob {digest} is stored; it may have expired"))
}

/// What a name stands for never changes.
fn headers(digest: &str, size: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, size.into());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, immutable, max-age=31536000"));
    // Whatever bytes somebody stores here, no browser shall run them.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        headers.insert(header::ETAG, tag);
    }
    headers
}

/// What the bytes are said to be. A form has a blob and more in it, which nobody would want back.
fn media_type(headers: &HeaderMap) -> Result<String, Problem> {
    const BYTES: &str = "application/octet-stream";
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(BYTES);
    match given.to_ascii_lowercase() {
        form if form.starts_with("multipart/") => {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let detail = "send the bytes themselves as the body (curl --data-binary @FILE), not a form";
            Err(Problem::new(status, "media_type", "the body is of another type", detail))
        }
        // So curl calls whatever it is given.
        any if any == "application/x-www-form-urlencoded" => Ok(BYTES.to_owned()),
        media_type => Ok(media_type),
    }
}
