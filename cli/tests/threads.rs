//! The exercises of threads through `tidemill run`.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{run, run_with_input, tidemill};

/// Well below a tick of a minute, however busy the machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn words_are_scenarios_and_options_hold_for_all_of_them() {
    let ended = run(&["run", "thread.define", "1", "2", "3", "-o", "threads=3", "-o", "tick_ms=0"]);

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.field("input"), [json!({"scenario": 1}), json!({"scenario": 2}), json!({"scenario": 3})]);
    let says = |order: [u64; 3]| Value::from(order.map(|i| format!("my_func called by thread N°{i}")).to_vec());
    let messages: Vec<Value> = ended.field("output").into_iter().map(|output| output["messages"].clone()).collect();
    assert_eq!(messages, [says([0, 1, 2]), says([1, 0, 2]), says([2, 1, 0])]);
}

#[test]
fn without_an_input_the_first_scenario_is_played_or_the_one_of_the_options() {
    let first = run(&["run", "thread.event", "-o", "tick_ms=0", "-o", "items=1"]);
    let second = run(&["run", "thread.event", "-o", "tick_ms=0", "-o", "items=1", "-o", "scenario=2"]);

    assert_eq!(first.lines()[0]["output"]["messages"].as_array().unwrap().len(), 2, "{}", first.stdout);
    assert_eq!(second.lines()[0]["output"]["messages"][0], "Consumer is waiting");
}

#[test]
fn what_an_exercise_does_not_take_is_refused_before_anything_starts() {
    for (option, reason) in [
        ("threads=-1", "threads: invalid value: integer `-1`, expected a whole number from 1 to 64"),
        (
            "tick_ms=1e9",
            "tick_ms: invalid type: floating point `1000000000.0`, expected a whole number from 0 to 60000",
        ),
        ("scenario=4", "scenario: invalid value: integer `4`, expected a whole number from 1 to 3"),
        ("tick=5", "did you mean tick_ms?"),
    ] {
        let ended = run(&["run", "thread.lock", "-o", option]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{option}");
        assert!(ended.stderr.contains(reason), "{option}: {}", ended.stderr);
    }
}

#[test]
fn exercises_over_their_timeout_fail_and_hold_nobody_up() {
    let begun = Instant::now();
    let ended =
        run(&["run", "thread.lock", "1", "2", "3", "-o", "tick_ms=60000", "--timeout", "100ms", "--retries", "0"]);

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.field("error").iter().all(|error| error["kind"] == "timeout"), "{}", ended.stdout);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn an_interrupt_ends_exercises_that_sleep() {
    let mut child = tidemill(&["run", "thread.subclass", "1", "2", "-o", "tick_ms=60000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Nine of the first scenario, one of the second.
    while exercising(child.id()) < 10 {
        assert!(child.try_wait().unwrap().is_none(), "it goes on");
        std::thread::yield_now();
    }
    let begun = Instant::now();

    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ended: support::Ended = child.wait_with_output().unwrap().into();

    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert_eq!(ended.field("status"), ["cancelled", "cancelled"]);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn however_many_items_there_are_their_threads_are_bounded() {
    let items = "{}\n".repeat(100);
    let (sender, receiver) = std::sync::mpsc::channel();
    let running = std::thread::spawn(move || {
        let command = ["run", "thread.subclass", "-", "-o", "threads=64", "-o", "tick_ms=10"];
        let mut child = tidemill(&command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        sender.send(child.id()).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), items.as_bytes()).unwrap();
        support::Ended::from(child.wait_with_output().unwrap())
    });
    let child = receiver.recv().unwrap();

    let mut most = 0;
    while !running.is_finished() {
        most = most.max(threads_of(child));
        std::thread::yield_now();
    }

    let ended = running.join().unwrap();
    assert_eq!(ended.field("status"), vec![json!("ok"); 100]);
    // 512 of items, those of the command itself, and some of items that have just ended.
    assert!((66..700).contains(&most), "{most} threads at once");
}

#[test]
fn the_table_lists_what_was_said_and_draws_who_ran_when() {
    let command = ["run", "thread.subclass", "-", "-o", "tick_ms=20", "-o", "threads=3", "--format", "table"];
    let ended = run_with_input(&command, "{}\n{\"scenario\":3}\n");

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let with = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(with(" messages in "), 2, "{}", ended.stdout);
    assert_eq!(with("---> Thread#1 over"), 2);
    assert_eq!(with("is there"), 1, "how to read it is said once");
    let begins = |name: &str| {
        let row = lines.iter().rfind(|line| line.trim_start().starts_with(name)).unwrap();
        row.chars().position(|character| character == '█').unwrap()
    };
    assert!(begins("Thread#3") < begins("Thread#2") && begins("Thread#2") < begins("Thread#1"), "{}", ended.stdout);
}

/// How many threads a process has now.
fn threads_of(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

/// How many of them are an exercise's own, by their names: the command has others.
fn exercising(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.starts_with("Thread#")).count()
}
