//! Pictures that are answered in the same call, without anybody who works on them.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use support::Asking;
use tidemill_core::batch::{BatchId, unix_millis};
use tidemill_core::broker::Heartbeat;
use tidemill_core::store::{Shared as _, Store as _, Version};
use tidemill_core::task::Lane;
use tidemill_results_api::http::{Api, Entry, NewBatch, SubmitError, Submitted, Submitter};
use tidemill_results_api::testing::{InProcess, Server, batch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

/// How long a test waits before it says that something never came.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens a batch, tells which, and seals it when it may.
#[derive(Debug)]
struct Accepts {
    store: Arc<InProcess>,
    opened: mpsc::Sender<BatchId>,
    may_seal: Arc<Semaphore>,
}

#[async_trait]
impl Submitter for Accepts {
    async fn submit(
        &self,
        _: NewBatch,
        _: BoxStream<'static, Result<Entry, SubmitError>>,
    ) -> Result<Submitted, SubmitError> {
        let batch = batch();
        self.store.open(&batch).await.unwrap();
        self.opened.send(batch.id.clone()).await.unwrap();
        self.may_seal.acquire().await.unwrap().forget();
        self.store.seal(&batch.id, 1).await.unwrap();
        Ok(Submitted { id: batch.id, items: 1, is_new: true, outcome: None })
    }
}

/// A server with a worker that says that it runs networks, the batches that it opens, and what lets it seal them.
async fn server() -> (Server, mpsc::Receiver<BatchId>, Arc<Semaphore>) {
    server_with(Some(Lane::Vision), true).await
}

/// The same with a worker of another lane, or with none; where the broker is shared more may come.
async fn server_with(lane: Option<Lane>, is_broker_shared: bool) -> (Server, mpsc::Receiver<BatchId>, Arc<Semaphore>) {
    let store: Arc<InProcess> = Arc::default();
    let (sender, opened) = mpsc::channel(1);
    let may_seal = Arc::new(Semaphore::new(0));
    let accepts = Accepts { store: Arc::clone(&store), opened: sender, may_seal: Arc::clone(&may_seal) };
    let submitter: Arc<dyn Submitter> = Arc::new(accepts);
    let heartbeat = |lane| Heartbeat {
        name: "mill".into(),
        at: unix_millis(),
        every: 60_000,
        lanes: vec![lane],
        ..Heartbeat::default()
    };
    store.beat(&lane.map(heartbeat).into_iter().collect::<Vec<_>>()).await.unwrap();
    let change = |api| Api { submitter: Some(submitter), is_broker_shared, ..api };
    let server = Server::start_over(store, "127.0.0.1:0", change).await;
    (server, opened, may_seal)
}

async fn until_cancelled(server: &Server, batch: &BatchId) {
    let mut seen = Version::default();
    while !server.store.progress(batch).await.unwrap().cancelled {
        seen = server.store.changed(batch, seen).await.unwrap();
    }
}

/// Somebody who has asked for a prediction.
async fn caller(server: &Server) -> TcpStream {
    let mut caller = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/predict/classify?deadline=600000 HTTP/1.1\r\nhost: localhost\r\n\
                content-type: image/png\r\ncontent-length: 5\r\n\r\n";
    caller.write_all(format!("{head}flour").as_bytes()).await.unwrap();
    caller
}

#[tokio::test]
async fn a_prediction_whose_caller_hangs_up_is_cancelled() {
    let (server, mut opened, may_seal) = server().await;
    let caller = caller(&server).await;
    let batch = opened.recv().await.unwrap();
    may_seal.add_permits(1);
    let mut seen = Version::default();
    while server.store.progress(&batch).await.unwrap().total.is_none() {
        seen = server.store.changed(&batch, seen).await.unwrap();
    }
    assert!(!server.store.progress(&batch).await.unwrap().cancelled);

    drop(caller);

    until_cancelled(&server, &batch).await;
}

#[tokio::test]
async fn a_prediction_whose_caller_hangs_up_while_it_is_published_is_sealed_and_cancelled() {
    let (server, mut opened, may_seal) = server().await;
    let mut caller = caller(&server).await;
    let batch = opened.recv().await.unwrap();

    caller.shutdown().await.unwrap();
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0, "the server has hung up too");
    may_seal.add_permits(1);

    until_cancelled(&server, &batch).await;
    assert_eq!(server.store.progress(&batch).await.unwrap().total, Some(1));
}

