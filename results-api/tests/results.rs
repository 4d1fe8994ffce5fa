//! Results over HTTP: both orders, from any place, as lines and as events, and what a reader may do to the server.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use support::{Answer, Asking, client};
use tidemill_core::outcome::Ending;
use tidemill_core::store::frame::{Frames, MEDIA_TYPE};
use tidemill_core::store::{Fetched, Store as _};
use tidemill_core::task::raw;
use tidemill_results_api::testing::{Server, ok, outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a test waits before it says that something never came.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn both_orders_are_read_whole_and_from_the_middle() {
    let server = Server::start().await;
    let batch = server.batch(None, [2, 0, 1, 3]).await;
    server.store.seal(&batch, 4).await.unwrap();
    let path = format!("/v1/batches/{batch}/results");

    let whole = server.get(&path).await;
    assert_eq!((whole.status, &whole.headers["content-type"]), (200, &"application/x-ndjson".parse().unwrap()));
    assert_eq!(whole.indices(), [0, 1, 2, 3]);
    let first = r#"{"index":0,"input":0,"status":"ok","output":0,"attempts":1,"worker":"w","device":"cpu","timing":{"queued_ms":0.005,"run_ms":0.007}}"#;
    assert_eq!(whole.text().lines().next(), Some(first));
    assert_eq!(server.get(&format!("{path}?from=2")).await.indices(), [2, 3]);
    assert_eq!(server.get(&format!("{path}?order=completion")).await.indices(), [2, 0, 1, 3]);
    assert_eq!(server.get(&format!("{path}?order=completion&from=1&limit=2")).await.indices(), [0, 1]);
    assert_eq!(server.get(&format!("{path}?from=4")).await.indices(), [0_u64; 0]);
}

#[tokio::test]
async fn many_pages_come_whole_and_in_order() {
    let server = Server::start().await;
    let batch = server.batch(Some(20_000), 0..20_000).await;
    let path = format!("/v1/batches/{batch}/results");
    assert!(server.get(&path).await.indices().into_iter().eq(0..20_000));
    assert!(server.get(&format!("{path}?from=7&limit=9000")).await.indices().into_iter().eq(7..9007));
}

#[tokio::test]
async fn without_following_it_ends_at_the_first_gap() {
    let server = Server::start().await;
    let batch = server.batch(Some(5), [0, 1, 3]).await;
    let path = format!("/v1/batches/{batch}/results?follow=false");
    assert_eq!(server.get(&path).await.indices(), [0, 1]);
    assert_eq!(server.get(&format!("{path}&order=completion")).await.indices(), [0, 1, 3]);
}

#[tokio::test]
async fn following_gives_each_outcome_as_it_lands_and_ends_with_the_batch() {
    let server = Server::start().await;
    let batch = server.batch(None, [1]).await;
    let response = client().get(format!("{server}/v1/batches/{batch}/results")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut pieces = response.bytes_stream();

    server.record(&batch, [0]).await;
    let mut text = String::new();
    while text.lines().count() < 2 {
        let piece = tokio::time::timeout(PATIENCE, pieces.next()).await.unwrap().unwrap().unwrap();
        text += std::str::from_utf8(&piece).unwrap();
    }
    server.record(&batch, [2]).await;
    server.store.seal(&batch, 3).await.unwrap();
    while let Some(piece) = tokio::time::timeout(PATIENCE, pieces.next()).await.unwrap() {
        text += std::str::from_utf8(&piece.unwrap()).unwrap();
    }

    let starts: Vec<&str> = text.lines().map(|line| &line[..10]).collect();
    assert_eq!(starts, ["{\"index\":0", "{\"index\":1", "{\"index\":2"]);
}

#[tokio::test]
async fn a_stop_breaks_a_stream_off_so_that_nobody_takes_it_for_the_end() {
    let server = Server::start().await;
    let batch = server.batch(None, [0]).await;
    let response = client().get(format!("{server}/v1/batches/{batch}/results")).send().await.unwrap();
    let mut pieces = response.bytes_stream();
    assert!(pieces.next().await.unwrap().is_ok());

    server.stop.cancel();

    let rest = tokio::time::timeout(PATIENCE, pieces.next()).await.unwrap();
    assert!(rest.is_some_and(|piece| piece.is_err()));
}

#[tokio::test]
async fn what_came_before_a_stop_is_given_to_who_has_waited_for_it() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), [0]).await;
    let response = client().get(format!("{server}/v1/batches/{batch}/results")).send().await.unwrap();
    let mut pieces = response.bytes_stream();
    assert!(pieces.next().await.unwrap().is_ok());

    server.record(&batch, [1]).await;
    server.stop.cancel();

    let rest = tokio::time::timeout(PATIENCE, pieces.next()).await.unwrap();
    assert!(rest.unwrap().unwrap().starts_with(b"{\"index\":1,"));
    assert!(pieces.next().await.is_none(), "and that was all");
}

