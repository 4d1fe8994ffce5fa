//! Every row and scenario of `thread.*`: the whole list of messages, again and again, on an idle and on a busy machine.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod stage;

use futures::future::join_all;
use serde_json::{Value, json};
use tidemill_tasks::scenario::Seeded;

use self::stage::{Load, Stage, TIMES, messages};

/// An item of a task, and what must be said.
struct Row {
    task: &'static str,
    item: Value,
    says: Vec<String>,
}

/// Every row and scenario, with defaults, and a few with fields of their own.
fn rows(seed: u64) -> Vec<Row> {
    let row = |task, item: Value, says: Vec<String>| Row { task, item, says };
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let defined = |order: &[usize]| order.iter().map(|i| format!("my_func called by thread N°{i}")).collect();
    let named = |order: [(char, &str); 6]| {
        order.map(|(name, doing)| format!("function_{name} --> {doing}")).into_iter().collect::<Vec<_>>()
    };
    let (s, e) = ("starting", "exiting");
    let (mut added, mut all) = (Vec::new(), Vec::new());
    for left in (0..16).rev() {
        added.push(format!("ADDED one item -->{left} item(s) to ADD"));
        all.push(format!("REMOVED one item -->{left} item(s) to REMOVE"));
    }
    let alternating = added.iter().zip(&all).flat_map(|(add, remove)| [add.clone(), remove.clone()]);
    let lists = |lists: Vec<Vec<String>>| lists.concat();
    vec![
        row("thread.define", json!({}), defined(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
        row("thread.define", json!({"scenario": 2}), defined(&[9, 7, 5, 3, 1, 0, 2, 4, 6, 8])),
        row("thread.define", json!({"scenario": 3}), defined(&[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])),
        row("thread.define", json!({"scenario": 2, "threads": 4}), defined(&[3, 1, 0, 2])),
        row("thread.current", json!({}), named([('A', s), ('B', s), ('C', s), ('A', e), ('B', e), ('C', e)])),
        row(
            "thread.current",
            json!({"scenario": 2}),
            named([('C', s), ('B', s), ('A', s), ('C', e), ('B', e), ('A', e)]),
        ),
        row(
            "thread.current",
            json!({"scenario": 3}),
            named([('B', s), ('B', e), ('A', s), ('A', e), ('C', s), ('C', e)]),
        ),
        row("thread.subclass", json!({}), {
            let numbers = 1..=9;
            concluded(numbers.clone().map(running).chain(numbers.map(over)).collect())
        }),
        row("thread.subclass", json!({"scenario": 2}), pairs(&[1, 2, 3, 4, 5, 6, 7, 8, 9])),
        row("thread.subclass", json!({"scenario": 3}), pairs(&[9, 8, 7, 6, 5, 4, 3, 2, 1])),
        row("thread.subclass", json!({"scenario": 3, "threads": 2}), pairs(&[2, 1])),
        row("thread.lock", json!({}), pairs(&[5, 4, 6, 3, 7, 2, 8, 1, 9])),
        row("thread.lock", json!({"scenario": 2}), pairs(&[1, 2, 3, 4, 5, 6, 7, 8, 9])),
        row("thread.lock", json!({"scenario": 3}), pairs(&[9, 8, 7, 6, 5, 4, 3, 2, 1])),
        row("thread.lock", json!({"threads": 4}), pairs(&[2, 1, 3, 4])),
        row("thread.rlock", json!({}), {
            let begin = texts(&["N° 16 items to ADD", "N° 1 items to REMOVE", "ADDED one item -->15 item(s) to ADD"]);
            lists(vec![begin, texts(&["REMOVED one item -->0 item(s) to REMOVE"]), added[1..].to_vec()])
        }),
        row("thread.rlock", json!({"items_to_add": 3, "items_to_remove": 3}), {
            let begin = texts(&["N° 3 items to ADD", "N° 3 items to REMOVE"]);
            let from = alternating.clone().skip(26);
            begin.into_iter().chain(from).collect()
        }),
        row("thread.rlock", json!({"items_to_add": 1, "items_to_remove": 0}), {
            texts(&["N° 1 items to ADD", "N° 0 items to REMOVE", "ADDED one item -->0 item(s) to ADD"])
        }),
        row("thread.rlock", json!({"scenario": 2}), {
            lists(vec![texts(&["N° 16 items to ADD"]), added.clone(), texts(&["N° 16 items to REMOVE"]), all.clone()])
        }),
        row("thread.rlock", json!({"scenario": 3}), {
            texts(&["N° 16 items to ADD", "N° 16 items to REMOVE"]).into_iter().chain(alternating.clone()).collect()
        }),
        row("thread.semaphore", json!({}), semaphore_rounds(seed, 10)),
        row("thread.semaphore", json!({"scenario": 2}), texts(&["Consumer is waiting"])),
        row("thread.semaphore", json!({"scenario": 3}), semaphore_queue(seed, 10)),
        row("thread.semaphore", json!({"scenario": 3, "items": 1}), semaphore_queue(seed, 1)),
        row("thread.semaphore", json!({"scenario": 3, "items": 17}), semaphore_queue(seed, 17)),
        row("thread.barrier", json!({}), race(&["Huey", "Dewey", "Louie"])),
        row("thread.barrier", json!({"scenario": 2}), race(&["Louie", "Dewey", "Huey"])),
        row("thread.barrier", json!({"scenario": 3}), {
            let mut seeded = Seeded::new(seed);
            let mut runners = ["Huey", "Dewey", "Louie"];
            seeded.shuffle(&mut runners);
            race(&drawn(&mut seeded, runners.to_vec()))
        }),
        row("thread.barrier", json!({"runners": ["a", "b", "c", "d", "e"]}), {
            race(&drawn(&mut Seeded::new(seed), vec!["a", "b", "c", "d", "e"]))
        }),
        row("thread.event", json!({}), events(seed, 5, &["Consumer"], false)),
        row("thread.event", json!({"scenario": 2}), events(seed, 5, &["Consumer"], true)),
        row("thread.event", json!({"scenario": 3}), events(seed, 5, &["Consumer-1", "Consumer-2"], false)),
        row("thread.event", json!({"scenario": 3, "items": 1}), events(seed, 1, &["Consumer-1"], false)),
        row("thread.condition", json!({}), {
            let round = |n| {
                let waits = "Consumer is waiting: the buffer is empty".to_owned();
                [waits, produced(n, 1), consumed(n, 0)]
            };
            (1..=10).flat_map(round).collect()
        }),
        row("thread.condition", json!({"scenario": 2}), conditions(10, 3)),
        row("thread.condition", json!({"scenario": 2, "items": 2}), conditions(2, 3)),
        row("thread.condition", json!({"scenario": 3}), conditions(10, 1)),
        row("thread.condition", json!({"scenario": 3, "capacity": 4}), conditions(10, 4)),
    ]
}

fn running(number: usize) -> String {
    format!("---> Thread#{number} running, belonging to process ID {}", std::process::id())
}

fn over(number: usize) -> String {
    format!("---> Thread#{number} over")
}

fn pairs(order: &[usize]) -> Vec<String> {
    concluded(order.iter().flat_map(|&number| [running(number), over(number)]).collect())
}

fn concluded(mut says: Vec<String>) -> Vec<String> {
    says.extend(["End".to_owned(), "--- … seconds ---".to_owned()]);
    says
}

fn semaphore_rounds(seed: u64, items: usize) -> Vec<String> {
    let mut seeded = Seeded::new(seed);
    let round = |_| {
        let x = seeded.number(0..=1000);
        let notified = |who| format!("{who} notified: item number {x}");
        ["Consumer is waiting".to_owned(), notified("Producer"), notified("Consumer")]
    };
    (0..items).flat_map(round).collect()
}

fn semaphore_queue(seed: u64, items: usize) -> Vec<String> {
    let mut seeded = Seeded::new(seed);
    let x: Vec<u64> = (0..items).map(|_| seeded.number(0..=1000)).collect();
    let append = |i: usize| format!("Producer notify: item N°{} appended to queue by Producer-{}", x[i], i % 2 + 1);
    let pop = |i: usize| format!("Consumer notify: {} popped from queue by Consumer-{}", x[i], i % 3 + 1);
    let first = (0..items.min(2)).map(append);
    let then = (0..items).flat_map(|i| [Some(pop(i)), (i + 2 < items).then(|| append(i + 2))]);
    first.chain(then.flatten()).collect()
}

/// The runners by the times that are drawn for them.
fn drawn<'a>(seeded: &mut Seeded, runners: Vec<&'a str>) -> Vec<&'a str> {
    let mut timed: Vec<_> = runners.into_iter().map(|runner| (seeded.number(1000..=3000), runner)).collect();
    timed.sort_by_key(|&(time, _)| time);
    timed.into_iter().map(|(_, runner)| runner).collect()
}

