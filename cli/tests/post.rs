//! Batches that come over HTTP, in a cluster of real processes and real servers.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod mill_cluster;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use mill_cluster::{Cluster, PATIENCE, breathe, count};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// Sends a head, with what it says of the body that follows.
fn begin(cluster: &Cluster, media_type: &str, of_body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.api_port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {media_type}\r\n{of_body}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// The status and the body of the answer.
fn post(cluster: &Cluster, media_type: &str, body: &str) -> (u16, Value) {
    let mut stream = begin(cluster, media_type, &format!("content-length: {}", body.len()));
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// A batch that is submitted and waited for in one call: what is answered beside the outcomes, and these.
fn post_and_wait(cluster: &Cluster, new: &Value) -> (reqwest::header::HeaderMap, Vec<Value>) {
    tidemill_core::blobs::choose_cryptography();
    let url = format!("http://127.0.0.1:{}/v1/batches?wait=true", cluster.api_port);
    let asking = async {
        let request = reqwest::Client::new().post(url).header("content-type", JSON).body(new.to_string());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let headers = answer.headers().clone();
        let lines = answer.text().await.unwrap();
        (headers, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    };
    tokio::runtime::Runtime::new().unwrap().block_on(asking)
}

fn lines(head: &Value, items: impl Iterator<Item = String>) -> String {
    std::iter::once(head.to_string()).chain(items).map(|line| line + "\n").collect()
}

fn is_ready(cluster: &Cluster) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.api_port)).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200 ")
}

/// Servers, a results API that answers, and a worker.
fn cluster() -> Option<(Cluster, [mill_cluster::Role; 2])> {
    Cluster::start().map(with_roles)
}

fn with_roles(cluster: Cluster) -> (Cluster, [mill_cluster::Role; 2]) {
    let roles = [cluster.api(), cluster.worker()];
    cluster.until_ok(&["workers"]);
    // A broker that the API has not reached yet counts as one that is away, for which it may have little patience.
    while !is_ready(&cluster) {
        breathe();
    }
    (cluster, roles)
}

#[test]
fn a_batch_that_comes_over_http_is_worked_on_as_any_other() {
    let Some((cluster, _roles)) = cluster() else { return };

    let new = json!({"task": "compute.map", "options": {"expr": "x*x"}, "items": [1, 2, "three", 4]});
    let (status, submitted) = post(&cluster, JSON, &new.to_string());

    assert_eq!((status, &submitted["items"], &submitted["is_new"]), (201, &json!(4), &json!(true)));
    let outcomes = cluster.must_be_sound(submitted["id"].as_str().unwrap(), 4);
    let outputs: Vec<&Value> = outcomes.iter().map(|outcome| &outcome["output"]).collect();
    assert_eq!(outputs, [&json!(1), &json!(4), &Value::Null, &json!(16)]);
    assert_eq!(outcomes[2]["error"]["kind"], "invalid_input");
}

#[test]
fn whoever_waits_for_one_item_is_answered_once_and_the_books_balance() {
    let Some((cluster, _roles)) = cluster() else { return };

    for x in 0..5 {
        let new = json!({"task": "compute.map", "options": {"expr": "x*x"}, "items": [x]});
        let (headers, outcomes) = post_and_wait(&cluster, &new);
        assert_eq!((outcomes.len(), &outcomes[0]["output"]), (1, &json!(x * x)));
        let id = headers["location"].to_str().unwrap().rsplit_once('/').unwrap().1;
        cluster.must_be_sound(id, 1);
        let books = String::from_utf8(cluster.run(&["verify", id]).stdout).unwrap();
        assert!(books.contains("duplicates  0 suppressed"), "it ran once: {books}");
    }
}

#[test]
fn whoever_waits_has_the_outcomes_as_the_answer() {
    let Some((cluster, _roles)) = cluster() else { return };

    let new = json!({"task": "compute.map", "options": {"expr": "x*x"}, "items": [1, "two", 3]});
    let (headers, outcomes) = post_and_wait(&cluster, &new);

    assert_eq!(headers["content-type"], "application/x-ndjson");
    let statuses: Vec<&Value> = outcomes.iter().map(|outcome| &outcome["status"]).collect();
    assert_eq!(statuses, ["ok", "failed", "ok"]);
    assert_eq!(outcomes[2]["output"], 9);
    let id = headers["location"].to_str().unwrap().rsplit_once('/').unwrap().1;
    cluster.must_be_sound(id, 3);
    let (_, none) = post_and_wait(&cluster, &json!({"task": "compute.map", "options": {"expr": "x"}, "items": []}));
    assert_eq!(none, [] as [Value; 0]);
}

