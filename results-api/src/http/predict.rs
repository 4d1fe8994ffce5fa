//! Predict: one picture in, what a network says of it out, in one call.
//!
//! It is a batch of one item, first in its queue: it goes through the same workers, and is gathered with whatever else
//! waits for the same network.

mod picture;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidemill_core::batch::{BatchId, unix_millis};
use tidemill_core::blobs::BlobRef;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Outcome};
use tidemill_core::store::{Order, Version};
use tidemill_core::task::{Lane, raw};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub(super) use self::picture::MAX_FORM_BYTES;
use self::picture::Sent;
use super::asked::Asked;
use super::create::{Entries, Entry, NewBatch, Submitted};
use super::problem::Problem;
use super::{Served, batches};

/// How long a caller waits where he does not say, and at most.
const USUAL_DEADLINE: u64 = 30_000;
const MAX_DEADLINE: u64 = 600_000;
/// How long an answer waits for its batch to be let go.
const LET_GO_WITHIN: Duration = Duration::from_millis(100);
/// Somebody waits: it goes before batches.
const PRIORITY: u8 = 9;
/// By this a caller can ask about it later.
const BATCH: HeaderName = HeaderName::from_static("tidemill-batch");

/// What may be asked of a classification.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Classifying {
    model: Option<String>,
    top: Option<u64>,
    /// In milliseconds.
    #[serde(default = "usual_deadline")]
    deadline: u64,
}

/// What may be asked of a segmentation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Segmenting {
    model: Option<String>,
    #[serde(default)]
    answer: Answer,
    /// In milliseconds.
    #[serde(default = "usual_deadline")]
    deadline: u64,
}

/// In what form a segmentation is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// Each class's part of the picture.
    #[default]
    Json,
    Mask,
    Overlay,
    SideBySide,
}

fn usual_deadline() -> u64 {
    USUAL_DEADLINE
}

/// When a caller hangs up, as he said.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    millis: u64,
    /// By our clock; `expires` is the same moment for workers.
    until: Instant,
    expires: u64,
}

impl Deadline {
    /// From now on. What is done for the caller counts, from the reading of what he sends.
    fn within(millis: u64) -> Result<Self, Problem> {
        if !(1..=MAX_DEADLINE).contains(&millis) {
            return Err(Problem::bad_request(format!("deadline: it is 1 to {MAX_DEADLINE} milliseconds")));
        }
        let until = Instant::now() + Duration::from_millis(millis);
        Ok(Self { millis, until, expires: unix_millis() + millis })
    }

    async fn bound<T>(self, answering: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        tokio::time::timeout_at(self.until, answering).await.unwrap_or_else(|_| Err(late(self.millis)))
    }
}

/// `POST /v1/predict/classify`
pub(super) async fn classify(
    State(served): State<Arc<Served>>,
    Asked(Classifying { model, top, deadline }): Asked<Classifying>,
    request: Request,
) -> Result<Response, Problem> {
    let deadline = Deadline::within(deadline)?;
    let mut options = json!({});
    if let Some(model) = model {
        options["model"] = named(model)?.into();
    }
    if let Some(top) = top {
        options["top"] = top.into();
    }
    let (batch, said) = predict(&served, "vision.classify", &options, request, deadline).await?;
    Ok((of_batch(&batch)?, json_body(&said)).into_response())
}

/// `POST /v1/predict/segment`
pub(super) async fn segment(
    State(served): State<Arc<Served>>,
    Asked(Segmenting { model, answer, deadline }): Asked<Segmenting>,
    request: Request,
) -> Result<Response, Problem> {
    let deadline = Deadline::within(deadline)?;
    if answer != Answer::Json && served.api.blobs.is_none() {
        let detail =
            "pictures are answered where blobs are stored, and blobs.url does not say where; answer=json needs none";
        return Err(Problem::not_done_here("no_blobs", detail));
    }
    let (drawn, field) = match answer {
        Answer::Json => (json!([]), ""),
        Answer::Mask => (json!(["mask"]), "mask"),
        Answer::Overlay => (json!(["overlay"]), "overlay"),
        Answer::SideBySide => (json!(["side-by-side"]), "side_by_side"),
    };
    let mut options = json!({ "pictures": drawn });
    if let Some(model) = model {
        options["model"] = named(model)?.into();
    }
    let (batch, said) = predict(&served, "vision.segment", &options, request, deadline).await?;
    let headers = of_batch(&batch)?;
    if answer == Answer::Json {
        return Ok((headers, json_body(&said)).into_response());
    }
    Ok((headers, deadline.bound(drawing(&served, &said, field)).await?).into_response())
}

