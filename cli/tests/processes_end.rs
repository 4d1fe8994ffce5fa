//! No child of a task `process.*` outlives its item, whatever happens to that, and none leaves anything behind.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "processes/proc.rs"]
mod proc;
mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::compute::Pool;
use tidemill_core::task::{Job, Tools, raw};
use tidemill_tasks::House;
use tidemill_tasks::process::Program;
use tokio::sync::RwLock;

use self::proc::{Process, Resources, breathe, children_of, marked, send, until};
use self::support::tidemill;

/// Rows whose children are there for as long as a tick says, and how many of them at least.
const LONG: [(&str, usize); 3] = [("process.name", 2), ("process.background", 2), ("process.barrier", 2)];
/// Every row with each of its scenarios.
const ALL: [(&str, u64); 15] = [
    ("process.spawn", 3),
    ("process.name", 3),
    ("process.background", 3),
    ("process.kill", 3),
    ("process.subclass", 3),
    ("process.pool", 3),
    ("process.barrier", 3),
    ("process.start", 1),
    ("process.identity", 1),
    ("process.queue", 1),
    ("process.pipe", 1),
    ("process.lock", 1),
    ("process.shared", 1),
    ("process.manager", 1),
    ("process.many", 1),
];
/// How soon nothing is left.
const SOON: Duration = Duration::from_secs(1);
/// How long is waited for what must come some time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Plain `cargo test` runs all tests of this file in one process: whoever counts its children and what it holds has it
/// alone.
static PROCESS: RwLock<()> = RwLock::const_new(());

/// A task with options, in this process; its children are the real command's.
fn job(task: &str, options: &Value) -> Arc<dyn Job> {
    let children = Program::At(PathBuf::from(env!("CARGO_BIN_EXE_tidemill")));
    let register = tidemill_tasks::register(&House { children, ..House::default() });
    register.find(task).unwrap().prepare(&raw(options)).unwrap()
}

fn tools() -> Tools {
    let limits = FetchLimits { max_bytes: 1, timeout: Duration::from_secs(1) };
    Tools::new(Pool::new(1).unwrap(), Blobs::without_store(limits))
}

fn own_children() -> Vec<Process> {
    children_of(std::process::id())
}

