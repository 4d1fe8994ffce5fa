//! Guard: who may call.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::Problem;
use super::{Access, Served};

/// Lets through who may call.
pub(super) async fn guard(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    match check(&served.api.access, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Whether the caller may; for those routes that tell more to some.
pub(super) fn check(access: &Access, headers: &HeaderMap) -> Result<(), Problem> {
    match &access.token {
        Some(token) => check_token(token.expose(), headers),
        None if access.is_open => Ok(()),
        None => check_local(headers),
    }
}

fn check_token(token: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = presented.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| {
        // RFC 9110: the scheme's letters may be of either case.
        scheme.eq_ignore_ascii_case("bearer")
    });
    // Digests are of one length, so that not even the token's length can be measured.
    let digest = |text: &str| Sha256::digest(text.trim().as_bytes());
    match presented {
        Some((_, presented)) if bool::from(digest(presented).ct_eq(&digest(token))) => Ok(()),
        Some(_) => Err(unauthorised("the token is not the one that is configured")),
        None => Err(unauthorised("a token is needed: Authorization: Bearer …")),
    }
}

fn unauthorised(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", "who are you?", detail)
}

/// Without a token, programs of this machine may call. A page in its browser is none of these: neither one whose name
/// was made to point here (its own name stands in `Host`), nor one that calls across (it has an `Origin`).
fn check_local(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let is_own_page = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from == host);
    if is_local(host) && text(header::ORIGIN).is_none_or(is_own_page) {
        return Ok(());
    }
    let detail = "without a token only programs on this machine may call, by the name localhost or an address of it";
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "not from there", detail))
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
