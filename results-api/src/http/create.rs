//! Create: a batch that comes over HTTP, as JSON or, however long, as lines.
//!
//! The body becomes a stream of entries; whoever serves the API says what publishes them, so that this crate need not
//! know how.

mod lines;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tidemill_core::batch::BatchId;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::Outcome;
use tidemill_core::store::Order;
use tidemill_core::task::raw;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::lines::Lines;
use super::asked::Asked;
use super::body::{self, Room};
use super::problem::Problem;
use super::results::Reading;
use super::{Served, results};

/// The largest batch that is read whole, as JSON. Of the smallest items, which take twenty times their bytes as values of
/// their own, it would have millions.
const MAX_JSON_BYTES: usize = 16 << 20;
const MAX_JSON_ITEMS: usize = 100_000;
/// How a larger one is sent.
const AS_LINES: &str = "larger batches are sent as application/x-ndjson";
/// The largest options: every message of the batch has them, and so has every list of batches.
const MAX_OPTIONS_BYTES: usize = 64 << 10;
const MAX_KEY_BYTES: usize = 256;
/// Where others look for the same.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A batch as it is asked for. What is left out is as the settings say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "http/openapi.json is the one description of each field")]
pub struct NewBatch {
    pub task: String,
    #[serde(default)]
    pub options: Option<Box<RawValue>>,
    #[serde(default)]
    pub retry: NewRetry,
    /// In milliseconds.
    #[serde(default)]
    pub timeout: Option<u64>,
    #[serde(default)]
    pub priority: u8,
    #[serde(default)]
    pub expires: Option<u64>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Whether the caller waits for the outcomes.
    #[serde(skip)]
    pub is_waited_for: bool,
    /// Cancelled when the caller has gone, where that ends the batch.
    #[serde(skip)]
    pub abandoned: CancellationToken,
    /// In JSON only; they reach a [`Submitter`] as its entries.
    #[serde(default)]
    items: Option<Items>,
}

/// The inputs of a batch that is JSON.
#[derive(Debug)]
enum Items {
    Few(Vec<Box<RawValue>>),
    /// Nobody has kept them.
    TooMany,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counted;

        impl<'de> Visitor<'de> for Counted {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of inputs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX_JSON_ITEMS {
                    match seq.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Items::Few(items)),
                    }
                }
                let mut has_more = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    has_more = true;
                }
                Ok(if has_more { Items::TooMany } else { Items::Few(items) })
            }
        }

        deserializer.deserialize_seq(Counted)
    }
}

impl NewBatch {
    /// A batch of this task that is as the settings say, and whose outcomes are waited for.
    pub(super) fn of(task: &str, options: &Value) -> Self {
        Self {
            task: task.to_owned(),
            options: Some(raw(options)),
            retry: NewRetry::default(),
            timeout: None,
            priority: 0,
            expires: None,
            idempotency_key: None,
            is_waited_for: true,
            abandoned: CancellationToken::new(),
            items: None,
        }
    }
}

/// How often, and how far apart, items are tried again; times in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "http/openapi.json is the one description of each field")]
pub struct NewRetry {
    pub attempts: Option<u32>,
    pub base: Option<u64>,
    pub max: Option<u64>,
}

/// One input, in input order.
#[derive(Clone, Debug)]
pub enum Entry {
    /// It is JSON; whether the task takes it is for the submitter to say.
    Input(Box<RawValue>),
    /// A file that the caller sent.
    File {
        /// What it is called, as JSON.
        shown: Box<RawValue>,
        /// Where a worker finds its bytes; see [`tidemill_core::chunk::Item::source`].
        source: Box<str>,
    },
    /// It is none, and harms only itself.
    Refused {
        /// Whatever of it can be shown.
        shown: Box<RawValue>,
        /// Why.
        failure: Failure,
    },
}

/// Publishes a batch.
#[async_trait]
pub trait Submitter: Send + Sync + fmt::Debug {
    /// Publishes each entry in its order and seals the batch; it resolves once the broker has all of it, or the store has the
    /// outcome of its one item. Where the
    /// entries end with an error, or the future is dropped, a batch with a key stays unsealed: whoever sends it again with
    /// that goes on. An entry is asked for when the one before has found room, so that a body is never held.
    ///
    /// # Errors
    /// [`SubmitError`], of a kind that says whose fault it is.
    async fn submit(
        &self,
        batch: NewBatch,
        entries: BoxStream<'static, Result<Entry, SubmitError>>,
    ) -> Result<Submitted, SubmitError>;
}

/// A batch that the broker has, or whose outcome the store has.
#[derive(Debug, Serialize)]
pub struct Submitted {
    /// Its id.
    pub id: BatchId,
    /// How many items it has.
    pub items: u64,
    /// Whether it was made by this call, and not by an earlier one with the same key.
    pub is_new: bool,
    /// The outcome of its one item, where that was waited for and is recorded.
    #[serde(skip)]
    pub outcome: Option<Arc<Outcome>>,
}

/// Why a batch was not submitted whole.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SubmitError {
    /// Whose fault it is.
    pub kind: SubmitErrorKind,
    /// For whoever submits; nothing of our hosts and paths.
    pub message: String,
}