/// The command, with a mark that its children inherit.
fn marked_run(mark: &str, arguments: &[&str]) -> Command {
    let mut command = tidemill(arguments);
    command.env("TIDEMILL_TEST_MARK", mark).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn mark(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[tokio::test]
async fn an_item_that_is_dropped_takes_its_children_along() {
    let _alone = PROCESS.write().await;
    for (task, count) in LONG {
        let item = job(task, &json!({"tick_ms": 60_000})).wait(&raw(&json!({})), tools()).running;
        let item = tokio::spawn(item);
        until(|| own_children().len() >= count, "the children begin").await;

        // What a cancelled batch and a timeout do.
        item.abort();
        assert!(item.await.unwrap_err().is_cancelled());

        let dropped = Instant::now();
        until(|| own_children().is_empty(), &format!("the children of {task} end, and are waited for")).await;
        assert!(dropped.elapsed() < SOON, "{task}: it took {:?}", dropped.elapsed());
    }
}

#[tokio::test]
async fn nothing_is_left_of_two_hundred_items() {
    let _alone = PROCESS.write().await;
    let rounds: Vec<(Arc<dyn Job>, u64)> =
        ALL.into_iter().map(|(task, scenarios)| (job(task, &json!({"tick_ms": 1})), scenarios)).collect();
    let play = async |n: u64| {
        let (job, scenarios) = &rounds[usize::try_from(n).unwrap() % rounds.len()];
        let item = job.wait(&raw(&json!({"scenario": 1 + n % scenarios})), tools()).running;
        if n % 7 == 3 {
            // Some do not come to their end.
            drop(tokio::time::timeout(Duration::from_millis(n % 20), item).await);
        } else {
            item.await.unwrap();
        }
    };
    // The runtime and the room have what they keep.
    play(0).await;
    until(|| own_children().is_empty(), "it ends").await;
    let before = Resources::now();

    for n in (0..200).step_by(4) {
        futures::join!(play(n), play(n + 1), play(n + 2), play(n + 3));
    }

    until(|| own_children().is_empty(), "the last ones end").await;
    // There may be less than before: a thread that was passing then has ended.
    let waiting = Instant::now();
    while !Resources::now().is_within(&before) {
        assert!(waiting.elapsed() < PATIENCE, "there was {before:?}, and there is {:?}", Resources::now());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_killed_command_takes_its_children_along() {
    let _beside_others = PROCESS.blocking_read();
    for (task, count) in LONG {
        let mark = mark("killed");
        let mut run = marked_run(&mark, &["run", task, "-o", "tick_ms=60000"]).spawn().unwrap();
        wait_until(|| marked(&mark).len() > count, "its children begin");

        run.kill().unwrap();
        run.wait().unwrap();

        let killed = Instant::now();
        wait_until(|| marked(&mark).is_empty(), &format!("the children of {task} end"));
        assert!(killed.elapsed() < SOON, "{task}: it took {:?}", killed.elapsed());
    }
}

#[test]
fn a_command_that_is_killed_at_any_moment_takes_its_children_along() {
    let _beside_others = PROCESS.blocking_read();
    let items: String =
        (0..200_usize).map(|n| format!("{}\n", json!({"scenario": 1 + n % 3, "tick_ms": n % 3}))).collect();
    for (n, (task, scenarios)) in ALL.into_iter().enumerate() {
        let mark = mark("any-moment");
        let items = if scenarios == 1 { "{}\n".repeat(200) } else { items.clone() };
        let mut run = marked_run(&mark, &["run", task, "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = run.stdin.take().unwrap();
        // It may be killed before it has read them all.
        let writing = std::thread::spawn(move || drop(std::io::Write::write_all(&mut input, items.as_bytes())));
        wait_until(|| marked(&mark).len() > 1, "its first children begin");
        let moment = Instant::now() + Duration::from_millis(n as u64 * 13 % 97);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }

        run.kill().unwrap();
        run.wait().unwrap();

        let killed = Instant::now();
        wait_until(|| marked(&mark).is_empty(), &format!("the children of {task} end"));
        assert!(killed.elapsed() < SOON, "{task}: it took {:?}", killed.elapsed());
        writing.join().unwrap();
    }
}

#[test]
fn a_child_that_is_stopped_ends_with_its_command_all_the_same() {
    let _beside_others = PROCESS.blocking_read();
    let mark = mark("stopped");
    let mut run = marked_run(&mark, &["run", "process.name", "-o", "tick_ms=60000"]).spawn().unwrap();
    let children = begun(&mark, 2);
    children.iter().for_each(|child| send(child.pid, Signal::SIGSTOP));
    wait_until(|| children.iter().all(Process::is_stopped), "they stop");

    run.kill().unwrap();
    run.wait().unwrap();

    wait_until(|| marked(&mark).is_empty(), "they end");
}

#[test]
fn an_interrupted_command_takes_its_children_along() {
    let _beside_others = PROCESS.blocking_read();
    for (task, count) in LONG {
        let mark = mark("interrupted");
        let mut run = marked_run(&mark, &["run", task, "-o", "tick_ms=60000"]).spawn().unwrap();
        wait_until(|| marked(&mark).len() > count, "its children begin");

        send(run.id(), Signal::SIGINT);

        assert_eq!(run.wait().unwrap().code(), Some(130));
        wait_until(|| marked(&mark).is_empty(), "its children end");
    }
}

#[test]
fn an_item_that_takes_too_long_fails_and_takes_its_children_along() {
    let _beside_others = PROCESS.blocking_read();
    let mark = mark("timeout");
    let mut run = marked_run(
        &mark,
        &[
            "run",
            "process.background",
            "1",
            "2",
            "3",
            "-o",
            "tick_ms=60000",
            "--timeout",
            "300ms",
            "--retries",
            "0",
            "-q",
        ],
    );
    let ended = run.stdout(Stdio::piped()).output().unwrap();

    let outcomes = String::from_utf8(ended.stdout).unwrap();
    let kinds: Vec<Value> =
        outcomes.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["error"]["kind"].clone()).collect();
    assert_eq!(kinds, ["timeout"; 3]);
    wait_until(|| marked(&mark).is_empty(), "its children end");
}

#[test]
fn a_child_that_somebody_kills_fails_its_item_for_a_reason_that_may_pass() {
    let _beside_others = PROCESS.blocking_read();
    let mark = mark("one-killed");
    let mut run = marked_run(&mark, &["run", "process.name", "-o", "tick_ms=60000", "--retries", "0"]);
    let run = run.stdout(Stdio::piped()).spawn().unwrap();

    send(begun(&mark, 2)[0].pid, Signal::SIGKILL);

    let ended = run.wait_with_output().unwrap();
    let outcome: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&outcome["status"], &outcome["error"]["kind"]), (&json!("failed"), &json!("child")), "{outcome}");
    assert_eq!(outcome["error"]["retryable"], true);
    assert!(outcome["error"]["message"].as_str().unwrap().contains("ended by itself with -9"), "{outcome}");
    wait_until(|| marked(&mark).is_empty(), "the other one ends too");
}

#[test]
fn the_hidden_word_by_hand_says_what_it_is() {
    let _beside_others = PROCESS.blocking_read();
    let ended = support::run(&["__child", "process.spawn", "Process-1"]);

    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("tidemill starts this by itself"), "{}", ended.stderr);
}

/// The children of a command, once there are so many. One that has been forked and has yet to become our child's
/// program still looks like the command itself: it is not counted.
fn begun(mark: &str, count: usize) -> Vec<Process> {
    let mut children = Vec::new();
    wait_until(
        || {
            children = marked(mark).into_iter().filter(Process::is_child).collect();
            children.len() == count
        },
        "its children begin",
    );
    children
}

/// Waits for something that other processes do.
fn wait_until(mut is_so: impl FnMut() -> bool, what: &str) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "it never comes that {what}");
        breathe();
    }
}
