//! The description of this API, for people and for generators of clients.

use axum::http::header;
use axum::response::IntoResponse;

/// Kept by hand beside the handlers, because a description is written for those who read it.
pub(super) const DESCRIPTION: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub(super) async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}