#[tokio::test]
async fn a_store_that_goes_away_in_the_middle_breaks_the_stream_off() {
    let server = Server::start().await;
    let batch = server.batch(None, [0]).await;
    let response = client().get(format!("{server}/v1/batches/{batch}/results")).send().await.unwrap();
    let mut pieces = response.bytes_stream();
    assert!(pieces.next().await.unwrap().is_ok());

    server.record(&batch, [2]).await; // a gap: nothing to be read, and a waiting reader looks again
    server.store.set_away(true);
    server.store.set_away(false);
    server.record(&batch, [1]).await;
    server.store.set_away(true);

    while let Some(piece) = tokio::time::timeout(PATIENCE, pieces.next()).await.unwrap() {
        if piece.is_err() {
            return;
        }
        server.store.set_away(false);
        server.record(&batch, [3]).await;
        server.store.set_away(true);
    }
    panic!("the stream ended as if it were whole");
}

#[tokio::test]
async fn events_carry_the_place_to_go_on_from_and_end_with_one_that_says_so() {
    let server = Server::start().await;
    let batch = server.batch(Some(3), 0..3).await;
    let path = format!("/v1/batches/{batch}/results");
    let accept = ("accept", "text/event-stream");

    let whole = server.send("GET", &path, &[accept], "").await;
    assert_eq!(whole.headers["content-type"], "text/event-stream");
    let text = whole.text();
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["1", "2", "3", "3"]);
    assert!(text.starts_with("id: 1\ndata: {\"index\":0,"), "{text}");
    assert!(text.ends_with("event: end\nid: 3\ndata: {\"next\":3,\"complete\":true}\n\n"), "{text}");

    let rest = server.send("GET", &path, &[accept, ("last-event-id", "2")], "").await.text();
    assert!(rest.starts_with("id: 3\ndata: {\"index\":2,"), "{rest}");

    let none = server.send("GET", &path, &[accept, ("last-event-id", "3")], "").await;
    assert_eq!(none.status, 204, "an EventSource comes back for ever unless it is told not to");

    let bad = server.send("GET", &path, &[accept, ("last-event-id", "soon")], "").await;
    bad.problem(400);
}

#[tokio::test]
async fn a_limit_of_events_counts_those_that_came_before_the_connection_was_lost() {
    let server = Server::start().await;
    let batch = server.batch(Some(9), 0..9).await;
    let (accept, path) = (("accept", "text/event-stream"), format!("/v1/batches/{batch}/results?from=1&limit=4"));

    let rest = server.send("GET", &path, &[accept, ("last-event-id", "3")], "").await.text();
    let none = server.send("GET", &path, &[accept, ("last-event-id", "5")], "").await;

    let ids: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["4", "5", "5"]);
    assert!(rest.ends_with("event: end\nid: 5\ndata: {\"next\":5,\"complete\":false}\n\n"), "{rest}");
    assert_eq!(none.status, 204, "it has had all that it asked for");
}

#[tokio::test(start_paused = true)]
async fn events_say_that_they_live_while_the_batch_goes_on_changing_behind_a_gap() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    let request = client().get(format!("{server}/v1/batches/{batch}/results")).header("accept", "text/event-stream");
    let mut events = request.send().await.unwrap();

    let changing = async {
        for index in 1..20 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            server.record(&batch, [index]).await;
        }
    };
    let told = tokio::select! {
        told = events.chunk() => told.unwrap(),
        () = changing => None,
    };

    assert_eq!(told.as_deref(), Some(&b": still here\n\n"[..]));
}

#[tokio::test]
async fn a_fault_in_the_middle_breaks_the_stream_off_so_that_nobody_takes_it_for_the_end() {
    let server = Server::start().await;
    let batch = server.batch(None, [0]).await;
    let mut lines = client().get(format!("{server}/v1/batches/{batch}/results")).send().await.unwrap();
    assert!(lines.chunk().await.unwrap().is_some());

    server.store.set_panicking(true);
    server.store.seen_apart().record(&batch, &[Arc::new(ok(1))]).await.unwrap();

    let rest = tokio::time::timeout(PATIENCE, lines.chunk()).await.unwrap();
    assert!(rest.is_err(), "{rest:?}");
}

