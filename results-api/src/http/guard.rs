//! Guard: who may call.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::Problem;
use super::{Access, Served};

/// By this a browser says whether a page of ours has asked.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Lets through who may call.
pub(super) async fn guard(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    match check(&served.api.access, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Whether the caller may; for those routes that tell more to some.
pub(super) fn check(access: &Access, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    match &access.token {
        Some(token) => check_token(token.expose(), headers),
        None => check_program(access, method, headers),
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

/// Without a token, programs may call: those of this machine, and of others where that is meant. A page in a browser is
/// none of these: neither one that calls across (it has an `Origin`, or the browser says that it belongs to another site),
/// nor one whose name was made to point here (its own name stands in `Host`, and is none of ours).
fn check_program(access: &Access, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from == host);
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    // Somebody who follows a link: the page that it is on does not get the answer.
    let is_led_here = method.is_safe() && headers.get(SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
    if !origins.all(|origin| origin.to_str().is_ok_and(is_own))
        || !is_led_here && sites.any(|site| matches!(site.as_bytes(), b"cross-site" | b"same-site"))
    {
        return Err(forbidden("without a token no page of another site may call"));
    }
    if is_named(host, access) {
        return Ok(());
    }
    Err(forbidden(if access.is_open {
        "without a token this is called by an address, the name localhost, or a name in api.hosts"
    } else {
        "without a token only programs on this machine may call, by the name localhost, an address of it, or a name in \
         api.hosts"
    }))
}

/// Whether one of our names stands there, or an address: to make a name point here somebody needs a name.
fn is_named(host: &str, access: &Access) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    match name.parse::<IpAddr>() {
        Ok(address) => access.is_open || address.is_loopback(),
        Err(_) => {
            let mut ours = std::iter::once("localhost").chain(access.hosts.iter().map(String::as_str));
            ours.any(|ours| ours.eq_ignore_ascii_case(name))
        }
    }
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "not from there", detail)
}
