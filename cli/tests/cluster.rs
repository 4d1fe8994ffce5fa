//! The commands that ask a cluster, against a results API inside the test.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Ended, tidemill};
use tidemill_core::batch::{Batch, ItemIndex, unix_millis};
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::broker::{Heartbeat, NetworkWork};
use tidemill_core::failure::Failure;
use tidemill_core::notes::Note;
use tidemill_core::outcome::{Ending, Status};
use tidemill_core::store::{Shared as _, Store as _};
use tidemill_core::task::{Lane, raw};
use tidemill_results_api::http::{Access, Api};
use tidemill_results_api::testing::{InProcess, Server, dead, outcome};
use tidemill_testing::{Rabbit, Redis, or_skip};

/// How long anything may take before a test says that it never came.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something of which nobody tells.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs the command against the server, on a thread that may wait.
async fn ask(server: &Server, args: &[&str]) -> Ended {
    ask_with(&server.url, args, &[]).await
}

async fn ask_with(url: &str, args: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = tidemill(args);
    command.env("TIDEMILL__API__URL", url).envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

/// Starts it, to be talked to while it runs.
fn start(url: &str, args: &[&str]) -> Child {
    tidemill(args).env("TIDEMILL__API__URL", url).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The next line of a child's output.
async fn next_line<R: std::io::Read + Send + 'static>(mut reader: BufReader<R>) -> (String, BufReader<R>) {
    tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (line, reader)
    })
    .await
    .unwrap()
}

