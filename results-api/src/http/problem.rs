//! Problems: whatever goes wrong, as RFC 9457 writes it. The one place where kinds of errors become status codes.

use std::any::Any;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tidemill_core::batch::InvalidBatchId;
use tidemill_core::blobs::BlobError;
use tidemill_core::broker::{BrokerError, BrokerErrorKind};
use tidemill_core::store::{StoreError, StoreErrorKind};

/// What is answered in place of what was asked for. `detail` is read by strangers: it says what they did or can do, and
/// nothing of our hosts and paths.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// For programs, within the type: `urn:tidemill:problem:unknown_batch`.
    kind: &'static str,
    title: &'static str,
    detail: String,
    /// After how many seconds trying again may help.
    retry_after: Option<u32>,
}

/// How long a client is asked to wait for something that is away.
const RETRY_AFTER_SECONDS: u32 = 2;

impl Problem {
    pub(super) fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), retry_after: None }
    }

    /// The request was not understood.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "the request is not understood", detail)
    }

    /// What was asked for is not there.
    pub(super) fn not_found(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, kind, "not found", detail)
    }

    pub(super) fn no_such_address() -> Self {
        Self::not_found("no_such_address", "there is nothing at this address; /openapi.json describes what there is")
    }

    pub(super) fn method_not_allowed(method: &Method) -> Self {
        let detail = format!("{method} is not allowed here; /openapi.json describes what is");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method not allowed", detail)
    }

    /// More than is taken.
    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "too large", detail)
    }

    /// The body is not what is taken there.
    pub(super) fn media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "the body is of another type", detail)
    }

    /// It is not what was said before.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "it contradicts what is known", detail)
    }

    /// Another process may do it, or this one with other settings.
    pub(super) fn not_done_here(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, kind, "not done here", detail)
    }

    /// The rest of the body did not come.
    pub(super) fn paused(pause: Duration) -> Self {
        let detail = format!("nothing more of the body came for {} seconds; send it again", pause.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, "paused", "the body paused for too long", detail)
    }

    /// What will pass.
    fn passing(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY_AFTER_SECONDS), ..Self::new(status, kind, title, detail) }
    }

    /// Something behind the API is away, and will probably come back.
    pub(super) fn away(detail: impl Into<String>) -> Self {
        Self::passing(StatusCode::SERVICE_UNAVAILABLE, "away", "not available now", detail)
    }

    /// Others have all that there is of something.
    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::passing(StatusCode::SERVICE_UNAVAILABLE, "busy", "not available now", detail)
    }

    /// It takes too long, and nobody knows why.
    pub(super) fn late() -> Self {
        let detail = "there was no answer in time; try again in a moment";
        Self::passing(StatusCode::GATEWAY_TIMEOUT, "late", "too late", detail)
    }

    /// We stop; another may be there, or we come back.
    pub(super) fn stopping() -> Self {
        let detail = "the results API stops; try again in a moment";
        Self::passing(StatusCode::SERVICE_UNAVAILABLE, "stopping", "not available now", detail)
    }

    /// A fault of ours; the log has more.
    pub(super) fn fault() -> Self {
        let detail = "this is a fault of ours; the log of the results API tells more at this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", "a fault of ours", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": format!("urn:tidemill:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Unreachable => {
                tracing::warn!(%error, "the store is away");
                Self::away("the store cannot be reached now; nothing is lost, try again in a moment")
            }
            StoreErrorKind::Unknown => Self::not_found("unknown_batch", error.reason),
            StoreErrorKind::Conflict => Self::conflict(error.reason),
            StoreErrorKind::Forgotten => {
                Self::new(StatusCode::GONE, "forgotten", "it was there and is no longer", error.reason)
            }
            StoreErrorKind::Broken => {
                tracing::error!(%error, "a batch cannot be read");
                Self::fault()
            }
            StoreErrorKind::Refused => {
                tracing::error!(%error, "the store refuses");
                Self::away("the store refuses to work; its operators find the reason in the log of the results API")
            }
        }
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        use BrokerErrorKind::{Blocked, Mismatch, NotConfirmed, Refused, Unreachable, Unroutable};
        tracing::warn!(%error, "the broker did not take what was to be published");
        match error.kind {
            Unreachable | NotConfirmed => Self::away("the broker cannot be reached now; try again in a moment"),
            Blocked | Refused => Self::away("the broker takes nothing now; try again in a moment"),
            Unroutable | Mismatch => Self::fault(),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error.kind {
            "invalid_input" => Self::bad_request(error.message),
            "not_found" => Self::not_found("unknown_blob", error.message),
            "too_large" => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the blob is too large", error.message)
            }
            _ => {
                tracing::warn!(%error, "the store of blobs is away");
                Self::away("the store of blobs cannot be reached now; try again in a moment")
            }
        }
    }
}

impl From<InvalidBatchId> for Problem {
    fn from(error: InvalidBatchId) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// What is answered when a handler panicked; the panic itself is in the log.
pub(super) fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    Problem::fault().into_response()
}
