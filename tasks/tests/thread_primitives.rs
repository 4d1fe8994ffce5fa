//! The threads of `thread.*` are real: they have numbers of their own, run side by side where a row says together and one
//! after another where it says so, and what they share keeps its bounds.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod stage;

use std::collections::HashSet;

use serde_json::{Value, json};

use self::stage::{Stage, all_overlap, messages, none_overlap, runs};

/// When each message was said, and by whom.
fn timeline(output: &Value) -> Vec<(&str, f64)> {
    let said = output["timeline"].as_array().unwrap();
    said.iter().map(|said| (said["by"].as_str().unwrap(), said["at_ms"].as_f64().unwrap())).collect()
}

#[tokio::test]
async fn every_thread_has_a_number_of_its_own_and_is_not_the_main_one() {
    let stage = Stage::new();
    for (task, threads) in [
        ("thread.define", 10),
        ("thread.current", 3),
        ("thread.subclass", 9),
        ("thread.lock", 9),
        ("thread.rlock", 2),
        ("thread.semaphore", 5),
        ("thread.barrier", 3),
        ("thread.event", 3),
        ("thread.condition", 2),
    ] {
        let output = stage.play(task, &json!({"scenario": 3, "tick_ms": 1})).await;

        let tids: HashSet<u64> =
            output["runs"].as_array().unwrap().iter().map(|run| run["tid"].as_u64().unwrap()).collect();
        assert_eq!(tids.len(), threads, "{task}");
        assert!(!tids.contains(&u64::from(std::process::id())), "{task}");
    }
}

#[tokio::test]
async fn threads_run_side_by_side_where_the_row_says_together() {
    let stage = Stage::new();
    for (task, scenario) in [
        ("thread.current", 1),
        ("thread.current", 2),
        ("thread.subclass", 1),
        ("thread.lock", 1),
        ("thread.lock", 2),
        ("thread.lock", 3),
        ("thread.rlock", 3),
        ("thread.barrier", 1),
        ("thread.barrier", 2),
        ("thread.barrier", 3),
        ("thread.condition", 1),
        ("thread.condition", 2),
        ("thread.condition", 3),
        ("thread.event", 1),
        ("thread.event", 2),
        ("thread.event", 3),
    ] {
        let output = stage.play(task, &json!({"scenario": scenario, "tick_ms": 0})).await;
        assert!(all_overlap(&runs(&output)), "{task} {scenario}: {}", output["runs"]);
    }
}

#[tokio::test]
async fn no_two_threads_run_at_once_where_the_row_says_one_after_another() {
    let stage = Stage::new();
    for (task, scenario) in [
        ("thread.define", 1),
        ("thread.define", 2),
        ("thread.define", 3),
        ("thread.current", 3),
        ("thread.subclass", 2),
        ("thread.subclass", 3),
        ("thread.rlock", 2),
    ] {
        let output = stage.play(task, &json!({"scenario": scenario, "tick_ms": 1})).await;
        assert!(none_overlap(&runs(&output)), "{task} {scenario}: {}", output["runs"]);
    }
}

#[tokio::test]
async fn ticks_overlap_where_threads_work_together_and_add_up_where_they_do_not() {
    let stage = Stage::new();
    for (task, scenario, ticks, together) in [
        ("thread.current", 1, 2, true),
        ("thread.current", 2, 2, true),
        ("thread.current", 3, 6, false),
        ("thread.subclass", 1, 1, true),
        ("thread.subclass", 2, 9, false),
        ("thread.subclass", 3, 9, false),
        ("thread.lock", 1, 9, false),
        ("thread.lock", 2, 9, false),
        ("thread.lock", 3, 9, false),
        ("thread.rlock", 1, 16, true),
        ("thread.rlock", 2, 32, false),
        ("thread.rlock", 3, 32, true),
        ("thread.barrier", 1, 3, true),
        ("thread.condition", 3, 30, true),
    ] {
        let output = stage.play(task, &json!({"scenario": scenario, "tick_ms": 10})).await;

        let elapsed = output["elapsed_ms"].as_f64().unwrap();
        assert!(elapsed >= 10.0 * f64::from(ticks), "{task} {scenario}: {elapsed} ms");
        // Of those that speak twice: how long each is at work.
        let work = at_work(&output);
        assert_eq!(all_overlap(&work), together || work.is_empty(), "{task} {scenario}: {work:?}");
        assert_eq!(none_overlap(&work), !together || work.is_empty(), "{task} {scenario}: {work:?}");
    }
}

/// From the first to the last message of each thread that has several, in their order.
fn at_work(output: &Value) -> Vec<(f64, f64)> {
    let mut spans: Vec<(&str, f64, f64)> = Vec::new();
    for (by, at_ms) in timeline(output).into_iter().filter(|(by, _)| *by != "main") {
        match spans.iter_mut().find(|span| span.0 == by) {
            Some(span) => span.2 = at_ms,
            None => spans.push((by, at_ms, at_ms)),
        }
    }
    spans.into_iter().filter(|span| span.1 < span.2).map(|span| (span.1, span.2)).collect()
}