#[test]
fn lines_of_any_number_become_items_and_a_bad_one_harms_only_itself() {
    let Some((cluster, _roles)) = cluster() else { return };
    let bad = |n: u64| n == 2_000;
    let items = (0..20_000).map(|n| if bad(n) { "{not json".to_owned() } else { n.to_string() });

    let body = lines(&json!({"task": "compute.map", "options": {"expr": "x+1"}}), items);
    let (status, submitted) = post(&cluster, LINES, &body);

    assert_eq!(status, 201, "{submitted}");
    let outcomes = cluster.must_be_sound(submitted["id"].as_str().unwrap(), 20_000);
    assert_eq!(count(&outcomes, "ok"), 19_999);
    assert_eq!(outcomes[2_000]["status"], "failed");
    assert!(outcomes[2_000]["error"]["message"].as_str().unwrap().starts_with("line 2002: not JSON"));
}

#[test]
fn a_body_that_breaks_off_leaves_the_batch_open_and_the_same_key_goes_on() {
    let Some((cluster, _roles)) = cluster() else { return };
    let head = json!({"task": "compute.map", "options": {"expr": "x+1"}, "idempotency_key": "order 7"});
    let whole = lines(&head, (0..30_000).map(|n| n.to_string()));
    let mut stream = begin(&cluster, LINES, &format!("content-length: {}", whole.len()));
    stream.write_all(&whole.as_bytes()[..whole.len() / 2]).unwrap();
    let list = || serde_json::from_str::<Value>(&cluster.until_ok(&["status", "--json"])).unwrap();
    // A caller who is gone before that has begun nothing.
    while list().as_array().is_none_or(Vec::is_empty) {
        breathe();
    }
    drop(stream);
    // It is there, half of it, and not sealed.
    assert_eq!(list()[0]["progress"]["total"], Value::Null);

    let (status, submitted) = post(&cluster, LINES, &whole);
    assert_eq!((status, &submitted["is_new"]), (200, &json!(false)), "{submitted}");
    cluster.must_be_sound(submitted["id"].as_str().unwrap(), 30_000);

    let (status, again) = post(&cluster, LINES, &whole);
    assert_eq!((status, &again["id"], &again["items"]), (200, &submitted["id"], &json!(30_000)));
    for items in [json!([1]), json!([7, 8, 9])] {
        let other =
            json!({"task": "compute.map", "options": {"expr": "x+1"}, "idempotency_key": "order 7", "items": items});
        let (status, problem) = post(&cluster, JSON, &other.to_string());
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("other inputs"), "{problem}");
    }
    let other = json!({"task": "compute.map", "options": {"expr": "x+2"}, "idempotency_key": "order 7", "items": [1]});
    let (status, problem) = post(&cluster, JSON, &other.to_string());
    assert_eq!(status, 409, "{problem}");
}

#[test]
fn what_cannot_be_a_batch_is_refused_with_what_is_wrong() {
    let Some((cluster, _roles)) = cluster() else { return };
    let refused = |new: Value| {
        let (status, problem) = post(&cluster, JSON, &new.to_string());
        (status, problem["detail"].as_str().unwrap().to_owned())
    };

    let (status, detail) = refused(json!({"task": "compute.mop", "items": [1]}));
    assert_eq!(status, 400);
    assert!(detail.contains("compute.map"), "{detail}");
    let (status, detail) = refused(json!({"task": "compute.map", "options": {"expr": "x+"}, "items": [1]}));
    assert_eq!(status, 400);
    assert!(detail.starts_with("options: expr"), "{detail}");
    let none = json!({"task": "compute.map", "options": {"expr": "x"}, "retry": {"attempts": 0}, "items": [1]});
    assert_eq!(refused(none), (400, "retry.attempts: it is at least 1".to_owned()));
}

#[test]
fn a_broker_that_is_away_is_said_within_the_patience_and_the_same_key_goes_on() {
    let Some(cluster) = Cluster::start() else { return };
    let (mut cluster, _roles) = with_roles(cluster.with("TIDEMILL__SUBMIT__PATIENCE", "1s"));
    let new = json!({"task": "compute.map", "options": {"expr": "x"}, "idempotency_key": "k", "items": [1, 2, 3]});
    cluster.rabbit.kill();

    let (status, problem) = post(&cluster, JSON, &new.to_string());

    assert_eq!((status, &problem["type"]), (503, &json!("urn:tidemill:problem:away")), "{problem}");
    cluster.rabbit.start();
    let submitted = loop {
        let (status, submitted) = post(&cluster, JSON, &new.to_string());
        if status != 503 {
            assert_eq!(status, 200, "{submitted}");
            break submitted;
        }
    };
    cluster.must_be_sound(submitted["id"].as_str().unwrap(), 3);
}

#[test]
fn a_store_that_is_away_is_said_in_a_moment_and_why() {
    let Some((mut cluster, _roles)) = cluster() else { return };
    cluster.redis.kill();

    let mut stream = TcpStream::connect(("127.0.0.1", cluster.api_port)).unwrap();
    // Half the time after which it would be given up without a reason.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(15))).unwrap();
    stream.write_all(b"GET /v1/batches HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();

    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after"), "{answer}");
    assert!(answer.contains("the store is away: "), "{answer}");
}
