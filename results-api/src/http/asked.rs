//! What is asked: the parts of a request, checked, with a problem document for each that is not good.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use tidemill_core::batch::BatchId;

use super::problem::Problem;

/// The batch that the address names.
pub(super) struct Id(pub(super) BatchId);

/// The item that the address names.
pub(super) struct Index(pub(super) u64);

/// What follows the question mark. An unknown parameter is a problem, not silence.
pub(super) struct Asked<T>(pub(super) T);

/// A JSON body.
pub(super) struct Told<T>(pub(super) T);

/// How many a list may have: `USUAL`, unless it is asked for more or fewer, and `MAX` at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit<const USUAL: usize, const MAX: usize>(usize);

impl<const USUAL: usize, const MAX: usize> Limit<USUAL, MAX> {
    pub(super) fn get(self) -> usize {
        self.0.min(MAX)
    }
}

impl<const USUAL: usize, const MAX: usize> Default for Limit<USUAL, MAX> {
    fn default() -> Self {
        Self(USUAL)
    }
}

impl<'de, const USUAL: usize, const MAX: usize> Deserialize<'de> for Limit<USUAL, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        usize::deserialize(deserializer).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(part(parts, state, "id").await?.parse()?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Index {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = part(parts, state, "index").await?;
        let number = u64::from_str(&text)
            .map_err(|_| Problem::bad_request(format!("{text:?} is no item; items are counted from 0")))?;
        Ok(Self(number))
    }
}

/// A named part of the path.
pub(super) async fn part<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Problem> {
    let all = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::bad_request("the address is not UTF-8"))?;
    let found = all.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(Problem::no_such_address)
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::try_from_uri(&parts.uri).map_err(|error| Problem::bad_request(misasked(&error)))?;
        Ok(Self(asked))
    }
}

/// What is wrong behind the `?`, without what only Rust says of it.
fn misasked(error: &QueryRejection) -> String {
    let said = error.body_text();
    let said = said
        .replace("invalid digit found in string", "a whole number is wanted")
        .replace("cannot parse integer from empty string", "a whole number is wanted")
        .replace("number too large to fit in target type", "a smaller number is wanted");
    format!("behind the `?`: {}", said.trim_start_matches("Failed to deserialize query string: "))
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Told<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(told) = Json::from_request(request, state).await.map_err(|error| match error.status() {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Problem::bad_request(error.body_text()),
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(error.body_text()),
            _ => Problem::media_type(error.body_text()),
        })?;
        Ok(Self(told))
    }
}
