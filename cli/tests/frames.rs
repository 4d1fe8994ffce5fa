//! Outcomes in frames, from a results API that sends what the test tells it to.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use support::{Ended, tidemill};
use tidemill_core::batch::{Attempt, Batch, ItemIndex, Priority};
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::store::frame::MEDIA_TYPE;
use tidemill_core::store::{BatchInfo, Fetched, Order, Page, Progress};
use tidemill_core::task::raw;

const ITEMS: u64 = 5;

/// What is sent when outcomes are asked for.
struct Answer {
    form: &'static str,
    bytes: Vec<u8>,
    /// Whether the connection is lost behind it.
    is_cut: bool,
}

impl Answer {
    fn framed(bytes: Vec<u8>) -> Self {
        Self { form: MEDIA_TYPE, bytes, is_cut: false }
    }
}

/// What it still has to send, and what it was asked.
#[derive(Default)]
struct Api {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<HashMap<String, String>>>,
}

fn batch() -> Batch {
    Batch {
        id: "b".parse().unwrap(),
        task: "compute.map".into(),
        options: raw(&()),
        retry: RetryPolicy { attempts: 1, base: Duration::ZERO, max: Duration::ZERO },
        timeout: Duration::from_secs(1),
        priority: Priority::default(),
        expires: None,
    }
}

/// The outcomes of these places, which are their indices too.
fn frame(order: Order, places: Range<u64>) -> Vec<u8> {
    let maker = Arc::<Maker>::default();
    let outcome = |place| {
        let ending = Ending::Ok(raw(&place));
        Arc::new(Outcome::unrun(ItemIndex(place), raw(&place), ending, Attempt::FIRST, &maker))
    };
    let page = Page { outcomes: places.clone().map(outcome).collect(), next: places.end, is_last: false };
    Fetched::of(order, places.start, page).into_frame(&batch().id)
}

async fn results(State(api): State<Arc<Api>>, Query(asked): Query<HashMap<String, String>>) -> Response {
    api.asked.lock().unwrap().push(asked);
    let Answer { form, bytes, is_cut } = api.answers.lock().unwrap().pop_front().unwrap();
    let lost = async {
        // Until then what is before it has left.
        tokio::task::yield_now().await;
        Err(io::Error::other("the connection is lost"))
    };
    let pieces = stream::once(async { Ok(bytes) });
    let body = if is_cut { Body::from_stream(pieces.chain(stream::once(lost))) } else { Body::from_stream(pieces) };
    ([(header::CONTENT_TYPE, form)], body).into_response()
}

/// What the command prints, and where it began to read each time.
async fn read(order: &str, answers: impl IntoIterator<Item = Answer>) -> (Ended, Vec<String>) {
    let api = Arc::new(Api { answers: Mutex::new(answers.into_iter().collect()), ..Api::default() });
    let mut progress = Progress { total: Some(ITEMS), ..Progress::default() };
    progress.counts[0] = ITEMS;
    let info = BatchInfo { batch: batch(), created: 1, completed: Some(2), accepted: ITEMS, progress };
    let router = Router::new()
        .route("/v1/batches/{id}/results", get(results))
        .route("/v1/batches/{id}", get(async move || Json(info.clone())))
        .with_state(Arc::clone(&api));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut command = tidemill(&["results", "b", "--follow", "--order", order]);
    command.env("TIDEMILL__API__URL", url);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap();
    let from = api.asked.lock().unwrap().iter().map(|asked| asked["from"].clone()).collect();
    (ended, from)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_within_a_frame_is_taken_up_behind_the_last_whole_one() {
    for (order, word) in [(Order::Input, "input"), (Order::Completion, "completion")] {
        let rest = frame(order, 3..ITEMS);
        for cut in [1, 40, rest.len() - 1] {
            for is_cut in [true, false] {
                let begun = [frame(order, 0..3), rest[..cut].to_vec()].concat();
                let answers = [Answer { is_cut, ..Answer::framed(begun) }, Answer::framed(rest.clone())];

                let (ended, from) = read(word, answers).await;

                assert_eq!(ended.field("index"), (0..ITEMS).map(Value::from).collect::<Vec<_>>(), "{}", ended.stderr);
                assert_eq!((ended.code, from), (Some(0), vec!["0".to_owned(), "3".to_owned()]), "{}", ended.stderr);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_to_the_question_is_an_error_and_prints_nothing() {
    let lines = Answer { form: "application/x-ndjson", ..Answer::framed(b"{}\n".to_vec()) };
    let (ended, _) = read("input", [lines]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("it sends outcomes in another form"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: is it a results API, of this version or a later one?"), "{}", ended.stderr);

    for (bytes, reason) in [
        (b"<html>\n".to_vec(), "the head of a frame: expected value"),
        (frame(Order::Input, 1..3), "it sends other outcomes than were asked for"),
        (frame(Order::Completion, 0..3), "it sends other outcomes than were asked for"),
        (String::from_utf8(frame(Order::Input, 0..3)).unwrap().replace("ok", "so").into_bytes(), "is no status"),
    ] {
        let (ended, _) = read("input", [Answer::framed(bytes)]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        assert!(ended.stderr.contains("http://127.0.0.1:") && ended.stderr.contains(reason), "{}", ended.stderr);
    }
}
