//! `submit --wait` in a cluster of real processes and real servers, whose inputs come bit by bit.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod mill_cluster;

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tidemill_core::outcome::Status;

use self::mill_cluster::{Cluster, PATIENCE, Role, breathe, count};

const SUBMIT: [&str; 6] = ["submit", "compute.map", "-", "-o", "expr=10*x", "--wait"];

fn cluster() -> Option<(Cluster, [Role; 2])> {
    cluster_with(|cluster| cluster)
}

fn cluster_with(settings: impl FnOnce(Cluster) -> Cluster) -> Option<(Cluster, [Role; 2])> {
    let cluster = settings(Cluster::start()?);
    let roles = [cluster.api(), cluster.worker()];
    cluster.until_ok(&["workers"]);
    Some((cluster, roles))
}

/// A submission that is given its inputs one by one, and whose outcomes come back meanwhile.
struct Talk {
    child: Child,
    inputs: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

impl Talk {
    fn start(cluster: &Cluster, more: &[&str]) -> Self {
        let mut command = cluster.command(&[&SUBMIT[..], more].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (inputs, outcomes) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, inputs, outcomes }
    }

    /// What becomes of an input, while the batch is still open.
    fn ask(&mut self, input: impl Display) -> Value {
        writeln!(self.inputs, "{input}").unwrap();
        let mut line = String::new();
        self.outcomes.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The exit code, and what it has said besides outcomes that were read.
    fn end(self) -> (Option<i32>, String, String) {
        let Self { child, inputs, mut outcomes } = self;
        drop(inputs);
        let mut rest = String::new();
        outcomes.read_to_string(&mut rest).unwrap();
        let ended = child.wait_with_output().unwrap();
        (ended.status.code(), rest, String::from_utf8(ended.stderr).unwrap())
    }
}

/// It is said first; the worker may not be known yet, which is said too.
fn batch_of(said: &str) -> &str {
    said.lines().next().unwrap().strip_prefix("batch ").unwrap()
}

#[test]
fn what_is_refused_is_told_though_nothing_is_accepted_yet() {
    let Some((cluster, _roles)) = cluster() else { return };

    let mut talk = Talk::start(&cluster, &[]);
    let refused = talk.ask(r#""no number""#);
    let (code, rest, said) = talk.end();

    assert_eq!((&refused["index"], &refused["status"]), (&0.into(), &"failed".into()));
    assert_eq!((code, rest.as_str()), (Some(5), ""), "{said}");
    cluster.must_be_sound(batch_of(&said), 1);
}

#[test]
fn a_deadline_ends_it_though_nobody_reads_what_it_prints() {
    let Some((cluster, _roles)) = cluster() else { return };

    let mut talk = Talk::start(&cluster, &["--deadline", "3s"]);
    // Ten times as much as a pipe takes.
    for input in 0..5000 {
        writeln!(talk.inputs, "{input}").unwrap();
    }
    let since = Instant::now();
    let ended = loop {
        if let Some(ended) = talk.child.try_wait().unwrap() {
            break ended;
        }
        assert!(since.elapsed() < PATIENCE, "it does not end");
        breathe();
    };

    let (_, _, said) = talk.end();
    assert_eq!(ended.code(), Some(4), "{said}");
    assert!(said.contains("the deadline is over"), "{said}");
}

#[test]
fn outcomes_come_while_inputs_are_still_to_come() {
    let Some((cluster, _roles)) = cluster() else { return };

    let mut talk = Talk::start(&cluster, &[]);
    for input in 0..5 {
        let outcome = talk.ask(input);
        assert_eq!((&outcome["index"], &outcome["output"]), (&input.into(), &(10 * input).into()));
    }
    let (code, rest, said) = talk.end();

    assert_eq!((code, rest.as_str()), (Some(0), ""), "{said}");
    cluster.must_be_sound(batch_of(&said), 5);
}

#[test]
fn an_interrupt_between_two_inputs_says_how_to_go_on_and_that_goes_on() {
    let Some((cluster, _roles)) = cluster() else { return };

    let mut talk = Talk::start(&cluster, &[]);
    assert_eq!(talk.ask(0)["output"], 0);
    assert_eq!(talk.ask(1)["output"], 10);
    kill(Pid::from_raw(talk.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ended = talk.child.wait().unwrap();
    let (_, _, said) = talk.end();

    assert_eq!(ended.code(), Some(130), "{said}");
    let batch = batch_of(&said);
    let how = said.lines().last().unwrap();
    // Of the second it may not know yet, though its outcome is there.
    assert!(how.starts_with("accepted: the first ") && how.contains("; not accepted: the rest."), "{said}");
    assert!(how.contains(&format!("`--resume {batch}`")), "{said}");

    let mut again = Talk::start(&cluster, &["--resume", batch]);
    for input in 0..3 {
        writeln!(again.inputs, "{input}").unwrap();
    }
    let (code, outcomes, said) = again.end();
    assert_eq!((code, outcomes.lines().count()), (Some(0), 3), "{said}");
    cluster.must_be_sound(batch, 3);
}

#[test]
fn a_submission_whose_batch_is_cancelled_ends_though_more_inputs_may_come() {
    let Some((cluster, _roles)) = cluster() else { return };
    let mut talk = Talk::start(&cluster, &[]);
    assert_eq!(talk.ask(0)["output"], 0);
    let listed: Value = serde_json::from_str(&cluster.until_ok(&["status", "--json"])).unwrap();
    let batch = listed[0]["batch"]["id"].as_str().unwrap().to_owned();

    cluster.until_ok(&["cancel", &batch]);
    let ended = talk.child.wait().unwrap();
    let (_, _, said) = talk.end();

    assert_eq!(ended.code(), Some(5), "{said}");
    assert!(said.contains(&format!("batch {batch} was cancelled: it ends with the 1 items that were sent")), "{said}");
    cluster.must_be_sound(&batch, 1);
}

#[test]
fn a_text_is_no_file_and_a_file_is_brought_to_the_workers() {
    let home = tempfile::tempdir().unwrap();
    let blobs = format!("file://{}", home.path().join("blobs").display());
    let Some((cluster, _roles)) = cluster_with(|cluster| cluster.with("TIDEMILL__BLOBS__URL", &blobs)) else { return };
    // A text may be called what a file is called.
    let (file, text) = (home.path().join("lorem"), home.path().join("lorem").display().to_string());
    std::fs::write(&file, "lorem lorem lorem").unwrap();

    let submit = |arguments: &[&str], lines: &str| {
        let arguments =
            [&["submit", "text.count", "-o", "word=lorem", "--wait", "--format", "ndjson"], arguments].concat();
        let mut command = cluster.command(&arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        output
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["output"]["count"].clone())
            .collect::<Vec<_>>()
    };

    let inputs = serde_json::json!(["lorem ipsum lorem", text, {"path": file}]);
    let lines: String = inputs.as_array().unwrap().iter().map(|input| format!("{input}\n")).collect();
    let counts = [submit(&["-"], &lines), submit(&[&text, "lorem ipsum"], "")];
    assert_eq!(counts, [[2, 1, 3].map(Value::from).to_vec(), [3, 1].map(Value::from).to_vec()]);
}

#[test]
fn by_path_a_file_is_found_whatever_folder_its_worker_runs_in() {
    let Some((cluster, _roles)) = cluster() else { return };
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("grist.txt"), "lorem lorem").unwrap();
    let submit = ["submit", "text.count", "grist.txt", "-o", "word=lorem", "--by-path", "--wait", "--format", "ndjson"];

    let ended = cluster.command(&submit).current_dir(home.path()).output().unwrap();

    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let outcome: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(outcome["output"]["count"], 2);
    assert_eq!(outcome["input"], serde_json::json!({"path": "grist.txt"}), "it stays as it was written");
}

#[test]
fn a_key_stands_for_the_inputs_too() {
    let Some((cluster, _roles)) = cluster() else { return };
    let submit = |inputs: &[&str], key: &str| {
        let ended = cluster.run(
            &[&["submit", "compute.map"], inputs, &["-o", "expr=x", "-q", "--wait"], &["--idempotency-key", key]]
                .concat(),
        );
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };

    for _ in 0..2 {
        assert_eq!(submit(&["1", "2"], "k").0, Some(0));
    }
    for (inputs, problem) in [
        (&["1", "2", "3"][..], "it is complete, with 2 of them"),
        (&["1"], "there were at least 2 before, and there are 1 now"),
        (&["1", "3"], "number 2 was 2 before, and is 3 now"),
    ] {
        let (code, said) = submit(inputs, "k");
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(problem), "{said}");
    }
    assert_eq!(submit(&["1"], " ").0, Some(2), "a script's unset variable is no key");
}

#[test]
fn a_submission_that_was_killed_goes_on_with_its_own_inputs_only() {
    let Some((cluster, _roles)) = cluster() else { return };
    let mut talk = Talk::start(&cluster, &["--idempotency-key", "k"]);
    assert_eq!(talk.ask(7)["output"], 70);
    // It is told every now and then how far the submission is.
    let listed = || serde_json::from_str::<Value>(&cluster.until_ok(&["status", "--json"])).unwrap();
    while listed()[0]["accepted"] != 1 {
        breathe();
    }
    talk.child.kill().unwrap();
    talk.child.wait().unwrap();
    let again = |input: &str| {
        let ended =
            cluster.run(&["submit", "compute.map", input, "8", "-o", "expr=10*x", "--wait", "--idempotency-key", "k"]);
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };

    let (code, said) = again("6");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("number 1 was 7 before, and is 6 now"), "{said}");
    assert_eq!(again("7").0, Some(0));
}

/// Waits until the newest batch, or the workers, are as they should be.
fn until(cluster: &Cluster, asked: &[&str], what: &str, is_so: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    loop {
        let told: Value = serde_json::from_str(&cluster.until_ok(asked)).unwrap();
        if is_so(&told) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {told}");
        breathe();
    }
}

#[test]
fn whoever_submits_is_told_when_nobody_serves_the_lane_and_only_then() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    cluster.until_ok(&["workers"]);
    let submit = || {
        let ended = cluster.run(&["submit", "compute.map", "1", "-o", "expr=x"]);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success(), "{said}");
        said
    };
    let serves = |told: &Value, lane: &str| {
        let lanes = told.as_array().unwrap().iter().filter_map(|worker| worker["lanes"].as_array()).flatten();
        lanes.filter_map(Value::as_str).any(|served| served == lane)
    };
    let warning =
        "warning: no worker serves the lane cpu now; the batch waits until one does: `tidemill worker --lanes cpu`";

