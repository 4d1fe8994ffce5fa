//! Results: outcomes as a stream that can be taken up again where it broke off.
//!
//! Lines: whoever asked for `from` and has received *n* lines goes on with `from` + *n*. A body that was cut short (no
//! last chunk, in HTTP's words) is not the end. Events: each has as its id where to go on, and the last is `end`. Segments:
//! each frame says where to go on, and its outcomes are those of whole segments (see [`frame`]).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use tidemill_core::batch::BatchId;
use tidemill_core::outcome::Outcome;
use tidemill_core::store::{AtMost, Order, StoreError, frame};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::asked::{Asked, Id, Index};
use super::problem::Problem;
use super::pump::{Broken, Form, Manner, Pump, Running};
use super::{ANSWER_WITHIN, Served};

/// Where a browser's EventSource says how far it came.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const EVENTS: &str = "text/event-stream";

/// What may be asked of a batch's results.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reading {
    order: Order,
    from: u64,
    limit: u64,
    follow: bool,
    names: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self { order: Order::Input, from: 0, limit: u64::MAX, follow: true, names: false }
    }
}

impl Reading {
    /// All of it, in this order.
    pub(super) fn whole(order: Order) -> Self {
        Self { order, ..Self::default() }
    }
}

/// `GET /v1/batches/{id}/results`
pub(super) async fn stream(
    State(served): State<Arc<Served>>,
    Id(batch): Id,
    Asked(reading): Asked<Reading>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    answer(&served, batch, &reading, &headers, None).await
}

/// The outcomes as an answer: first what is there, then what comes. Of a batch of one item that may be `known`.
pub(super) async fn answer(
    served: &Served,
    batch: BatchId,
    reading: &Reading,
    headers: &HeaderMap,
    known: Option<Arc<Outcome>>,
) -> Result<Response, Problem> {
    let form = form(headers);
    let resumed = if form == Form::Events { last_event_id(headers)? } else { None };
    // What was received before counts too.
    let received = resumed.map_or(0, |place| place.saturating_sub(reading.from));
    let pump = Pump {
        store: Arc::clone(&served.api.store),
        order: reading.order,
        next: resumed.unwrap_or(reading.from),
        left: reading.limit.saturating_sub(received),
        follows: reading.follow,
        manner: Manner { batch, form, has_names: reading.names },
        stop: served.stop.clone(),
    };
    let start = pump.next;
    // What is asked of a store that is away waits as long as that is.
    let started = tokio::time::timeout(ANSWER_WITHIN, pump.start(known.filter(|_| resumed.is_none()))).await;
    let (first, running) = started.map_err(|_| Problem::away("the store is away"))??;
    if resumed == Some(running.place()) && running.is_over() {
        // By this, and nothing else, an EventSource learns that it need not come back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let media_type = match form {
        Form::Lines => "application/x-ndjson",
        Form::Events => EVENTS,
        Form::Segments => frame::MEDIA_TYPE,
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Else nginx would gather what should flow.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        (HeaderName::from_static("tidemill-from"), start.into()),
    ];
    Ok((headers, body(first, running)).into_response())
}

/// A piece that is being written.
type Writing = JoinHandle<Result<Bytes, StoreError>>;

/// The first piece and all that follow, each fetched and written while the one before goes out.
fn body(first: Bytes, running: Running) -> Body {
    if running.is_over() {
        return first.into();
    }
    let first = (!first.is_empty()).then_some(first);
    let (sender, receiver) = mpsc::channel(1);
    // A reader that has gone drops the stream, and with it the task.
    let pumping = AbortOnDropHandle::new(tokio::spawn(pump(running, sender)));
    let rest = futures::stream::unfold((receiver, Some(pumping)), |(mut receiver, mut pumping)| async move {
        let piece = match receiver.recv().await {
            Some(piece) => piece,
            // Only once it has ended is it known whether that was the end: it may have panicked.
            None => Err(pumping.take()?.await.err()?.into()),
        };
        Some((written(piece).await, (receiver, pumping)))
    });
    Body::from_stream(futures::stream::iter(first.map(Ok)).chain(rest))
}

async fn pump(mut running: Running, pieces: mpsc::Sender<Result<Writing, Broken>>) {
    while let Some(piece) = running.next().await.transpose() {
        let piece = piece.map(|piece| tokio::spawn(async { piece.write() }));
        let is_last = piece.is_err();
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

async fn written(piece: Result<Writing, Broken>) -> Result<Bytes, Broken> {
    let written = async { Ok(piece?.await??) };
    written.await.inspect_err(|broken: &Broken| tracing::debug!(%broken, "a stream of results breaks off"))
}

/// `GET /v1/batches/{id}/items/{index}`
pub(super) async fn item(
    State(served): State<Arc<Served>>,
    Id(batch): Id,
    Index(index): Index,
) -> Result<Response, Problem> {
    let fetched = served.api.store.fetch(&batch, Order::Input, index, AtMost::entries(1)).await?;
    if fetched.is_empty() {
        return Err(Problem::not_found("no_outcome", format!("item {index} of batch {batch} has no outcome")));
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], fetched.into_lines()?).into_response())
}

fn form(headers: &HeaderMap) -> Form {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let kinds = accepted.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next().map(str::trim));
    let form = |kind: &str| match kind {
        kind if kind.eq_ignore_ascii_case(EVENTS) => Some(Form::Events),
        kind if kind.eq_ignore_ascii_case(frame::MEDIA_TYPE) => Some(Form::Segments),
        _ => None,
    };
    kinds.filter_map(form).next().unwrap_or(Form::Lines)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let place = value.to_str().ok().and_then(|text| text.parse().ok());
    place.map(Some).ok_or_else(|| Problem::bad_request("Last-Event-ID is not an id that this API has given"))
}