/// The pages of an answer in frames, each as its text and where it ends.
fn pages(answer: &Answer) -> Vec<(String, u64)> {
    assert_eq!((answer.status, &answer.headers["content-type"]), (200, &MEDIA_TYPE.parse().unwrap()));
    let mut frames = Frames::default();
    frames.push(&answer.body);
    let text = |page: Fetched| (page.next(), page.into_lines().unwrap());
    std::iter::from_fn(|| frames.take().unwrap())
        .map(text)
        .map(|(next, lines)| (String::from_utf8(lines).unwrap(), next))
        .collect()
}

#[tokio::test]
async fn segments_are_the_same_outcomes() {
    let server = Server::start().await;
    let batch = server.batch(Some(20_000), (0..20_000).rev()).await;
    let path = format!("/v1/batches/{batch}/results");
    let accept = ("accept", "text/html, application/vnd.tidemill.segments;q=0.9");
    for asked in ["", "?from=7&limit=9000", "?order=completion&from=3", "?follow=false", "?from=20000", "?names=true"] {
        let found = pages(&server.send("GET", &format!("{path}{asked}"), &[accept], "").await);
        let text: String = found.iter().map(|(text, _)| text.as_str()).collect();
        let lines = server.get(&format!("{path}{}", asked.replace("?names=true", ""))).await.text();
        assert!(text == lines, "{asked}: {} and {} bytes", text.len(), lines.len());
        assert!(found.iter().all(|(text, _)| !text.is_empty()), "{asked}");
        let end = if asked.contains("limit") { 9007 } else { 20_000 };
        assert!(found.last().is_none_or(|(_, next)| *next == end), "{asked}");
    }
}

#[tokio::test]
async fn a_page_of_segments_has_a_quarter_of_a_megabyte_whatever_they_hold() {
    let server = Server::start().await;
    let batch = server.batch(Some(50), []).await;
    let large = raw(&"x".repeat(100_000));
    let outcomes: Vec<_> = (0..50).map(|index| Arc::new(outcome(index, Ending::Ok(large.clone())))).collect();
    server.store.record(&batch, &outcomes).await.unwrap();

    let accept = ("accept", MEDIA_TYPE);
    let found = pages(&server.send("GET", &format!("/v1/batches/{batch}/results"), &[accept], "").await);

    assert_eq!(found.iter().map(|(_, next)| *next).collect::<Vec<_>>(), Vec::from_iter((2..=50).step_by(2)));
}

#[tokio::test]
async fn names_are_given_to_those_who_ask_for_them() {
    let server = Server::start().await;
    let batch = server.batch(Some(1), [0]).await;
    let line = server.get(&format!("/v1/batches/{batch}/results?names=true")).await.json(200);
    assert_eq!((&line["name"], &line["output"]), (&"folder/0.txt".into(), &0.into()));
}

#[tokio::test]
async fn one_item_can_be_asked_for() {
    let server = Server::start().await;
    let batch = server.batch(Some(9), [7]).await;
    assert_eq!(server.get(&format!("/v1/batches/{batch}/items/7")).await.json(200)["output"], 70);
    assert_eq!(
        server.get(&format!("/v1/batches/{batch}/items/6")).await.problem(404)["type"],
        "urn:tidemill:problem:no_outcome"
    );
    server.get(&format!("/v1/batches/{batch}/items/-1")).await.problem(400);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_back_the_server_and_not_the_memory() {
    const ITEMS: u64 = 3000;
    let server = Server::start().await;
    let batch = server.batch(Some(ITEMS), []).await;
    let large = raw(&"x".repeat(20_000));
    for index in 0..ITEMS {
        server.store.record(&batch, &[Arc::new(outcome(index, Ending::Ok(large.clone())))]).await.unwrap();
    }
    let mut socket = tokio::net::TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let request = format!("GET /v1/batches/{batch}/results HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();

    // It reads until the system's buffers are full, and no further.
    let mut read = (0, 0);
    while read.0 == 0 || read.0 != read.1 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        read = (server.store.outcomes_read(), read.0);
    }
    assert!(read.0 < ITEMS / 2, "{} of {ITEMS} outcomes were read for nobody", read.0);

    let mut whole = Vec::new();
    socket.read_to_end(&mut whole).await.unwrap();
    assert!(whole.ends_with(b"0\r\n\r\n"));
    assert_eq!(whole.windows(9).filter(|window| *window == b"{\"index\":").count() as u64, ITEMS);
}