/// How it ends, and the rest of what it says.
async fn end<R: std::io::Read + Send + 'static>(child: Child, mut stdout: BufReader<R>) -> Ended {
    tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        let output = child.wait_with_output().unwrap();
        Ended { stdout: rest, ..output.into() }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_printed_as_they_are_and_the_exit_speaks_of_the_batch() {
    let server = Server::start().await;
    let batch = server.batch(Some(3), 0..3).await;

    let whole = ask(&server, &["results", batch.as_str()]).await;
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), ""));
    assert_eq!(whole.field("output"), [0, 10, 20].map(Value::from));

    let middle = ask(&server, &["results", batch.as_str(), "--from", "1", "--limit", "1"]).await;
    assert_eq!((middle.code, middle.field("index")), (Some(0), vec![1.into()]));

    let failed = server.batch(None, [0]).await;
    server.store.record(&failed, &[Arc::new(dead(1))]).await.unwrap();
    server.store.seal(&failed, 2).await.unwrap();
    let some = ask(&server, &["results", failed.as_str()]).await;
    assert_eq!((some.code, some.lines().len()), (Some(5), 2));
    assert!(some.stderr.starts_with("1 ok, 1 dead in "), "{}", some.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_complete_is_read_so_far_and_that_is_said() {
    let server = Server::start().await;
    let batch = server.batch(Some(5), [0, 1, 3]).await;
    let ended = ask(&server, &["results", batch.as_str()]).await;
    assert_eq!((ended.code, ended.lines().len()), (Some(5), 2));
    assert_eq!(ended.stderr, "so far 3 ok (of 5); --follow waits for the rest\n");
    let landed = ask(&server, &["results", batch.as_str(), "--order", "completion", "--quiet"]).await;
    assert_eq!((landed.stderr.as_str(), landed.field("index")), ("", [0, 1, 3].map(Value::from).to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_formats_are_made_of_the_same_lines() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), 0..2).await;
    let csv = ask(&server, &["results", batch.as_str(), "--format", "csv"]).await.stdout;
    assert_eq!(csv.lines().nth(2), Some("1,1,ok,10,,,1,w,cpu,0.005,0.007"));
    let json: Value =
        serde_json::from_str(&ask(&server, &["results", batch.as_str(), "--format", "json"]).await.stdout).unwrap();
    assert_eq!(json[1]["output"], 10);
    let table = ask(&server, &["results", batch.as_str(), "--format", "table"]).await.stdout;
    assert!(table.lines().nth(2).is_some_and(|row| row.contains("ok") && row.ends_with("10")), "{table}");
}

/// Starts the API again where another one was.
async fn start_again(store: &Arc<InProcess>, address: &str) -> Server {
    let until = Instant::now() + PATIENCE;
    loop {
        // The old one's port is free once its last connection has ended, of which nobody tells.
        let (store, address) = (Arc::clone(store), address.to_owned());
        let started = tokio::spawn(async move { Server::start_over(store, &address, |api| api).await });
        match started.await {
            Ok(server) => return server,
            Err(error) => assert!(Instant::now() < until, "it cannot start again: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_outlives_the_results_api_and_repeats_and_loses_nothing() {
    let server = Server::start().await;
    let batch = server.batch(None, 0..2).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut child = start(&server.url, &["results", batch.as_str(), "--follow"]);
    let (first, stdout) = next_line(BufReader::new(child.stdout.take().unwrap())).await;
    assert!(first.starts_with("{\"index\":0,"), "{first}");

    let store = Arc::clone(&server.store);
    drop(server);
    let (away, stderr) = next_line(BufReader::new(child.stderr.take().unwrap())).await;
    assert!(away.starts_with(&format!("cannot reach the results API at http://{address}: ")), "{away}");
    assert!(away.ends_with("; waiting for it\n"), "{away}");

    let server = start_again(&store, &address).await;
    let (back, _stderr) = next_line(stderr).await;
    assert_eq!(back, "the results API is back\n");
    server.record(&batch, 2..4).await;
    server.store.seal(&batch, 4).await.unwrap();

    let ended = end(child, stdout).await;
    assert_eq!((ended.code, ended.field("index")), (Some(0), [1, 2, 3].map(Value::from).to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_follower_at_once_and_says_how_to_come_back() {
    let server = Server::start().await;
    let batch = server.batch(None, 0..2).await;
    let mut child = start(&server.url, &["results", batch.as_str(), "--follow"]);
    let (_, stdout) = next_line(BufReader::new(child.stdout.take().unwrap())).await;
    let (_, stdout) = next_line(stdout).await;

    interrupt(&child);

    let ended = end(child, stdout).await;
    assert_eq!(ended.code, Some(130));
    // It may be interrupted between printing lines and knowing that it has: then it would rather repeat than leave out.
    let hint = ended.stderr.split_once(&format!("`tidemill results {batch} --follow --from ")).unwrap().1;
    let place: u64 = hint.split('`').next().unwrap().parse().unwrap();
    assert!(place <= 2, "{}", ended.stderr);
    assert!(!server.store.progress(&batch).await.unwrap().cancelled);

    // Whoever comes back as it says gets all that is left.
    server.record(&batch, 2..4).await;
    server.store.seal(&batch, 4).await.unwrap();
    let back = ask(&server, &["results", batch.as_str(), "--follow", "--from", &place.to_string()]).await;
    assert_eq!((back.code, back.field("index")), (Some(0), (place..4).map(Value::from).collect::<Vec<_>>()));
}

fn interrupt(child: &Child) {
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_lists_shows_and_watches() {
    let server = Server::start().await;
    assert!(ask(&server, &["status"]).await.stdout.starts_with("no batches"));
    assert_eq!(ask(&server, &["status", "--limit", "0"]).await.stdout, "");
    let batch = server.batch(Some(4), 0..3).await;

    let listed = ask(&server, &["status"]).await.stdout;
    assert!(
        listed.lines().nth(1).unwrap().starts_with(&format!("{batch}  compute.map  running  3 of 4, 75 %  0")),
        "{listed}"
    );
    let shown = ask(&server, &["status", batch.as_str()]).await.stdout;
    assert!(shown.contains("  state     running\n  items     3 of 4, 75 %\n  outcomes  3 ok\n"), "{shown}");
    let json: Value = serde_json::from_str(&ask(&server, &["status", batch.as_str(), "--json"]).await.stdout).unwrap();
    assert_eq!(json["progress"]["total"], 4);

    let mut child = start(&server.url, &["status", batch.as_str(), "--watch"]);
    let (first, stdout) = next_line(BufReader::new(child.stdout.take().unwrap())).await;
    assert_eq!(first, "running  3 of 4, 75 %  3 ok\n");
    server.record(&batch, [3]).await;
    let ended = end(child, stdout).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "complete  4  4 ok\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_outlives_the_results_api() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), [0]).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut child = start(&server.url, &["status", batch.as_str(), "--watch"]);
    let (first, stdout) = next_line(BufReader::new(child.stdout.take().unwrap())).await;
    assert_eq!(first, "running  1 of 2, 50 %  1 ok\n");

    let store = Arc::clone(&server.store);
    drop(server);
    let (away, stderr) = next_line(BufReader::new(child.stderr.take().unwrap())).await;
    assert!(away.ends_with("; waiting for it\n"), "{away}");

    let server = start_again(&store, &address).await;
    let (back, _stderr) = next_line(stderr).await;
    assert_eq!(back, "the results API is back\n");
    server.record(&batch, [1]).await;

    let ended = end(child, stdout).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "complete  2  2 ok\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_results_api_that_never_answers_holds_no_submission_beyond_its_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());

    let submit = ["submit", "compute.map", "1", "-o", "expr=x", "--idempotency-key", "k", "--deadline", "500ms"];
    let ended = ask_with(&url, &submit, &[]).await;

    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let why = format!("error: the deadline is over, and the results API at {url} has not answered\n");
    assert!(ended.stderr.starts_with(&why) && ended.stderr.contains("hint: nothing was sent"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_submission_that_waits_for_the_results_api() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    // A deadline that no clock can tell is none.
    let deadline = "500000000000y";
    let submit = ["submit", "compute.map", "1", "-o", "expr=x", "--idempotency-key", "k", "--deadline", deadline];
    let mut child = start(&url, &submit);
    let asked = tokio::task::spawn_blocking(move || silent.accept().unwrap()).await.unwrap();

    interrupt(&child);

    let stdout = BufReader::new(child.stdout.take().unwrap());
    let ended = end(child, stdout).await;
    drop(asked);
    let said = "nothing was sent; the same command again sends it\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(130), said));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_says_where_the_batch_stands() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), [0]).await;
    let ended = ask(&server, &["cancel", batch.as_str()]).await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.starts_with(&format!("{batch} is being cancelled, so far 1 ok")), "{}", ended.stdout);

    server.store.record(&batch, &[Arc::new(outcome(1, Ending::Cancelled))]).await.unwrap();
    let ended = ask(&server, &["cancel", batch.as_str()]).await;
    assert_eq!(ended.stdout, format!("{batch} is cancelled: 1 ok, 1 cancelled\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_prints_the_books_and_exits_by_them() {
    let server = Server::start().await;
    let batch = server.batch(Some(9), [0, 1, 5]).await;
    let ended = ask(&server, &["verify", batch.as_str()]).await;
    assert_eq!(ended.code, Some(5));
    insta::assert_snapshot!(ended.stdout.replace(batch.as_str(), "BATCH"), @r"
    BATCH
      submitted   9 ≠ 3 ok + 0 failed + 0 dead + 0 cancelled + 0 expired
      duplicates  0 suppressed
      missing     6: 2..5, 6..9
      the books do not balance, or not yet
    ");

    server.record(&batch, 0..9).await;
    let ended = ask(&server, &["verify", batch.as_str()]).await;
    assert_eq!(ended.code, Some(0));
    insta::assert_snapshot!(ended.stdout.replace(batch.as_str(), "BATCH"), @r"
    BATCH
      submitted   9 = 9 ok + 0 failed + 0 dead + 0 cancelled + 0 expired
      duplicates  3 suppressed
      missing     0
      the books balance
    ");
    let json: Value = serde_json::from_str(&ask(&server, &["verify", batch.as_str(), "--json"]).await.stdout).unwrap();
    assert_eq!((&json["balanced"], &json["books"]["duplicates"]), (&true.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_listed_and_shown() {
    let server = Server::start().await;
    let batch = server.batch(Some(2), [0]).await;
    server.store.record(&batch, &[Arc::new(dead(1))]).await.unwrap();

    let listed = ask(&server, &["dead", "list"]).await.stdout;
    assert!(listed.contains(&format!("{batch}:1  compute.map  its worker ended with signal 9")), "{listed}");
    let shown = ask(&server, &["dead", "show", &format!("{batch}:1")]).await.stdout;
    assert!(shown.contains("  input  1\n"), "{shown}");
    let none = ask(&server, &["dead", "show", &format!("{batch}:0")]).await;
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains(&format!("item 0 of batch {batch} is not dead")), "{}", none.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dead_have_said_moves_no_cursor() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    let failure = Failure::permanent("crash", "it said \u{1b}[2J\nand \u{9b}2J");
    let mut dead = outcome(0, Ending::Dead(failure));
    dead.input = raw("grist\u{9b}2J");
    server.store.record(&batch, &[Arc::new(dead)]).await.unwrap();

    let shown = ask(&server, &["dead", "show", batch.as_str()]).await.stdout;

    assert!(shown.contains("  ended  crash: it said  [2J and  2J\n  input  \"grist 2J\"\n"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_item_is_shown_however_many_come_before_it() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    let many: Vec<_> = (0..10_001).map(dead).map(Arc::new).collect();
    server.store.record(&batch, &many).await.unwrap();
    let last = format!("{batch}:10000");

    let shown = ask(&server, &["dead", "show", &last]).await;
    assert!(shown.stdout.contains("  input  10000\n"), "{}{}", shown.stdout, shown.stderr);

    let replayed = ask(&server, &["dead", "replay", &last]).await;
    assert_eq!(replayed.code, Some(2));
    let said = format!("item 10000 of batch {batch} is dead, and none of the first, which can be run again");
    assert!(replayed.stderr.contains(&said), "{}", replayed.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_again_from_here_is_not_taken_back() {
    let server = Server::start().await;
    for (task, expression, problem) in [
        ("no.such", "x", "no task is called \"no.such\" here"),
        ("compute.map", "(", "its options are not valid here: "),
    ] {
        let options = raw(&serde_json::json!({ "expr": expression }));
        let batch = Batch { task: task.into(), options, ..tidemill_results_api::testing::batch() };
        server.store.open(&batch).await.unwrap();
        server.store.record(&batch.id, &[Arc::new(dead(0))]).await.unwrap();

        let replayed = ask(&server, &["dead", "replay", batch.id.as_str()]).await;

        assert_eq!(replayed.code, Some(3), "{}", replayed.stderr);
        assert!(replayed.stderr.contains(problem), "{}", replayed.stderr);
        assert_eq!(server.store.progress(&batch.id).await.unwrap().count(Status::Dead), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed() {
    let server = Server::start().await;
    let batch = server.batch(Some(9), []).await;
    let heartbeat = Heartbeat {
        name: "mill-1".into(),
        // One that was silent for three times as long as it said is not listed.
        at: unix_millis(),
        every: 60_000,
        lanes: vec![Lane::Cpu, Lane::Vision],
        threads: 8,
        memory_bytes: 16 << 30,
        held: 3,
        items: 12_345,
        networks: vec![NetworkWork {
            model: "efficientnet-lite0".into(),
            device: "cpu".into(),
            precision: "bf16".into(),
            items: 790,
            failures: 10,
            executions: 100,
            queue_ms: 1600,
            input_ms: 2000,
            compute_ms: 6750,
            output_ms: 5,
        }],
        notes: vec![Note { batch: batch.clone(), index: ItemIndex(7), text: "epoch 3 of\u{1b}[2J 30".into() }],
        ..Heartbeat::default()
    };
    server.store.beat(&[heartbeat]).await.unwrap();
    let listed = ask(&server, &["workers"]).await.stdout;
    assert!(listed.contains("mill-1  cpu vision  8        16GiB"), "{listed}");
    let parts: Vec<&str> = listed.split("\n\n").collect();
    let columns: Vec<&str> = parts[1].lines().last().unwrap().split_whitespace().collect();
    let expected = ["mill-1", "efficientnet-lite0", "cpu", "bf16", "790", "10", "8.0", "2.0", "2.5", "67.5", "0.1"];
    assert_eq!(columns, expected, "{listed}");
    assert!(parts[2].ends_with(&format!("mill-1  {batch}  7     epoch 3 of [2J 30\n")), "{listed}");
    let json: Value = serde_json::from_str(&ask(&server, &["workers", "--json"]).await.stdout).unwrap();
    assert_eq!(json[0]["items"], 12_345);
    assert_eq!(json[0]["networks"][0]["executions"], 100);
    assert_eq!(json[0]["notes"][0]["index"], 7);

    // Whoever asks for a batch is told of its own items.
    let shown = ask(&server, &["status", batch.as_str()]).await.stdout;
    assert!(shown.ends_with("  at work   item 7 on mill-1: epoch 3 of [2J 30\n"), "{shown}");
    let other = server.batch(Some(1), []).await;
    assert!(!ask(&server, &["status", other.as_str()]).await.stdout.contains("at work"));
    let mut child = start(&server.url, &["results", batch.as_str(), "--follow"]);
    let (line, _) = next_line(BufReader::new(child.stderr.take().unwrap())).await;
    assert_eq!(line, "item 7 on mill-1: epoch 3 of [2J 30\n");
    server.record(&batch, 0..9).await;
    let stdout = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(end(child, stdout).await.stdout.lines().count(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_has_its_words_and_its_exit() {
    let nobody = ask_with("http://127.0.0.1:1", &["status"], &[]).await;
    assert_eq!(nobody.code, Some(4));
    assert!(
        nobody.stderr.starts_with("error: cannot reach the results API at http://127.0.0.1:1: "),
        "{}",
        nobody.stderr
    );
    assert!(nobody.stderr.contains("hint: api.url says where it is"), "{}", nobody.stderr);

    let server = Server::start_with(|api| Api {
        access: Access { token: Some("a-secret".parse().unwrap()), ..Access::default() },
        ..api
    })
    .await;
    let stranger = ask(&server, &["status"]).await;
    assert_eq!(stranger.code, Some(3));
    assert!(stranger.stderr.contains("a token is needed"), "{}", stranger.stderr);
    let known = ask_with(&server.url, &["status"], &[("TIDEMILL__API__TOKEN", "a-secret")]).await;
    assert_eq!(known.code, Some(0), "{}", known.stderr);

    let server = Server::start().await;
    let unknown = ask(&server, &["results", "0197c2a4", "--follow"]).await;
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("no batch 0197c2a4 is known; it may have expired"), "{}", unknown.stderr);
    server.store.set_away(true);
    let away = ask(&server, &["verify", "0197c2a4"]).await;
    assert_eq!(away.code, Some(4));
    assert!(away.stderr.contains("the store cannot be reached now"), "{}", away.stderr);
    assert_eq!(ask(&server, &["status", "a/b"]).await.code, Some(2));
}

/// Whether a line says that, and how many milliseconds it took, and nothing else.
fn says_how_quickly(told: &str, well: &str) -> bool {
    let took = |line: &str| line.strip_prefix(well)?.strip_prefix(" (")?.strip_suffix(" ms)")?.parse::<f64>().ok();
    told.lines().any(|line| took(line.trim_start()).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_of_a_cluster_can_be_reached() {
    let server = Server::start().await;
    let port = server.url.rsplit_once(':').unwrap().1.to_owned();
    let listening = format!("amqp://user:secret@127.0.0.1:{port}");
    let broker = ("TIDEMILL__BROKER__URL", listening.as_str());
    let told = ask_with(&server.url, &["doctor"], &[broker]).await;
    for well in [format!("✔ RabbitMQ listens at 127.0.0.1:{port}"), format!("✔ the results API answers at {server}")]
    {
        assert!(says_how_quickly(&told.stdout, &well), "{well}: {}", told.stdout);
    }

    server.batch(None, []).await;
    server.store.set_away(true);
    let told = ask_with(&server.url, &["doctor"], &[("TIDEMILL__STORE__URL", "redis://127.0.0.1:1")]).await;
    assert!(told.stdout.contains("✖ Redis cannot be reached at 127.0.0.1:1: "), "{}", told.stdout);
    assert!(
        told.stdout.contains(&format!("✖ the results API at {server}: the store cannot be reached")),
        "{}",
        told.stdout
    );
    assert!(!told.stdout.contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_whether_broker_and_store_let_us_in() {
    let Some(rabbit) = or_skip(Rabbit::shared()) else { return };
    let Some(redis) = or_skip(Redis::shared()) else { return };
    let server = Server::start().await;
    let doctor = async |user: &str, password: &str| {
        let broker = format!("amqp://{user}@127.0.0.1:{}", rabbit.port());
        let store = format!("redis://{password}127.0.0.1:{}", redis.port());
        let prefix = ("TIDEMILL__BROKER__PREFIX", "doctor");
        let urls = [("TIDEMILL__BROKER__URL", &*broker), ("TIDEMILL__STORE__URL", &*store), prefix];
        ask_with(&server.url, &["doctor"], &urls).await.stdout
    };

    let told = doctor("guest:guest", "").await;
    for well in ["✔ RabbitMQ lets us in", "✔ Redis lets us in"] {
        assert!(says_how_quickly(&told, well), "{told}");
    }

    let told = doctor("guest:secret", ":secret@").await;
    assert!(told.contains("✖ ") && told.contains("broker.url and broker.password say who we are"), "{told}");
    assert!(told.contains("✖ Redis takes nothing from us: "), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_fetched_with_their_folders_and_one_that_is_gone_is_a_failure() {
    let limits = FetchLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(5) };
    let blobs = Blobs::at(&"memory://".parse().unwrap(), limits, None).unwrap();
    let server = Server::start_with(|api| Api { blobs: Some(blobs.clone()), ..api }).await;
    let batch = server.batch(None, []).await;
    let there = blobs.put(b"flour".to_vec(), "image/png", "png").await.unwrap();
    let gone = BlobRef { blob: format!("sha256:{}", "0".repeat(64)), ..there.clone() };
    for (index, blob) in [(0, &there), (1, &there), (2, &gone)] {
        let output = raw(&serde_json::json!({ "image": blob }));
        server.store.record(&batch, &[Arc::new(outcome(index, Ending::Ok(output)))]).await.unwrap();
    }
    server.store.seal(&batch, 3).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().to_str().unwrap();

    let ended = ask(&server, &["results", batch.as_str(), "--download", folder]).await;

    let lines = ended.lines();
    assert_eq!(lines[0]["output"]["image"]["file"], format!("{folder}/folder/0.png"), "{}", ended.stderr);
    assert_eq!(std::fs::read(out.path().join("folder/0.png")).unwrap(), b"flour");
    assert_eq!(std::fs::read(out.path().join("folder/1.png")).unwrap(), b"flour");
    assert_eq!(lines[2]["error"]["kind"], "not_found");
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["folder"]);
}