fn race(order: &[&str]) -> Vec<String> {
    let reached = order.iter().map(|name| format!("{name} reached the barrier at: …"));
    std::iter::once("START RACE!!!!".to_owned()).chain(reached).chain(["Race over!".to_owned()]).collect()
}

fn events(seed: u64, items: usize, consumers: &[&str], is_first: bool) -> Vec<String> {
    let mut seeded = Seeded::new(seed);
    let round = |i: usize| {
        let x = seeded.number(0..=100);
        let appended = format!("Producer notify: item {x} appended by Producer");
        let popped = format!("Consumer notify: {x} popped by {}", consumers[i % consumers.len()]);
        [is_first.then(|| "Consumer is waiting".to_owned()), Some(appended), Some(popped)]
    };
    (0..items).flat_map(round).flatten().collect()
}

fn produced(number: usize, inside: usize) -> String {
    format!("Producer notify: item N°{number} produced, {inside} in the buffer")
}

fn consumed(number: usize, inside: usize) -> String {
    format!("Consumer notify: item N°{number} consumed, {inside} in the buffer")
}

/// The producer runs ahead until the buffer is full; then each that is consumed makes room for one.
fn conditions(items: usize, capacity: usize) -> Vec<String> {
    let ahead = capacity.min(items);
    let mut says: Vec<String> = (1..=ahead).map(|n| produced(n, n)).collect();
    for n in ahead + 1..=items {
        says.push("Producer is waiting: the buffer is full".to_owned());
        says.extend([consumed(n - capacity, capacity - 1), produced(n, capacity)]);
    }
    let rest = (1..=ahead).map(|left| consumed(items - ahead + left, ahead - left));
    says.extend(rest);
    says
}

