//! Items that go in a hurry, because their outcome is waited for, in a cluster of real processes and real servers that are
//! harmed on the way.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod mill_cluster;

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use mill_cluster::{Cluster, PATIENCE, breathe};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Asks for one item's outcome and waits for it, beside whatever the test does: the batch, and the outcome.
fn ask(cluster: &Cluster, task: &str, options: &Value, item: &Value) -> JoinHandle<(String, Value)> {
    tidemill_core::blobs::choose_cryptography();
    let url = format!("http://127.0.0.1:{}/v1/batches?wait=true", cluster.api_port);
    let retry = json!({"attempts": 3, "base": 1});
    let new = json!({"task": task, "options": options, "items": [item], "retry": retry, "timeout": 10_000}).to_string();
    thread::spawn(move || {
        let asking = async {
            let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(new);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 201);
            let location = answer.headers()["location"].to_str().unwrap().to_owned();
            let outcome = serde_json::from_str(answer.text().await.unwrap().trim()).unwrap();
            (location.rsplit_once('/').unwrap().1.to_owned(), outcome)
        };
        tokio::runtime::Runtime::new().unwrap().block_on(asking)
    })
}

fn mischief(cluster: &Cluster, deed: &Value) -> JoinHandle<(String, Value)> {
    ask(cluster, "test.mischief", &json!({}), deed)
}

/// An item that takes so long that nobody would guess it in somebody's hands.
fn long() -> Value {
    json!({"work": 2_500_000})
}

/// Waits until what a command says is as it should be.
fn until(cluster: &Cluster, arguments: &[&str], is_so: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let said: Value = serde_json::from_str(&cluster.until_ok(arguments)).unwrap();
        if is_so(&said) {
            return said;
        }
        assert!(started.elapsed() < PATIENCE, "{arguments:?} goes on to say {said}");
        breathe();
    }
}

/// A results API that hears what workers say, and a worker.
fn with_roles(cluster: &Cluster) -> [mill_cluster::Role; 2] {
    let roles = [cluster.api(), cluster.worker()];
    until_hurried(cluster);
    roles
}

/// Until a worker takes what goes in a hurry.
fn until_hurried(cluster: &Cluster) {
    until(cluster, &["workers", "--json"], |workers| !workers.as_array().unwrap().is_empty());
    let queues = || cluster.rabbit.control(&["list_queues", "name", "consumers"]);
    let started = Instant::now();
    while !queues().lines().any(|line| line.starts_with("tidemill.express.cpu\t") && !line.ends_with("\t0")) {
        assert!(started.elapsed() < PATIENCE, "no worker takes what is in a hurry: {}", queues());
        breathe();
    }
    let (batch, outcome) = mischief(cluster, &json!({"work": 1})).join().unwrap();
    assert_eq!(outcome["output"], 1);
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn an_item_that_takes_long_runs_once() {
    let Some(cluster) = Cluster::start() else { return };
    let _roles = with_roles(&cluster);
    let items = |workers: &Value| workers[0]["items"].as_u64().unwrap();
    let idle = |workers: &Value| workers[0]["held"] == 0;
    // What went before is told with the next heartbeat.
    let before = items(&until(&cluster, &["workers", "--json"], |workers| idle(workers) && items(workers) > 100));

    let (batch, outcome) = mischief(&cluster, &long()).join().unwrap();

    assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("ok"), &json!(1)));
    let after = until(&cluster, &["workers", "--json"], |workers| idle(workers) && items(workers) > before);
    assert_eq!(items(&after), before + 1);
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn an_item_whose_worker_ends_comes_by_another() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    let mut dies = cluster.role(&["worker"], &[("TIDEMILL_FAIL_AT", "worker.reply.before=1")]);
    // Whether the worker is heard of yet does not matter, but the API must listen.
    cluster.until_ok(&["status"]);
    let started = Instant::now();
    while dies.is_running() {
        assert!(started.elapsed() < PATIENCE, "it never comes to that point");
        let asked = mischief(&cluster, &json!({"work": 7}));
        while dies.is_running() && !asked.is_finished() {
            breathe();
        }
        if asked.is_finished() {
            // It was published for good, for API or worker did not hear yet.
            assert_eq!(asked.join().unwrap().1["output"], 7);
            continue;
        }
        let _other = cluster.worker();
        let (batch, outcome) = asked.join().unwrap();
        assert_eq!((&outcome["output"], &outcome["attempts"]), (&json!(7), &json!(1)));
        cluster.must_be_sound(&batch, 1);
    }
}

