//! What the roles of a cluster say of themselves, and how they end: real processes and real servers.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod mill_cluster;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tidemill_testing::free_port;

use self::mill_cluster::{Cluster, PATIENCE, breathe};

/// Waits until there is something to be seen.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "it never comes that {what}");
        breathe();
    }
}

/// The workers that are known.
fn workers(cluster: &Cluster) -> Vec<Value> {
    serde_json::from_str(&cluster.until_ok(&["workers", "--json"])).unwrap()
}

/// The next request to a server, which waits for its answer.
fn asked(server: &TcpListener) -> TcpStream {
    let (stream, _) = server.accept().unwrap();
    // What is not read would be taken for a broken connection when it is closed.
    let head = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    assert!(head.take_while(|line| !line.is_empty()).count() > 0);
    stream
}

#[test]
fn a_second_signal_ends_a_worker_at_once_and_its_item_is_done_elsewhere() {
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster
        .with("TIDEMILL__WORKER__GRACE", "1h")
        .with("TIDEMILL__FETCH__TIMEOUT", "10m")
        .with("TIDEMILL__NET__ALLOW_PRIVATE", "127.0.0.3");
    let _api = cluster.api();
    let mut leaving = cluster.worker();
    // An item lasts as long as this does not answer.
    let slow = TcpListener::bind("127.0.0.3:0").unwrap();
    let url = format!("http://{}/page", slow.local_addr().unwrap());
    let items = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(items.path(), format!("{}\n", json!({"path": url}))).unwrap();
    let path = items.path().to_str().unwrap();
    let batch = cluster.until_ok(&["submit", "text.count", "--items", path, "-o", "word=flour", "-q"]);
    let unanswered = asked(&slow);

    leaving.signal(Signal::SIGTERM);
    until("it takes nothing new", || {
        workers(&cluster).iter().any(|worker| worker["is_stopping"] == true).then_some(())
    });
    assert!(leaving.is_running(), "it has an hour for what it holds");
    let told = Instant::now();
    leaving.signal(Signal::SIGTERM);
    let ended = leaving.wait();

    assert_eq!(ended.code(), Some(130));
    assert!(told.elapsed() < Duration::from_secs(10), "it took {:?}", told.elapsed());
    drop(unanswered);
    let _staying = cluster.worker();
    let page = "flour and more flour";
    let mut again = asked(&slow);
    write!(again, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}", page.len()).unwrap();
    let outcomes = cluster.must_be_sound(batch.trim(), 1);
    let outcome = &outcomes[0];
    assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("ok"), &json!(1)), "{outcome}");
    assert_eq!(outcome["output"]["count"], 2);
}

#[test]
fn a_worker_says_what_it_is_and_says_good_bye() {
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster.with("TIDEMILL__WORKER__THREADS", "3");
    let _api = cluster.api();
    let mut worker = cluster.worker();

    let said = until("it is known", || workers(&cluster).pop());

    let name = said["name"].as_str().unwrap();
    assert!(name.ends_with(&format!("-{}", worker.pid())), "{name}");
    let facts = ["version", "threads", "lanes", "devices", "models", "every", "held", "is_stopping"];
    let facts = facts.map(|fact| said[fact].clone());
    let version = json!(env!("CARGO_PKG_VERSION"));
    let lanes = json!(["cpu", "wait", "process"]);
    let (threads, every) = (json!(3), json!(500));
    assert_eq!(facts, [version, threads, lanes, json!(["cpu"]), json!([]), every, json!(0), json!(false)], "{said}");
    assert!(said["memory_bytes"].as_u64().unwrap() > 64 << 20, "{said}");
    assert!(said["started"].as_u64().unwrap() <= said["at"].as_u64().unwrap(), "{said}");

    let batch = cluster.until_ok(&["submit", "compute.map", "--range", "0..7", "-o", "expr=x", "-q"]);
    cluster.must_be_sound(batch.trim(), 7);
    // And those of the fresh batch.
    until("it says what it has done", || workers(&cluster).iter().any(|worker| worker["items"] == 107).then_some(()));
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait().success());
    until("nobody is left", || workers(&cluster).is_empty().then_some(()));
}

/// With what status a path is answered; `None` where nobody listens.
fn status(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_worker_is_ready_while_its_broker_is_there_and_lives_all_the_time() {
    let Some(mut cluster) = Cluster::start() else { return };
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    cluster.rabbit.kill();
    let mut worker = cluster.role(&["worker", "--listen", &listen], &[]);

    let lives = until("it answers", || status(port, "/healthz"));
    assert_eq!((lives, status(port, "/readyz")), (200, Some(503)), "its broker has never been there");

    cluster.rabbit.start();
    until("it is ready", || (status(port, "/readyz") == Some(200)).then_some(()));

    cluster.rabbit.kill();
    until("it is not ready any more", || (status(port, "/readyz") == Some(503)).then_some(()));
    assert_eq!(status(port, "/healthz"), Some(200));

    cluster.rabbit.start();
    until("it is ready again", || (status(port, "/readyz") == Some(200)).then_some(()));
    assert!(worker.is_running());
}