/// A message without its time, which must be one.
fn timeless(message: &str) -> String {
    if let Some(seconds) = message.strip_prefix("--- ").and_then(|rest| rest.strip_suffix(" seconds ---")) {
        assert!(seconds.parse::<f64>().unwrap() < 60.0, "{message}");
        return "--- … seconds ---".to_owned();
    }
    match message.split_once(" at: ") {
        Some((who, time)) => {
            humantime::parse_rfc3339(time).unwrap();
            format!("{who} at: …")
        }
        None => message.to_owned(),
    }
}

/// Plays every row side by side, again and again, with a seed and a tick of its own each time.
async fn play_all() {
    let stage = Stage::new();
    for seed in 0..TIMES {
        let playing = rows(seed).into_iter().map(|Row { task, mut item, says }| {
            item["seed"] = seed.into();
            // 0 to 4: with none, only what keeps the threads in step does so.
            item["tick_ms"] = (seed % 5).into();
            let stage = &stage;
            async move {
                let output = stage.play(task, &item).await;
                let said: Vec<String> = messages(&output).into_iter().map(timeless).collect();
                assert_eq!(said, says, "{task} {item}");
                assert_eq!(output["timeline"].as_array().unwrap().len(), says.len(), "{task} {item}");
            }
        });
        join_all(playing).await;
    }
}

#[tokio::test]
async fn all_that_is_said_is_as_the_catalogue_says_every_time() {
    play_all().await;
}

#[tokio::test]
async fn all_that_is_said_is_as_the_catalogue_says_on_a_busy_machine() {
    let _load = Load::begin();
    play_all().await;
}
