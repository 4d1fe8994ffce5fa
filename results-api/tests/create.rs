//! Batches and blobs that come over HTTP.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{Asking, client};
use tidemill_core::batch::{Attempt, BatchId, ItemIndex};
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Body, Broker, Message, Permits, Queue, Settlement};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::store::Store as _;
use tidemill_core::task::Lane;
use tidemill_results_api::http::{Api, Entry, NewBatch, SubmitError, SubmitErrorKind, Submitted, Submitter};
use tidemill_results_api::testing::{InProcess, Server, batch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const JOBS: Queue = Queue::Jobs(Lane::Cpu);
const JSON: (&str, &str) = ("content-type", "application/json");
const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

/// Publishes each entry as a chunk of its own.
#[derive(Debug)]
struct OneByOne {
    store: Arc<InProcess>,
    broker: Arc<dyn Broker>,
    refused: Mutex<Vec<String>>,
}

#[async_trait]
impl Submitter for OneByOne {
    async fn submit(
        &self,
        new: NewBatch,
        mut entries: BoxStream<'static, Result<Entry, SubmitError>>,
    ) -> Result<Submitted, SubmitError> {
        if new.task != "compute.map" {
            let message = format!("no task is called {:?}", new.task);
            return Err(SubmitError { kind: SubmitErrorKind::Invalid, message });
        }
        let batch = Arc::new(batch());
        self.store.open(&batch).await.unwrap();
        let mut total = 0;
        while let Some(entry) = entries.next().await {
            match entry? {
                Entry::Input(input) => {
                    let items = vec![Item { index: ItemIndex(total), input, name: None, source: None }];
                    let chunk = Chunk { batch: Arc::clone(&batch), attempt: Attempt::FIRST, items };
                    let message = Message::new(Body::Chunk(chunk), batch.priority);
                    self.broker.publish(Queue::Jobs(Lane::Cpu), message).await.unwrap();
                }
                Entry::File { .. } => unreachable!("no file comes as JSON or as lines"),
                Entry::Refused { failure, .. } => self.refused.lock().unwrap().push(failure.message),
            }
            total += 1;
        }
        self.store.seal(&batch.id, total).await.unwrap();
        Ok(Submitted { id: batch.id.clone(), items: total, is_new: new.idempotency_key.is_none(), outcome: None })
    }
}

async fn with_submitter() -> (Server, Arc<OneByOne>) {
    let store = Arc::<InProcess>::default();
    let broker: Arc<dyn Broker> = Arc::new(Embedded::new(1 << 20));
    let given = Arc::new(OneByOne { store: Arc::clone(&store), broker, refused: Mutex::default() });
    let submitter = Some(Arc::<OneByOne>::clone(&given) as Arc<dyn Submitter>);
    let server = Server::start_over(store, "127.0.0.1:0", |api| Api { submitter, ..api }).await;
    (server, given)
}

#[tokio::test]
async fn a_batch_comes_as_json_or_as_lines_and_is_the_same() {
    let (server, submitter) = with_submitter().await;
    let head = json!({"task": "compute.map", "options": {"expr": "x"}, "retry": {"attempts": 2}, "timeout": 5000});
    let mut whole = head.clone();
    whole["items"] = json!([1, "two", {"x": 3}]);

    let answer = server.send("POST", "/v1/batches", &[JSON], whole.to_string()).await;
    let created = answer.json(201);
    assert_eq!((&created["items"], &created["is_new"]), (&3.into(), &true.into()));
    let id: BatchId = created["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(answer.headers["location"], format!("/v1/batches/{id}"));
    assert_eq!(server.get(&format!("/v1/batches/{id}")).await.json(200)["progress"]["total"], 3);

    let lines = format!("{head}\n1\n\n\"two\"\r\n{{\"x\":3}}");
    assert_eq!(server.send("POST", "/v1/batches", &[LINES], lines).await.json(201)["items"], 3);
    assert_eq!(submitter.broker.depth(Queue::Jobs(Lane::Cpu)).await.unwrap(), 6);
}

#[tokio::test]
async fn when_it_stops_nothing_new_is_taken_and_what_was_begun_is_answered() {
    let (server, _) = with_submitter().await;
    let new = json!({"task": "compute.map", "options": {"expr": "x"}, "items": [1]});
    let created = server.send("POST", "/v1/batches", &[JSON], new.to_string()).await.json(201);
    let id: BatchId = created["id"].as_str().unwrap().parse().unwrap();
    let mut results = client().get(format!("{server}/v1/batches/{id}/results")).send().await.unwrap();

    server.stop_taking.cancel();

    for (path, headers) in [("/v1/batches", [JSON]), ("/v1/predict/classify", [("content-type", "image/png")])] {
        let answer = server.send("POST", path, &headers, new.to_string()).await;
        assert_eq!(answer.problem(503)["type"], "urn:tidemill:problem:stopping", "{path}");
        assert!(answer.headers.contains_key("retry-after"), "{path}");
    }
    let ready = server.get("/readyz").await.json(503);
    assert_eq!((&ready["ready"], &ready["stopping"]), (&false.into(), &true.into()));
    server.record(&id, [0]).await;
    let line = results.chunk().await.unwrap().unwrap();
    assert!(line.starts_with(b"{\"index\":0,"));
}

#[tokio::test]
async fn whoever_waits_is_answered_from_the_store() {
    let (server, submitter) = with_submitter().await;
    let body = json!({"task": "compute.map", "items": [0]});
    let work = async {
        let mut jobs = submitter.broker.consume(JOBS, Permits(1), CancellationToken::new()).await.unwrap();
        let job = jobs.next().await.unwrap();
        server.record(job.message.body.batch().unwrap(), [0]).await;
        job.settle(Settlement::Ack).await.unwrap();
    };

    let (answer, ()) = tokio::join!(server.send("POST", "/v1/batches?wait=true", &[JSON], body.to_string()), work);

    assert_eq!(answer.json(201)["output"], 0);
}

#[tokio::test]
async fn a_line_that_is_no_json_harms_only_itself() {
    let (server, submitter) = with_submitter().await;
    let lines = "{\"task\":\"compute.map\"}\n1\n{broken\n3\n";
    assert_eq!(server.send("POST", "/v1/batches", &[LINES], lines).await.json(201)["items"], 3);
    assert_eq!(submitter.refused.lock().unwrap()[..], ["line 3: not JSON: key must be a string at line 1 column 2"]);
}

#[tokio::test]
async fn what_is_no_batch_is_answered_with_what_was_wrong() {
    let (server, _submitter) = with_submitter().await;
    let of = |items: usize| format!(r#"{{"task":"compute.nap","items":[{}]}}"#, vec!["1"; items].join(","));
    let large = format!(r#"{{"task":"compute.map","options":{{"expr":"{}"}}"#, "x".repeat(64 << 10));
    for (kind, body, status, detail) in [
        (JSON, "{}".to_owned(), 400, "missing field `task`"),
        (JSON, r#"{"task":"compute.map"}"#.into(), 400, "items: they are missing"),
        (JSON, r#"{"task":"compute.map","itms":[]}"#.into(), 400, "unknown field `itms`"),
        (JSON, r#"{"task":"compute.nap","items":[]}"#.into(), 400, "no task is called \"compute.nap\""),
        (JSON, r#"{"task":"compute.map","items":[],"idempotency_key":""}"#.into(), 400, "idempotency_key"),
        (LINES, String::new(), 400, "the body is empty"),
        (LINES, "{\"task\":\"compute.map\",\"items\":[]}\n".into(), 400, "line 1: items"),
        (LINES, format!("{{\"task\":\"compute.map\"}}\n\"{}", "x".repeat(9 << 20)), 400, "line 2: a line has at most"),
        (("content-type", "text/csv"), "1".into(), 415, "application/x-ndjson"),
        (JSON, of(100_000), 400, "no task is called \"compute.nap\""),
        (JSON, of(100_001), 413, "more than 100000; larger batches are sent as application/x-ndjson"),
        (JSON, format!("{large},\"items\":[]}}"), 413, "options: they have at most 65536 bytes"),
        (LINES, format!("{large}}}\n1\n"), 413, "options: they have at most 65536 bytes"),
    ] {
        let problem = server.send("POST", "/v1/batches", &[kind], body).await.problem(status);
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
    Server::start().await.send("POST", "/v1/batches", &[JSON], "{}").await.problem(501);
}

#[tokio::test]
async fn a_known_key_gives_the_batch_that_it_made() {
    let (server, _submitter) = with_submitter().await;
    let body = r#"{"task":"compute.map","items":[1],"idempotency_key":"k"}"#;
    assert_eq!(server.send("POST", "/v1/batches", &[JSON], body).await.json(200)["is_new"], false);
}

#[tokio::test]
async fn lines_are_taken_as_they_come() {
    let (server, submitter) = with_submitter().await;
    let (send, lines) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures::stream::unfold(lines, |mut lines| async {
        lines.recv().await.map(|line| (line, lines))
    }));
    let request = client().post(format!("{server}/v1/batches")).header(LINES.0, LINES.1).body(body).send();
    let asking = tokio::spawn(request);

    send.send(Ok("{\"task\":\"compute.map\"}\n".into())).await.unwrap();
    for sent in 1..=3 {
        send.send(Ok(format!("{sent}\n"))).await.unwrap();
        while submitter.broker.depth(Queue::Jobs(Lane::Cpu)).await.unwrap() < sent {
            tokio::task::yield_now().await;
        }
    }
    drop(send);

    assert_eq!(asking.await.unwrap().unwrap().status(), 201);
}

/// Takes the rest of a batch long after it has begun.
#[derive(Debug)]
struct Slow(mpsc::Sender<()>);

#[async_trait]
impl Submitter for Slow {
    async fn submit(
        &self,
        _: NewBatch,
        entries: BoxStream<'static, Result<Entry, SubmitError>>,
    ) -> Result<Submitted, SubmitError> {
        let mut some = entries.ready_chunks(512);
        let mut items = some.next().await.unwrap().len();
        self.0.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        while let Some(more) = some.next().await {
            items += more.into_iter().collect::<Result<Vec<_>, _>>()?.len();
        }
        Ok(Submitted { id: BatchId::new(), items: items as u64, is_new: true, outcome: None })
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_whom_we_let_wait_has_not_paused() {
    let (tell, mut begun) = mpsc::channel(1);
    let server = Server::start_with(|api| Api { submitter: Some(Arc::new(Slow(tell))), ..api }).await;
    let (first, rest) = ("{\"task\":\"compute.map\"}\n1\n2\n", "3\n4\n");
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let (media_type, length) = (LINES.1, first.len() + rest.len());
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: {media_type}\r\ncontent-length: {length}\r\n\r\n"
    );

    stream.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    begun.recv().await.unwrap();
    stream.write_all(rest.as_bytes()).await.unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains("\"items\":4"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_pauses_for_too_long_is_given_up_and_its_sender_is_told() {
    let server = with_blobs().await;
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/blobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 10\r\n\r\n";
    let started = Instant::now();

    stream.write_all(format!("{head}flour").as_bytes()).await.unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("urn:tidemill:problem:paused"), "{answer}");
    assert_eq!(started.elapsed().as_secs(), 60);
}

async fn with_blobs() -> Server {
    let limits = FetchLimits { max_bytes: 1 << 20, timeout: std::time::Duration::from_secs(5) };
    let blobs = Blobs::at(&"memory://".parse().unwrap(), limits, None).unwrap();
    Server::start_with(|api| Api { blobs: Some(blobs), ..api }).await
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

#[tokio::test]
async fn blobs_go_in_and_come_out_as_they_were() {
    let server = with_blobs().await;
    let png = [("content-type", "image/png")];
    let posted = server.send("POST", "/v1/blobs?extension=png", &png, "flour").await.json(201);
    let name = digest(b"flour");
    assert_eq!(posted, json!({"blob": name, "bytes": 5, "media_type": "image/png", "extension": "png"}));

    let by_curl = [("content-type", "application/x-www-form-urlencoded")];
    let posted = server.send("POST", "/v1/blobs", &by_curl, "flour").await.json(201);
    assert_eq!(posted["media_type"], "application/octet-stream");

    let fetched = server.get(&format!("/v1/blobs/{name}")).await;
    assert_eq!((fetched.status, &fetched.body[..]), (200, &b"flour"[..]));
    let looked = server.send("HEAD", &format!("/v1/blobs/{name}"), &[], "").await;
    assert_eq!((looked.status, &looked.headers["content-length"]), (200, &"5".parse().unwrap()));

    let large = vec![7; 900_000];
    let path = format!("/v1/blobs/{}", digest(&large));
    let put: Value = server.send("PUT", &path, &[], large.clone()).await.json(201);
    assert_eq!(put["bytes"], 900_000);
    assert!(server.get(&path).await.body == large);
}

#[tokio::test]
async fn a_blob_that_is_not_what_it_is_called_or_too_large_is_refused() {
    let server = with_blobs().await;
    let name = digest(b"flour");
    let path = format!("/v1/blobs/{name}");
    let problem = server.send("PUT", &path, &[], "grist").await.problem(400);
    assert!(problem["detail"].as_str().unwrap().ends_with(&format!("not of {name}")), "{problem}");
    server.send("PUT", &path, &[], vec![0; 2 << 20]).await.problem(413);
    server.send("POST", "/v1/blobs", &[], vec![0; 17 << 20]).await.problem(413);
    let form = [("content-type", "multipart/form-data; boundary=b")];
    let problem = server.send("POST", "/v1/blobs", &form, "--b--").await.problem(415);
    assert!(problem["detail"].as_str().unwrap().contains("--data-binary"), "{problem}");
    server.send("PUT", &path, &form, "flour").await.problem(415);
    server.get(&path).await.problem(404);
    assert_eq!(server.send("HEAD", &path, &[], "").await.status, 404);
    for bad in ["sha256:AB", "md5:00", "..%2F..%2Fetc%2Fpasswd"] {
        server.get(&format!("/v1/blobs/{bad}")).await.problem(400);
    }
    let none = Server::start().await.get(&path).await.problem(404);
    assert_eq!(none["type"], "urn:tidemill:problem:no_blobs");
}

#[tokio::test]
async fn a_blob_is_not_sent_to_who_has_it_and_in_part_to_who_has_the_rest() {
    let server = with_blobs().await;
    server.send("POST", "/v1/blobs", &[], "flour").await.json(201);
    let name = digest(b"flour");
    let (path, tag) = (format!("/v1/blobs/{name}"), format!("\"{name}\""));

    let tags = format!("\"sha256:00\", W/{tag}");
    for method in ["GET", "HEAD"] {
        let known = server.send(method, &path, &[("if-none-match", &tags)], "").await;
        assert_eq!((known.status, &known.body[..], &known.headers["etag"]), (304, &b""[..], &tag.parse().unwrap()));
        let other = server.send(method, &path, &[("if-none-match", "\"sha256:00\"")], "").await;
        assert_eq!((other.status, &other.headers["accept-ranges"]), (200, &"bytes".parse().unwrap()));
    }
    let part = server.send("GET", &path, &[("range", "bytes=1-3"), ("if-range", &tag)], "").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"lou"[..]));
    assert_eq!(part.headers["content-range"], "bytes 1-3/5");
    let whole = server.send("GET", &path, &[("range", "bytes=1-3"), ("if-range", "\"sha256:00\"")], "").await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"flour"[..]));
    let none = server.send("GET", &path, &[("range", "bytes=5-")], "").await;
    assert_eq!(none.problem(416)["type"], "urn:tidemill:problem:no_such_range");
    assert_eq!(none.headers["content-range"], "bytes */5");
}