/// Kinds of trouble with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitErrorKind {
    /// Task, options or body are not good.
    Invalid,
    /// The key was used for another batch.
    Conflict,
    /// Broker or store are away or take nothing; try again.
    Away,
    /// There is no room for it.
    Full,
    /// A fault of ours.
    Fault,
}

impl SubmitError {
    fn invalid(message: impl Into<String>) -> Self {
        Self { kind: SubmitErrorKind::Invalid, message: message.into() }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error.kind {
            SubmitErrorKind::Invalid => Self::bad_request(error.message),
            SubmitErrorKind::Conflict => Self::conflict(error.message),
            SubmitErrorKind::Away => Self::away(error.message),
            SubmitErrorKind::Full => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", "there is no room for it", error.message)
            }
            SubmitErrorKind::Fault => {
                tracing::error!(%error, "a batch could not be submitted");
                Self::fault()
            }
        }
    }
}

/// What may be asked of a batch that is created.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Creating {
    /// The answer is the outcomes.
    wait: bool,
    order: Order,
}

/// `POST /v1/batches`
pub(super) async fn create(
    State(served): State<Arc<Served>>,
    Asked(creating): Asked<Creating>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let submitter = served.api.submitter()?;
    let (mut batch, entries) = match media_type(&headers).as_str() {
        "application/json" => from_json(body, &served.room).await?,
        "application/x-ndjson" | "application/jsonl" | "application/ndjson" => from_lines(body, &served.room).await?,
        _ => {
            let detail = "send application/json, or application/x-ndjson for a batch of any length";
            return Err(Problem::media_type(detail));
        }
    };
    if batch.options.as_ref().is_some_and(|options| options.get().len() > MAX_OPTIONS_BYTES) {
        return Err(Problem::too_large(format!("options: they have at most {MAX_OPTIONS_BYTES} bytes")));
    }
    if let (None, Some(key)) = (&batch.idempotency_key, headers.get(IDEMPOTENCY_KEY)) {
        // Bytes that are no text are no key of anybody's.
        batch.idempotency_key = Some(key.to_str().unwrap_or("").to_owned());
    }
    if let Some(problem) = batch.idempotency_key.as_ref().and_then(|key| check_key(key).err()) {
        return Err(Problem::bad_request(format!("idempotency_key: {problem}")));
    }
    batch.is_waited_for = creating.wait;
    let submitted = if creating.wait && is_one(&entries) {
        // It goes on without its caller, as a batch does that the broker has.
        let own = Arc::clone(&served);
        let submitting = async move { Ok(own.api.submitter()?.submit(batch, entries).await?) };
        let submitting = served.submitting.spawn(submitting.in_current_span());
        submitting.await.unwrap_or_else(|_| Err(Problem::fault()))?
    } else {
        submitter.submit(batch, entries).await?
    };
    let status = if submitted.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/v1/batches/{}", submitted.id))];
    if !creating.wait {
        return Ok((status, location, Json(submitted)).into_response());
    }
    let reading = Reading::whole(creating.order);
    Ok(match results::answer(&served, submitted.id, &reading, &headers, submitted.outcome).await {
        Ok(outcomes) => (status, location, outcomes).into_response(),
        // It is published all the same.
        Err(problem) => (location, problem).into_response(),
    })
}

/// Checks an idempotency key. An empty one is a script's unset variable, and would make one batch of all its jobs.
///
/// # Errors
/// What is wrong with it.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.trim().is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(format!("it has 1 to {MAX_KEY_BYTES} bytes, and not only spaces"));
    }
    Ok(())
}

/// Whether there is one entry and no other.
pub fn is_one(entries: &impl Stream) -> bool {
    entries.size_hint() == (1, Some(1))
}

/// The inputs of a batch as they come.
pub(super) type Entries = BoxStream<'static, Result<Entry, SubmitError>>;

async fn from_json(body: Body, room: &Room) -> Result<(NewBatch, Entries), Problem> {
    let (bytes, held) = body::whole(body, MAX_JSON_BYTES, AS_LINES, room).await?;
    let mut batch: NewBatch =
        serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request(format!("the body: {error}")))?;
    let items = match batch.items.take() {
        Some(Items::Few(items)) => items,
        Some(Items::TooMany) => {
            return Err(Problem::too_large(format!("items: there are more than {MAX_JSON_ITEMS}; {AS_LINES}")));
        }
        None => return Err(Problem::bad_request("items: they are missing")),
    };
    let entries = items.into_iter().map(move |item| {
        // As long as some of them are here.
        let _held = &held;
        Ok(Entry::Input(item))
    });
    Ok((batch, stream::iter(entries).boxed()))
}

async fn from_lines(body: Body, room: &Room) -> Result<(NewBatch, Entries), Problem> {
    let mut lines = Lines::new(body, room.held());
    let first = lines.next().await?.ok_or_else(|| Problem::bad_request("the body is empty; see /openapi.json"))?;
    let batch: NewBatch =
        serde_json::from_slice(&first).map_err(|error| Problem::bad_request(format!("line 1: {error}")))?;
    if batch.items.is_some() {
        return Err(Problem::bad_request("line 1: items: in lines, each item is a line of its own"));
    }
    let entries = stream::try_unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Ok(line.map(|line| (lines.entry(&line), lines)))
    });
    Ok((batch, entries.boxed()))
}

fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