#[tokio::test]
async fn a_form_without_a_boundary_has_an_end() {
    let (server, ..) = server().await;
    let mut caller = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/predict/classify HTTP/1.1\r\nhost: localhost\r\n\
                content-type: multipart/form-data; boundary=flour\r\ncontent-length: 1000000000\r\n\r\n";
    caller.write_all(head.as_bytes()).await.unwrap();
    let (mib, mut sent) = (vec![b'a'; 1 << 20], 0);

    // Whether the answer, 413, is still read before the connection is gone is not for the server to say.
    while caller.write_all(&mib).await.is_ok() {
        sent += 1;
    }

    // As much as a form may have; what is longer than would be passed over is not.
    assert!((64..80).contains(&sent), "{sent} MiB were taken");
}

#[tokio::test]
async fn a_prediction_is_answered_while_the_store_does_not_let_its_batch_go() {
    let (server, mut opened, may_seal) = server().await;
    let mut caller = caller(&server).await;
    let batch = opened.recv().await.unwrap();
    may_seal.add_permits(1);
    server.store.set_keeping(true);

    server.record(&batch, [0]).await;

    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n0") {
        let mut piece = [0; 1024];
        let read = tokio::time::timeout(PATIENCE, caller.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "{answer}");
        answer += std::str::from_utf8(&piece[..read]).unwrap();
    }
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_prediction_that_comes_too_late_is_cancelled() {
    let (server, mut opened, may_seal) = server().await;
    may_seal.add_permits(1);
    let answer = server.send("POST", "/v1/predict/classify?deadline=1", &[("content-type", "image/png")], "x").await;
    assert_eq!(answer.problem(504)["type"], "urn:tidemill:problem:deadline");
    if let Ok(batch) = opened.try_recv() {
        until_cancelled(&server, &batch).await;
    }
}

#[tokio::test]
async fn the_time_that_a_picture_takes_to_come_counts() {
    let (server, mut opened, _may_seal) = server().await;
    let mut caller = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/predict/classify?deadline=50 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: image/png\r\ncontent-length: 5\r\n\r\n";
    caller.write_all(format!("{head}flou").as_bytes()).await.unwrap();

    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, caller.read_to_string(&mut answer)).await.expect("it comes").unwrap();

    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("urn:tidemill:problem:deadline"), "{answer}");
    assert!(opened.try_recv().is_err(), "nothing was to be run");
}

#[tokio::test]
async fn a_model_is_asked_for_by_its_name_and_not_by_a_path() {
    let (server, mut opened, _may_seal) = server().await;
    for path in ["/etc/", "models/mine", "../mine"] {
        let address = format!("/v1/predict/segment?model={path}");
        let problem = server.send("POST", &address, &[("content-type", "image/png")], "x").await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains("GET /v1/models lists them"), "{path}: {problem}");
    }
    assert!(opened.try_recv().is_err());
}

#[tokio::test]
async fn where_nobody_runs_networks_no_picture_is_read() {
    for (lane, is_broker_shared, status, kind) in [
        (None, true, 503, "away"),
        (Some(Lane::Cpu), true, 503, "away"),
        // Its own worker has not said yet what it does.
        (None, false, 503, "away"),
        (Some(Lane::Cpu), false, 501, "no_networks"),
    ] {
        let (server, ..) = server_with(lane, is_broker_shared).await;
        let mut caller = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
        let head = "POST /v1/predict/classify HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                    expect: 100-continue\r\ncontent-type: image/png\r\ncontent-length: 5\r\n\r\n";
        caller.write_all(head.as_bytes()).await.unwrap();

        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, caller.read_to_string(&mut answer)).await.expect("it comes").unwrap();

        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!("urn:tidemill:problem:{kind}\"")), "{answer}");
    }
}