#[tokio::test]
async fn the_mutex_is_held_from_running_to_over() {
    let output = Stage::new().play("thread.lock", &json!({"tick_ms": 20})).await;

    for pair in timeline(&output)[..18].chunks(2) {
        assert_eq!(pair[0].0, pair[1].0, "the same thread says both");
        assert!(pair[1].1 - pair[0].1 >= 20.0, "and works for a tick in between: {pair:?}");
    }
}

#[tokio::test]
async fn nobodys_finish_is_recorded_before_all_have_arrived() {
    let output = Stage::new().play("thread.barrier", &json!({"tick_ms": 30})).await;

    let records = &timeline(&output)[1..4];
    assert!(records.iter().all(|(_, at_ms)| *at_ms >= 90.0), "the last one takes three ticks: {records:?}");
    let arrival = |message: &str| humantime::parse_rfc3339(message.split_once(" at: ").unwrap().1).unwrap();
    let arrivals: Vec<_> = messages(&output)[1..4].iter().map(|message| arrival(message)).collect();
    assert!(arrivals.is_sorted(), "{arrivals:?}");
    assert_eq!(output["order"], json!(["Huey", "Dewey", "Louie"]));
}

#[tokio::test]
async fn of_the_collected_arrivals_messages_and_timeline_are_turned_over() {
    let output = Stage::new().play("thread.barrier", &json!({"scenario": 2, "tick_ms": 1})).await;

    let who: Vec<&str> = timeline(&output).into_iter().map(|(by, _)| by).collect();
    assert_eq!(who, ["main", "Louie", "Dewey", "Huey", "main"]);
    assert_eq!(output["order"], json!(["Louie", "Dewey", "Huey"]));
    let times: Vec<f64> = timeline(&output)[1..4].iter().map(|(_, at_ms)| *at_ms).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
}

#[tokio::test]
async fn a_function_returns_what_it_recorded() {
    let output = Stage::new().play("thread.current", &json!({"scenario": 3, "tick_ms": 1})).await;

    let recorded = |name: &str| json!([[0, format!("{name} --> starting")], [1, format!("{name} --> exiting")]]);
    let [a, b, c] = ["function_A", "function_B", "function_C"].map(recorded);
    assert_eq!(output["outputs"], json!({"function_A": a, "function_B": b, "function_C": c}));
}

#[tokio::test]
async fn the_box_holds_what_was_added_and_not_removed() {
    let stage = Stage::new();
    for (item, total) in [
        (json!({}), 15),
        (json!({"items_to_add": 7, "items_to_remove": 7}), 0),
        (json!({"items_to_add": 30, "items_to_remove": 12}), 18),
        (json!({"items_to_remove": 0}), 16),
        (json!({"scenario": 2}), 0),
        (json!({"scenario": 3, "items_to_add": 3, "items_to_remove": 16}), 0),
    ] {
        let mut item = item;
        item["tick_ms"] = 0.into();
        assert_eq!(stage.play("thread.rlock", &item).await["total_items"], total, "{item}");
    }
}

#[tokio::test]
async fn the_queue_of_the_semaphores_never_holds_more_than_two_and_gives_each_item_once() {
    let output = Stage::new().play("thread.semaphore", &json!({"scenario": 3, "items": 100, "tick_ms": 0})).await;

    let mut queue = std::collections::VecDeque::new();
    let mut speakers = HashSet::new();
    for message in messages(&output) {
        let words: Vec<&str> = message.split(' ').collect();
        match words[..] {
            ["Producer", "notify:", "item", item, "appended", "to", "queue", "by", who] => {
                queue.push_back(item.strip_prefix("N°").unwrap());
                speakers.insert(who);
            }
            ["Consumer", "notify:", item, "popped", "from", "queue", "by", who] => {
                assert_eq!(queue.pop_front(), Some(item), "each in the order of appending");
                speakers.insert(who);
            }
            _ => panic!("{message}"),
        }
        assert!(queue.len() <= 2, "{queue:?}");
    }
    assert!(queue.is_empty());
    assert_eq!(speakers.len(), 5, "all take part: {speakers:?}");
}

#[tokio::test]
async fn the_buffer_is_never_above_its_capacity_and_reaches_it() {
    let stage = Stage::new();
    for capacity in [1, 2, 3, 7] {
        for scenario in [2, 3] {
            let item = json!({"scenario": scenario, "items": 20, "capacity": capacity, "tick_ms": 0});
            let output = stage.play("thread.condition", &item).await;

            let inside = |message: &str| message.split(' ').rev().nth(3).and_then(|word| word.parse::<u64>().ok());
            let most = messages(&output).into_iter().filter_map(inside).max();
            assert_eq!(most, Some(capacity), "{item}");
            assert_eq!(output["fullest"], capacity, "{item}");
        }
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_values_and_another_seed_others() {
    let stage = Stage::new();
    let said = async |task: &str, seed: u64| {
        let output = stage.play(task, &json!({"scenario": 3, "seed": seed, "tick_ms": 0})).await;
        messages(&output).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for task in ["thread.semaphore", "thread.event"] {
        assert_eq!(said(task, 7).await, said(task, 7).await, "{task}");
        assert_ne!(said(task, 7).await, said(task, 8).await, "{task}");
    }
}
