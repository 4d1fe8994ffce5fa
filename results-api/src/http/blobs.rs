//! Blobs: bytes in and out of the store of blobs, under the name of their content.

use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tidemill_core::blobs::{BlobError, BlobRef, Blobs};

use super::Served;
use super::asked::{Asked, part};
use super::body::{cut_short, whole};
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
pub(super) async fn look(
    State(served): State<Arc<Served>>,
    Digest(digest): Digest,
    asked: HeaderMap,
) -> Result<Response, Problem> {
    let size = store(&served)?.renew(&digest).await?;
    let size = size.ok_or_else(|| unknown(&digest))?;
    let status = if has_it(&asked, &digest) { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    Ok((status, headers(&digest, size)).into_response())
}

/// `GET /v1/blobs/{digest}`
pub(super) async fn fetch(
    State(served): State<Arc<Served>>,
    Digest(digest): Digest,
    asked: HeaderMap,
) -> Result<Response, Problem> {
    let blobs = store(&served)?;
    let size = size(blobs, &digest).await?;
    if has_it(&asked, &digest) {
        return Ok((StatusCode::NOT_MODIFIED, tag(&digest)).into_response());
    }
    let range = match part_of(&asked, &digest, size) {
        Part::All => return Ok((headers(&digest, size), Body::from_stream(blobs.read(&digest).await?)).into_response()),
        Part::Nothing => {
            let problem = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "no_such_range",
                "there are no such bytes",
                format!("blob {digest} has {size} bytes"),
            );
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{size}"))], problem).into_response());
        }
        Part::These(range) => range,
    };
    let mut headers = headers(&digest, range.end - range.start);
    let said = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&said).map_err(|_| Problem::fault())?);
    let pieces = within(blobs.read(&digest).await?, range);
    Ok((StatusCode::PARTIAL_CONTENT, headers, Body::from_stream(pieces)).into_response())
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
        writer.write(piece.map_err(|error| cut_short(&error))?).await?;
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
    let too_large = "larger blobs go to PUT /v1/blobs/sha256:…";
    let (bytes, _held) = whole(body, MAX_POST_BYTES, too_large, &served.room).await?;
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

fn headers(digest: &str, size: u64) -> HeaderMap {
    let mut headers = tag(digest);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, size.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Whatever bytes somebody stores here, no browser shall run them.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
}

/// What a name stands for never changes.
fn tag(digest: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, immutable, max-age=31536000"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        headers.insert(header::ETAG, tag);
    }
    headers
}

/// Whether the caller says that they have the blob.
fn has_it(asked: &HeaderMap, digest: &str) -> bool {
    let said = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).map(str::trim).any(|tag| tag == "*" || is_tag(tag, digest))
}

fn is_tag(tag: &str, digest: &str) -> bool {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(digest)
}

/// What of a blob is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    All,
    These(Range<u64>),
    /// It has no such bytes.
    Nothing,
}

/// One range of bytes is answered. Of several, of other units, and of what is no range, all of the blob is the answer, as
/// RFC 9110 would have it; so it is for whoever has a part of something else (`If-Range`).
fn part_of(asked: &HeaderMap, digest: &str, size: u64) -> Part {
    let text = |name| asked.get(name).and_then(|value| value.to_str().ok());
    let is_of_this = !asked.contains_key(header::IF_RANGE)
        || text(header::IF_RANGE).is_some_and(|tag| !tag.starts_with("W/") && is_tag(tag, digest));
    text(header::RANGE).filter(|_| is_of_this).and_then(|range| range_of(range, size)).unwrap_or(Part::All)
}

fn range_of(said: &str, size: u64) -> Option<Part> {
    let (unit, range) = said.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..size.min(last.saturating_add(1))
        }
    };
    let is_of_bytes = unit.trim().eq_ignore_ascii_case("bytes");
    is_of_bytes.then_some(if range.start < range.end { Part::These(range) } else { Part::Nothing })
}

/// Those of a blob's bytes. What is before them is read, and passed over.
fn within(
    pieces: BoxStream<'static, Result<Bytes, BlobError>>,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static {
    let pieces = pieces.scan(0, move |next, piece| {
        let start = *next;
        if start >= range.end {
            return ready(None);
        }
        ready(Some(piece.map(|piece| {
            *next += piece.len() as u64;
            let place = |of: u64| usize::try_from(of.saturating_sub(start)).unwrap_or(usize::MAX).min(piece.len());
            piece.slice(place(range.start)..place(range.end))
        })))
    });
    pieces.try_filter(|piece| ready(!piece.is_empty()))
}

/// What the bytes are said to be. A form has a blob and more in it, which nobody would want back.
fn media_type(headers: &HeaderMap) -> Result<String, Problem> {
    const BYTES: &str = "application/octet-stream";
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(BYTES);
    match given.to_ascii_lowercase() {
        form if form.starts_with("multipart/") => {
            let detail = "send the bytes themselves as the body (curl --data-binary @FILE), not a form";
            Err(Problem::media_type(detail))
        }
        // So curl calls whatever it is given.
        any if any == "application/x-www-form-urlencoded" => Ok(BYTES.to_owned()),
        media_type => Ok(media_type),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[test]
    fn one_range_of_bytes_is_understood_and_whatever_else_is_all_of_it() {
        for (range, part) in [
            ("bytes=0-0", Part::These(0..1)),
            ("bytes=2-4", Part::These(2..5)),
            ("Bytes = 2-", Part::These(2..10)),
            ("bytes=-3", Part::These(7..10)),
            ("bytes=-99", Part::These(0..10)),
            ("bytes=9-99", Part::These(9..10)),
            ("bytes=10-", Part::Nothing),
            ("bytes=-0", Part::Nothing),
            ("bytes=5-2", Part::All),
            ("bytes=0-1,3-4", Part::All),
            ("bytes=+1-2", Part::All),
            ("bytes=-", Part::All),
            ("lines=0-1", Part::All),
            ("0-1", Part::All),
        ] {
            let asked = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
            assert_eq!(part_of(&asked, "sha256:00", 10), part, "{range}");
        }
    }

    #[tokio::test]
    async fn a_part_is_cut_out_of_the_pieces_wherever_they_end() {
        for size in 1..=10 {
            let pieces: Vec<Bytes> = (0..10).collect::<Vec<u8>>().chunks(size).map(Bytes::copy_from_slice).collect();
            for (from, to) in [(0, 10), (0, 1), (3, 7), (9, 10)] {
                let pieces = stream::iter(pieces.clone()).map(Ok).boxed();
                let part: Vec<Bytes> = within(pieces, from..to).try_collect().await.unwrap();
                assert!(part.concat().into_iter().map(u64::from).eq(from..to), "{from}..{to} of pieces of {size}");
            }
        }
    }
}
