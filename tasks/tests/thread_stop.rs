//! An item of `thread.*` that nobody waits for any more leaves no thread.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod stage;

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

use self::stage::Stage;

/// Threads are counted in this process: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How long a test waits before it says that something never came.
const PATIENCE: Duration = Duration::from_secs(30);

const TASKS: [&str; 9] = [
    "thread.define",
    "thread.current",
    "thread.subclass",
    "thread.lock",
    "thread.rlock",
    "thread.semaphore",
    "thread.barrier",
    "thread.event",
    "thread.condition",
];

/// The threads of exercises that this process has now, by name.
fn threads() -> Vec<String> {
    let names = ["main", "function_", "Thread", "adder", "remover", "Consumer", "Producer", "Huey", "Dewey", "Louie"];
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|comm| names.iter().any(|name| comm.starts_with(name))).collect()
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", threads());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_item_that_is_given_up_leaves_no_thread() {
    let _alone = ALONE.lock().await;
    let stage = Stage::new();
    for task in TASKS {
        for scenario in 1..=3 {
            for tick_ms in [60_000, 1] {
                let playing = {
                    let (stage, item) = (stage.clone(), json!({"scenario": scenario, "tick_ms": tick_ms}));
                    tokio::spawn(async move { stage.try_play(task, &item).await })
                };
                until("its threads begin", || playing.is_finished() || !threads().is_empty()).await;

                let dropped = Instant::now();
                playing.abort();
                drop(playing.await);
                let took = dropped.elapsed();

                assert!(took < Duration::from_secs(1), "{task} {scenario}: giving it up took {took:?}");
                until("its threads end", || threads().is_empty()).await;
            }
        }
    }
}

#[tokio::test]
async fn the_abandoned_thread_of_the_semaphore_is_ended_before_the_item_returns() {
    let _alone = ALONE.lock().await;
    let stage = Stage::new();
    for _ in 0..stage::TIMES {
        let output = stage.play("thread.semaphore", &json!({"scenario": 2, "tick_ms": 1})).await;

        assert_eq!(output["state"], "waiting");
        // It was joined; the system may take a moment longer to forget its number.
        until("the consumer is gone", || !threads().iter().any(|name| name.starts_with("Consumer"))).await;
        assert!(output["runs"][0]["to_ms"].as_f64().unwrap() <= output["elapsed_ms"].as_f64().unwrap());
    }
}