    assert!(submit().lines().any(|line| line == warning), "nobody is there");

    let _other = cluster.role(&["worker", "--lanes", "wait"], &[]);
    until(&cluster, &["workers", "--json"], "the other is known", |told| serves(told, "wait"));
    assert!(submit().lines().any(|line| line == warning), "who is there serves another lane");

    let _worker = cluster.worker();
    until(&cluster, &["workers", "--json"], "the worker is known", |told| serves(told, "cpu"));
    let said = submit();
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_submission_that_an_alarm_ends_in_its_middle_is_resumed_with_what_is_missing() {
    const BEFORE: u64 = 500;
    const CHUNK: u64 = 10;
    const TOTAL: u64 = 3000;
    let Some((cluster, _roles)) = cluster() else { return };
    let numbers = |range: Range<u64>| range.map(|number| format!("{number}\n")).collect::<String>();
    let start = |more: &[&str]| {
        let submit = ["submit", "compute.map", "-", "-o", "expr=10*x", "--chunk", "10"];
        let mut command = cluster.command(&[&submit[..], more].concat());
        command.env("TIDEMILL__SUBMIT__PATIENCE", "10s");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let inputs = child.stdin.take().unwrap();
        (child, inputs)
    };
    let (mut child, mut inputs) = start(&[]);
    inputs.write_all(numbers(0..BEFORE).as_bytes()).unwrap();
    until(&cluster, &["status", "--json"], "all of them have come through", |told| {
        told[0]["progress"]["counts"][Status::Ok as usize] == BEFORE
    });

    cluster.rabbit.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    // The broker tells of its alarm when somebody publishes, and has no more than this by then.
    inputs.write_all(numbers(BEFORE..BEFORE + CHUNK).as_bytes()).unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.starts_with("waiting: the broker takes nothing now")));
    inputs.write_all(numbers(BEFORE + CHUNK..TOTAL).as_bytes()).unwrap();
    drop(inputs);
    let said: Vec<String> = said.collect();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{said:?}");
    let how = said.iter().find_map(|line| line.split_once("accepted: the first ")).expect("it says how to go on").1;
    let (accepted, how) = how.split_once(" items; ").unwrap();
    assert!((BEFORE..=BEFORE + CHUNK).contains(&accepted.parse::<u64>().unwrap()), "{said:?}");
    let batch = how.split("`--resume ").nth(1).unwrap().split('`').next().unwrap();

    cluster.rabbit.control(&["set_vm_memory_high_watermark", "absolute", "2GB"]);
    let (child, mut inputs) = start(&["--resume", batch]);
    inputs.write_all(numbers(0..TOTAL).as_bytes()).unwrap();
    drop(inputs);
    let ended = child.wait_with_output().unwrap();

    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let outcomes = cluster.must_be_sound(batch, TOTAL);
    assert_eq!(count(&outcomes, "ok") as u64, TOTAL);
    let books: Value = serde_json::from_str(&cluster.until_ok(&["verify", batch, "--json"])).unwrap();
    // What was on its way to the broker when that stopped to read arrives when it reads again, and so comes twice.
    assert!(books["books"]["duplicates"].as_u64().unwrap() <= CHUNK, "{books}");
}
