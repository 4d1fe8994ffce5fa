//! `tidemill serve` that is told to stop while it works.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::tidemill;

/// One that ends with its value, where it serves, and what it says after that.
struct Served(Child, String, mpsc::Receiver<String>);

impl Served {
    /// With leave to ask an address of loopback.
    fn start() -> Self {
        let mut command = tidemill(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("TIDEMILL__NET__ALLOW_PRIVATE", "127.0.0.3").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said: String = lines.find_map(|line| line.ok().filter(|line| line.contains("serves at"))).unwrap();
        // Whatever more it says must find a reader.
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let address = said.split("http://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        Self(child, address, told)
    }

    /// Sends a request; its answer is still to come.
    fn ask(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.1).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        let length = body.len();
        write!(stream, "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        stream
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The whole answer, its head in small letters.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.replace("Retry-After", "retry-after")
}

#[test]
fn told_to_stop_it_takes_nothing_new_and_answers_what_it_has_begun() {
    let mut served = Served::start();
    // An item lasts as long as this does not answer.
    let slow = TcpListener::bind("127.0.0.3:0").unwrap();
    let url = format!("http://{}/page", slow.local_addr().unwrap());
    let new = json!({"task": "net.download", "items": [url]}).to_string();
    let waiting = served.ask("POST", "/v1/batches?wait=true", &new);
    let (mut asked, _) = slow.accept().unwrap();
    // What is not read would be taken for a broken connection when it is closed.
    let head = BufReader::new(asked.try_clone().unwrap()).lines().map(Result::unwrap);
    assert!(head.take_while(|line| !line.is_empty()).count() > 0);

    kill(Pid::from_raw(served.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // The signal is heard a moment later.
    let not_ready = loop {
        let ready = answer(served.ask("GET", "/readyz", ""));
        if !ready.starts_with("HTTP/1.1 200") {
            break ready;
        }
    };
    let refused = answer(served.ask("POST", "/v1/batches", &new));
    assert!(served.2.iter().any(|line| line.starts_with("stopping: ")), "it says so before it has ended");
    asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nflour").unwrap();
    let answered = answer(waiting);

    assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("\"stopping\":true"), "{not_ready}");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "), "{refused}");
    let problem: Value = serde_json::from_str(refused.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(problem["type"], "urn:tidemill:problem:stopping");
    assert!(answered.contains("\"status\":\"ok\""), "{answered}");
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_batch_that_is_cancelled_while_its_items_come_ends_with_those_that_came() {
    let served = Served::start();
    let mut stream = TcpStream::connect(&served.1).unwrap();
    let head =
        "POST /v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n";
    let lines = "{\"task\":\"compute.map\",\"options\":{\"expr\":\"x\"},\"idempotency_key\":\"k\"}\n1\n2\n";
    write!(stream, "{head}content-length: 1000000\r\n\r\n{lines}").unwrap();
    let body = |answer: &str| serde_json::from_str::<Value>(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let batch = loop {
        let listed = body(&answer(served.ask("GET", "/v1/batches", "")));
        if listed["batches"][0]["recorded"] == 2 {
            break listed["batches"][0]["batch"]["id"].as_str().unwrap().to_owned();
        }
    };

    assert!(answer(served.ask("DELETE", &format!("/v1/batches/{batch}"), "")).contains("\"state\":\"cancelling\""));
    let created = answer(stream);

    assert!(created.starts_with("HTTP/1.1 201"), "{created}");
    assert_eq!((&body(&created)["id"], &body(&created)["items"]), (&json!(batch), &json!(2)));
    let shown = body(&answer(served.ask("GET", &format!("/v1/batches/{batch}"), "")));
    assert_eq!((&shown["state"], &shown["recorded"]), (&json!("cancelled"), &json!(2)));
}

#[test]
fn a_role_whose_servers_were_never_there_ends_when_it_is_told_to() {
    for role in ["worker", "results-api"] {
        let mut command = tidemill(&[role]);
        // Nobody listens there.
        command.env("TIDEMILL__BROKER__URL", "amqp://127.0.0.1:1").env("TIDEMILL__STORE__URL", "redis://127.0.0.1:1");
        command.env("TIDEMILL__API__LISTEN", "127.0.0.1:0").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains("cannot connect to the broker")), "{role} says why it waits");

        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let rest: Vec<String> = log.collect();

        assert_eq!(child.wait().unwrap().code(), Some(0), "{role}: {rest:?}");
        let waited = rest.iter().any(|line| line.contains("what was to be written comes again"));
        assert!(!waited, "{role} has nothing to wait for: {rest:?}");
    }
}