#[test]
fn an_item_that_ends_its_workers_is_found_out_all_the_same() {
    let Some(cluster) = Cluster::start() else { return };
    let [_api, mut worker] = with_roles(&cluster);

    let asked = mischief(&cluster, &json!("abort"));
    while !asked.is_finished() {
        if !worker.is_running() {
            worker.start(&cluster);
        }
        breathe();
    }

    let (batch, outcome) = asked.join().unwrap();
    assert_eq!((&outcome["status"], &outcome["error"]["kind"]), (&json!("dead"), &json!("crash")));
    if !worker.is_running() {
        worker.start(&cluster);
    }
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn an_attempt_that_fails_is_made_again_as_often_as_was_asked() {
    let Some(cluster) = Cluster::start() else { return };
    let _roles = with_roles(&cluster);

    let (batch, outcome) = mischief(&cluster, &json!("fail_again")).join().unwrap();

    assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("failed"), &json!(3)));
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn an_item_that_never_returns_is_dead_as_every_other() {
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster.with("TIDEMILL__WORKER__STUCK_AFTER", "300ms").with("TIDEMILL__WORKER__GRACE", "5s");
    let _roles = with_roles(&cluster);

    let (batch, outcome) = mischief(&cluster, &json!("never_return")).join().unwrap();

    assert_eq!((&outcome["status"], &outcome["error"]["kind"]), (&json!("dead"), &json!("stuck")));
    // Nobody has run it again.
    assert_eq!(outcome["attempts"], 1);
    let books = String::from_utf8(cluster.run(&["verify", &batch]).stdout).unwrap();
    assert!(books.contains("duplicates  0 suppressed"), "{books}");
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn an_item_that_is_too_long_to_go_in_a_hurry_comes_as_every_other() {
    let Some(cluster) = Cluster::start() else { return };
    let _roles = with_roles(&cluster);
    let long = "x".repeat(300_000);

    let (batch, outcome) = ask(&cluster, "text.count", &json!({"word": "x"}), &json!(long)).join().unwrap();

    assert_eq!(outcome["status"], "ok");
    assert!(outcome["input"] == long, "its outcome repeats it");
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn whoever_asks_before_there_is_a_worker_is_answered_by_the_first() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    cluster.until_ok(&["workers"]);

    let asked = mischief(&cluster, &json!({"work": 7}));
    until(&cluster, &["status", "--json"], |batches| batches[0]["progress"]["total"] == 1);
    let _worker = cluster.worker();

    let (batch, outcome) = asked.join().unwrap();
    assert_eq!(outcome["output"], 7);
    cluster.must_be_sound(&batch, 1);
}

/// Asks for a long item and goes away when it is under way; gives its batch.
fn ask_and_go(cluster: &Cluster) -> String {
    let new = json!({"task": "test.mischief", "items": [long()]}).to_string();
    let mut caller = TcpStream::connect(("127.0.0.1", cluster.api_port)).unwrap();
    let head = "POST /v1/batches?wait=true HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    write!(caller, "{head}\r\ncontent-length: {}\r\n\r\n{new}", new.len()).unwrap();
    let begun = until(cluster, &["status", "--json"], |batches| {
        batches[0]["batch"]["task"] == "test.mischief" && batches[0]["completed"].is_null()
    });
    begun[0]["batch"]["id"].as_str().unwrap().to_owned()
}

#[test]
fn an_item_outlives_its_caller() {
    let Some(cluster) = Cluster::start() else { return };
    let _roles = with_roles(&cluster);

    let batch = ask_and_go(&cluster);

    assert_eq!(cluster.must_be_sound(&batch, 1)[0]["output"], 2_500_000);
}

#[test]
fn an_item_outlives_the_api_that_it_came_to() {
    let Some(cluster) = Cluster::start() else { return };
    let [mut api, _worker] = with_roles(&cluster);

    let batch = ask_and_go(&cluster);
    // Nothing else has the item, and nobody waits for it.
    api.signal(Signal::SIGTERM);
    assert_eq!(api.wait().code(), Some(0));
    api.start(&cluster);

    assert_eq!(cluster.must_be_sound(&batch, 1)[0]["output"], 2_500_000);
}

#[test]
fn an_item_under_way_outlives_its_only_worker_and_a_lost_connection() {
    for is_cut in [false, true] {
        let Some(cluster) = Cluster::start() else { return };
        let [_api, mut worker] = with_roles(&cluster);
        let asked = mischief(&cluster, &long());
        until(&cluster, &["workers", "--json"], |workers| workers[0]["held"] == 1);

        if is_cut {
            cluster.to_rabbit.cut();
        } else {
            worker.kill();
            worker.start(&cluster);
        }

        let (batch, outcome) = asked.join().unwrap();
        assert_eq!((&outcome["output"], &outcome["attempts"]), (&json!(2_500_000), &json!(1)));
        cluster.must_be_sound(&batch, 1);
    }
}
