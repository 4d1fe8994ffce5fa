//! The exercises of threads and processes by the thousand, through a cluster whose worker is killed.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "mill_cluster/mod.rs"]
mod cluster;
#[path = "processes/proc.rs"]
mod proc;
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::cluster::{Cluster, PATIENCE, Role, breathe, count};
use self::proc::{Resources, children_of, marked};
use self::support::run;

/// Every row, with how many scenarios it has.
const ROWS: [(&str, u64); 24] = [
    ("thread.define", 3),
    ("thread.current", 3),
    ("thread.subclass", 3),
    ("thread.lock", 3),
    ("thread.rlock", 3),
    ("thread.semaphore", 3),
    ("thread.barrier", 3),
    ("thread.event", 3),
    ("thread.condition", 3),
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
/// Of each row, so that there are more than a thousand.
const ITEMS: u64 = 42;
/// How often the worker is killed, each time in the middle of something.
const STRIKES: usize = 4;
/// What is said in every batch: short ticks, and one seed.
const COMMON: [&str; 4] = ["-o", "tick_ms=2", "-o", "seed=7"];

/// What comes before process ids and times in messages: the digits behind them are others in every run.
const BEFORE_VARYING: [&str; 7] = ["pid=", "parent process: ", "process id: ", "process ID ", "----> ", "--- ", "at: "];

/// A message without what differs from run to run.
fn steady(message: &str) -> String {
    let mut steady = message.to_owned();
    for before in BEFORE_VARYING {
        if let Some(at) = steady.find(before).map(|at| at + before.len()) {
            let is_varying = |letter: char| letter.is_ascii_digit() || ".:-TZ".contains(letter);
            let rest = steady[at..].trim_start_matches(is_varying).to_owned();
            steady = format!("{}#{rest}", &steady[..at]);
        }
    }
    steady
}

fn messages(outcome: &Value) -> Vec<String> {
    assert_eq!(outcome["status"], "ok", "{outcome}");
    outcome["output"]["messages"].as_array().unwrap().iter().map(|said| steady(said.as_str().unwrap())).collect()
}

/// What each scenario of a row says, as a command alone finds it; the tests of the rows say whether that is right.
fn expected(task: &str, scenarios: u64) -> Vec<Vec<String>> {
    let words: Vec<String> = (1..=scenarios).map(|scenario| scenario.to_string()).collect();
    let mut arguments = vec!["run", task];
    arguments.extend(words.iter().map(String::as_str));
    arguments.extend(COMMON);
    run(&arguments).lines().iter().map(messages).collect()
}

#[test]
fn a_thousand_exercises_have_each_one_outcome_in_order_while_a_worker_is_killed() {
    let Some(cluster) = Cluster::start() else { return };
    let mark = format!("exercises-{}", std::process::id());
    let cluster = cluster.with("TIDEMILL_TEST_MARK", &mark);
    let _api = cluster.api();
    let (mut staying, mut killed) = (cluster.worker(), cluster.worker());
    let inputs: Vec<(&str, u64, tempfile::NamedTempFile)> = ROWS
        .into_iter()
        .map(|(task, scenarios)| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let items = (0..ITEMS).map(|n| format!("{}\n", json!({"scenario": 1 + n % scenarios})));
            std::fs::write(file.path(), items.collect::<String>()).unwrap();
            (task, scenarios, file)
        })
        .collect();
    // Both have met every lane by then, and have what they keep.
    for task in ["thread.define", "process.start"] {
        cluster.until_ok(&["submit", task, "1", "1", "1", "1", "1", "1", "1", "1", "--chunk", "1", "--wait", "-q"]);
    }
    let before = Resources::of(staying.pid());

    let batches: Vec<String> = std::thread::scope(|scope| {
        let striking = scope.spawn(|| (0..STRIKES).for_each(|_| strike(&cluster, &mut killed, &staying, &mark)));
        let batches = inputs.iter().map(|(task, _, file)| {
            let path = file.path().to_str().unwrap();
            let submit = [&["submit", task, "--items", path, "-q", "--chunk", "3"][..], &COMMON].concat();
            cluster.until_ok(&submit).trim().to_owned()
        });
        let batches = batches.collect();
        striking.join().unwrap();
        batches
    });

    for ((task, scenarios, _), batch) in inputs.iter().zip(&batches) {
        let outcomes = cluster.must_be_sound(batch, ITEMS);
        assert_eq!(count(&outcomes, "ok"), usize::try_from(ITEMS).unwrap(), "{task}");
        let expected = expected(task, *scenarios);
        for (n, outcome) in (0..).zip(&outcomes) {
            let scenario = usize::try_from(n % scenarios).unwrap();
            assert_eq!(messages(outcome), expected[scenario], "{task}, scenario {}", scenario + 1);
        }
    }

    nothing_is_left(&staying, &before);
    assert!(staying.is_running() && killed.is_running(), "nobody else has ended");
    drop((staying, killed));
    no_orphan_is_left(&mark, None);
}

/// Kills a worker in the middle of something, looks for orphans, and starts it again.
fn strike(cluster: &Cluster, victim: &mut Role, staying: &Role, mark: &str) {
    let started = Instant::now();
    while !marked(mark).iter().any(|process| process.is_child() && process.parent == victim.pid()) {
        assert!(started.elapsed() < PATIENCE, "it has no children");
        breathe();
    }

    victim.kill();

    no_orphan_is_left(mark, Some(staying));
    victim.start(cluster);
}

/// Makes sure that soon no child is left but those of a worker that stays.
fn no_orphan_is_left(mark: &str, staying: Option<&Role>) {
    let staying = staying.map(Role::pid);
    let struck = Instant::now();
    while marked(mark).iter().any(|process| process.is_child() && Some(process.parent) != staying) {
        assert!(struck.elapsed() < Duration::from_secs(1), "its children outlive it: {:?}", marked(mark));
        breathe();
    }
}

/// A worker has what it had, once it has nothing more to do.
fn nothing_is_left(worker: &Role, before: &Resources) {
    let started = Instant::now();
    loop {
        let (now, children) = (Resources::of(worker.pid()), children_of(worker.pid()));
        // No child, and no zombie.
        if now.is_within(before) && children.is_empty() {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "it had {before:?}, and has {now:?} and {children:?}");
        breathe();
    }
}