/// A model's name. A path would be one of this machine's, and what is there is not for callers to learn.
fn named(model: String) -> Result<String, Problem> {
    if model.contains('/') {
        let detail = format!("model: {model:?} is a path; name a model, as GET /v1/models lists them");
        return Err(Problem::bad_request(detail));
    }
    Ok(model)
}

/// Runs the task on the picture that was sent, and gives what it says.
async fn predict(
    served: &Arc<Served>,
    task: &str,
    options: &Value,
    request: Request,
    deadline: Deadline,
) -> Result<(BatchId, Box<RawValue>), Problem> {
    let (batch, outcome) = deadline.bound(ask(served, task, options, request, deadline.expires)).await?;
    // Who has the answer finds no batch any more, where the store is well. Where not, it is let go later.
    let letting_go = tokio::spawn(let_go(Arc::clone(served), batch.clone()));
    drop(tokio::time::timeout_at(deadline.until.min(Instant::now() + LET_GO_WITHIN), letting_go).await);
    match &outcome.ending {
        Ending::Ok(said) => Ok((batch, said.clone())),
        Ending::Failed(failure) | Ending::Dead(failure) => Err(failed(failure)),
        Ending::Expired => Err(late(deadline.millis)),
        Ending::Cancelled => {
            Err(Problem::new(StatusCode::CONFLICT, "cancelled", "it was cancelled", "somebody has cancelled it"))
        }
    }
}

/// Sends the picture through the queue, and waits for what becomes of it. Dropped before, it cancels the batch.
async fn ask(
    served: &Arc<Served>,
    task: &str,
    options: &Value,
    request: Request,
    expires: u64,
) -> Result<(BatchId, Arc<Outcome>), Problem> {
    served.api.submitter()?;
    let sent = Sent::of(request.headers())?;
    // Before the picture is read, which is for nothing where nobody looks at it.
    must_run_networks(served).await?;
    let picture = sent.read(request, &served.room).await?;
    let shown = raw(&picture.name);
    let held = picture.held.clone();
    let source = picture.source(served.api.blobs.as_ref()).await?;
    // What lies among the blobs is not here any more.
    let held = source.starts_with("data:").then_some(held);
    let entries = stream::iter([Ok(Entry::File { shown, source })]).boxed();
    let mut new = NewBatch::of(task, options);
    (new.priority, new.expires) = (PRIORITY, Some(expires));
    let _abandoned = new.abandoned.clone().drop_guard();
    // It goes on without its caller: a batch that is not sealed would lie there until it is swept.
    let submitting = submit(Arc::clone(served), new, entries);
    let submitting = served.submitting.spawn(async move {
        let submitted = submitting.await;
        // It takes its room until the broker has it, or will not have it, or its outcome is there.
        drop(held);
        submitted
    });
    let (awaited, Submitted { id: batch, outcome: known, .. }) = submitting.await.map_err(|_| Problem::fault())??;
    let outcome = match known {
        Some(outcome) => outcome,
        None => outcome(served, &batch).await?,
    };
    awaited.answered();
    Ok((batch, outcome))
}

/// That a worker lives that says that it runs networks. Where the broker is inside this process its own worker is the only
/// one that can.
async fn must_run_networks(served: &Served) -> Result<(), Problem> {
    let workers = served.api.store.workers().await?;
    if workers.iter().any(|worker| worker.lanes.contains(&Lane::Vision)) {
        return Ok(());
    }
    if !served.api.is_broker_shared && !workers.is_empty() {
        let detail = "no networks are served here; install tidemill-vision beside tidemill";
        return Err(Problem::not_done_here("no_networks", detail));
    }
    Err(Problem::away("no worker runs networks now: `tidemill worker --lanes vision` starts one"))
}

