//! Log: a line, a number and an id for every request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{counter, histogram};
use tracing::Instrument as _;

/// By this header a request is found again in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The methods that are counted by their names. Anybody may send any word, and each would be a series for good.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Tells of a request once its answer has begun.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let said = request.method().as_str();
    let method = METHODS.into_iter().find(|known| *known == said).unwrap_or("other");
    // The pattern, not the path: one series a route, not one a batch.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request_id = ?id, method = said, path = request.uri().path());
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let elapsed = started.elapsed();
    span.in_scope(|| {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), elapsed_ms, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), elapsed_ms, "answered");
        }
    });
    let status = status.as_u16().to_string();
    counter!("tidemill_http_requests_total", "route" => route.clone(), "method" => method, "status" => status)
        .increment(1);
    histogram!("tidemill_http_seconds", "route" => route).record(elapsed);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The caller's own id where it is a decent one, so that a request can be followed through several services.
fn request_id(request: &Request) -> HeaderValue {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .filter(|value| (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic));
    given.cloned().unwrap_or_else(|| {
        let new = uuid::Uuid::now_v7().simple().to_string();
        HeaderValue::from_str(&new).unwrap_or(HeaderValue::from_static("none"))
    })
}