fn late(deadline: u64) -> Problem {
    let detail = format!("there was no answer within {deadline} ms; `deadline` asks for more");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline", "too late", detail)
}

async fn submit(served: Arc<Served>, batch: NewBatch, entries: Entries) -> Result<(Awaited, Submitted), Problem> {
    let submitted = served.api.submitter()?.submit(batch, entries).await?;
    Ok((Awaited { batch: Some(submitted.id.clone()), served }, submitted))
}

async fn let_go(served: Arc<Served>, batch: BatchId) {
    if let Err(error) = served.api.store.release(&batch).await {
        tracing::debug!(%error, "an answered prediction stays as long as any batch");
    }
}

/// A prediction that somebody waits for. Dropped without an answer, because the caller has gone or the deadline is
/// over, it cancels the batch.
struct Awaited {
    served: Arc<Served>,
    batch: Option<BatchId>,
}

impl Awaited {
    fn answered(mut self) {
        self.batch = None;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // Without a runtime the process ends, and nothing is run any more.
        let (Some(batch), Ok(runtime)) = (self.batch.take(), Handle::try_current()) else { return };
        let served = Arc::clone(&self.served);
        runtime.spawn(async move {
            if let Err(problem) = batches::stop(&served, &batch).await {
                tracing::warn!(?problem, %batch, "a prediction that nobody waits for could not be cancelled");
            }
        });
    }
}

/// The outcome of a batch's one item.
async fn outcome(served: &Served, batch: &BatchId) -> Result<Arc<Outcome>, Problem> {
    let store = &served.api.store;
    let mut seen = Version::default();
    loop {
        let stops = tokio::select! {
            biased;
            changed = store.changed(batch, seen) => {
                seen = changed?;
                false
            }
            () = served.stop.cancelled() => true,
        };
        // Also when we stop: it may have come just now.
        if let Some(outcome) = store.read(batch, Order::Input, 0, 1).await?.outcomes.pop() {
            return Ok(outcome);
        }
        if stops {
            return Err(Problem::stopping());
        }
    }
}

/// What became of a picture that the network did not see, or of a network that could not be run.
fn failed(failure: &Failure) -> Problem {
    if failure.retryable {
        return Problem::away(&*failure.message);
    }
    let status = match &*failure.kind {
        "no_engine" | "model" | "device" | "panic" | "crash" | "stuck" | "network" | "storage" => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(
        status,
        "failed",
        "the picture could not be worked on",
        format!("{}: {}", failure.kind, failure.message),
    )
}

fn of_batch(batch: &BatchId) -> Result<HeaderMap, Problem> {
    let value = HeaderValue::from_str(batch.as_str()).map_err(|_| Problem::fault())?;
    Ok(HeaderMap::from_iter([(BATCH, value), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]))
}

fn json_body(said: &RawValue) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], said.get().to_owned()).into_response()
}

/// A picture that the task has drawn.
async fn drawing(served: &Served, said: &RawValue, field: &str) -> Result<Response, Problem> {
    let mut said: Value = serde_json::from_str(said.get()).map_err(|_| Problem::fault())?;
    let blob: BlobRef = serde_json::from_value(said[field].take()).map_err(|error| {
        tracing::error!(%error, field, "a worker has drawn no picture");
        Problem::fault()
    })?;
    let blobs = served.api.blobs.as_ref().ok_or_else(Problem::fault)?;
    let media_type = HeaderValue::from_str(&blob.media_type).map_err(|_| Problem::fault())?;
    let headers = [(header::CONTENT_TYPE, media_type), (header::CONTENT_LENGTH, blob.bytes.into())];
    Ok((headers, Body::from_stream(blobs.read(&blob.blob).await?)).into_response())
}
