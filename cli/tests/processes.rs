//! The tasks `process.*`, as a user runs them: every row and scenario, message by message, on an idle and on a loaded
//! machine; and that the processes are real.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "processes/load.rs"]
mod load;
mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::load::Load;
use self::support::tidemill;

/// How often each scenario is played, and as often again on loaded cores.
const REPETITIONS: usize = 20;

/// How the children of an item run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Run {
    /// All at once.
    Together,
    /// Each after the end of the one before.
    OneByOne,
}
use Run::{OneByOne, Together};

/// Plays an item many times, and looks at each output; `messages` is what it must say, exactly.
fn plays(task: &str, input: &Value, children: usize, run: Run, check: impl Fn(&Value) -> Vec<String>) {
    for load in [None, Some(Load::on_all_cores())] {
        let items = format!("{input}\n").repeat(REPETITIONS);
        let mut child = tidemill(&["run", task, "-", "-o", "tick_ms=5", "--format", "ndjson", "-q"]);
        child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        let worker = u64::from(child.id());
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), items.as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        drop(load);
        let outcomes: Vec<Value> =
            String::from_utf8(ended.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();

        assert_eq!(outcomes.len(), REPETITIONS);
        for outcome in outcomes {
            assert_eq!(outcome["status"], "ok", "{outcome}");
            let output = &outcome["output"];
            assert_eq!(texts(&output["messages"]), check(output), "{task} {input}");
            are_real(output, children, worker);
            assert_eq!(together(output), run == Together || children == 1, "{task} {input}: {}", output["runs"]);
        }
    }
}

/// The children are processes of their own, and each message has its time and its speaker.
fn are_real(output: &Value, children: usize, worker: u64) {
    let pids: BTreeSet<u64> = numbers(&output["pids"]).into_iter().collect();
    assert_eq!(pids.len(), children, "pids are distinct: {output}");
    assert!(!pids.contains(&worker));
    let runs = output["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["pid"].as_u64().unwrap()).collect::<BTreeSet<_>>(), pids);
    let timeline = output["timeline"].as_array().unwrap();
    assert_eq!(timeline.len(), output["messages"].as_array().unwrap().len());
    for said in timeline {
        let pid = said["pid"].as_u64().unwrap();
        if pid == worker {
            assert_eq!(said["by"], "main");
            continue;
        }
        let run = runs.iter().find(|run| run["pid"] == pid).unwrap();
        assert_eq!(said["by"], run["by"]);
        let at = said["at_ms"].as_f64().unwrap();
        let (from, to) = (run["from_ms"].as_f64().unwrap(), run["to_ms"].as_f64().unwrap());
        assert!((from..=to).contains(&at), "nobody speaks before its begin or after its end: {output}");
    }
    assert!(output["elapsed_ms"].as_f64().unwrap() > 0.0);
}

/// Whether all ran at the same time; if not, no two did.
fn together(output: &Value) -> bool {
    let times: Vec<(f64, f64)> = output["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["from_ms"].as_f64().unwrap(), run["to_ms"].as_f64().unwrap()))
        .collect();
    let last_begin = times.iter().map(|time| time.0).fold(0.0, f64::max);
    let first_end = times.iter().map(|time| time.1).fold(f64::INFINITY, f64::min);
    let none_overlap = times.windows(2).all(|two| two[0].1 <= two[1].0);
    assert!(last_begin < first_end || none_overlap, "neither together nor one by one: {times:?}");
    last_begin < first_end
}

/// The messages of an output come in the order of their times.
fn in_order_of_time(output: &Value) {
    let times: Vec<f64> =
        output["timeline"].as_array().unwrap().iter().map(|said| said["at_ms"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn spawned(processes: usize) -> Vec<String> {
    let said = |i| {
        let calling = format!("calling myFunc from process n°: {i}");
        std::iter::once(calling).chain((0..i).map(|j| format!("output from myFunc is :{j}")))
    };
    (0..processes).flat_map(said).collect()
}

#[test]
fn spawn_starts_processes_one_after_the_other() {
    plays("process.spawn", &json!({"scenario": 1}), 6, OneByOne, |output| {
        in_order_of_time(output);
        spawned(6)
    });
    plays("process.spawn", &json!({"scenario": 2}), 4, OneByOne, |_| spawned(4));
    plays("process.spawn", &json!({"scenario": 2, "processes": 2}), 2, OneByOne, |_| spawned(2));
}

#[test]
fn spawn_shuffles_what_was_collected_by_its_seed() {
    let first = std::cell::RefCell::new(None);
    plays("process.spawn", &json!({"scenario": 3, "seed": 7}), 6, OneByOne, |output| {
        let messages = texts(&output["messages"]);
        let (mut sorted, mut all) = (messages.clone(), spawned(6));
        sorted.sort();
        all.sort();
        assert_eq!(sorted, all);
        assert_ne!(messages, spawned(6));
        // The same seed, the same order: whatever came first must come always.
        first.borrow_mut().get_or_insert(messages).clone()
    });
}

#[test]
fn name_names_processes_or_leaves_them_their_default_names() {
    let named = |names: [&str; 4]| -> Vec<String> {
        let said = ["Starting", "Starting", "Exiting", "Exiting"];
        said.iter().zip(names).map(|(doing, name)| format!("{doing} process name = {name}")).collect()
    };
    plays("process.name", &json!({"scenario": 1}), 2, Together, |output| {
        in_order_of_time(output);
        named(["myFunc process", "Process-2", "Process-2", "myFunc process"])
    });
    plays("process.name", &json!({"scenario": 2}), 2, Together, |output| {
        in_order_of_time(output);
        named(["myFunc process", "other process", "other process", "myFunc process"])
    });
    plays("process.name", &json!({"scenario": 3}), 3, OneByOne, |output| {
        in_order_of_time(output);
        ["myFunc process", "other process", "Process-3"]
            .iter()
            .flat_map(|name| ["Starting", "Exiting"].map(|doing| format!("{doing} process name = {name}")))
            .collect()
    });
}

#[test]
fn background_ends_a_daemon_when_there_is_nothing_else_to_wait_for() {
    let first = owned(&[
        "Starting background_process",
        "---> 0",
        "---> 1",
        "---> 2",
        "---> 3",
        "---> 4",
        "Exiting background_process",
    ]);
    let second = owned(&[
        "Starting NO_background_process",
        "---> 5",
        "---> 6",
        "---> 7",
        "---> 8",
        "---> 9",
        "Exiting NO_background_process",
    ]);
    let both: Vec<String> = first.iter().zip(&second).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    for (scenario, messages, codes) in [(1, both, [0, 0]), (2, second, [-15, 0]), (3, first, [0, -15])] {
        plays("process.background", &json!({"scenario": scenario}), 2, Together, |output| {
            in_order_of_time(output);
            let ended = json!({"background_process": codes[0], "NO_background_process": codes[1]});
            assert_eq!(output["exit_codes"], ended, "a daemon is ended by SIGTERM, and nobody else is");
            let counted = json!({"background_process": 5, "NO_background_process": 5});
            assert_eq!(output["counted"], counted, "a daemon works all the same");
            messages.clone()
        });
    }
}

#[test]
fn kill_ends_a_process_by_a_signal() {
    let life = |who: [&str; 4], states: [&str; 4], alive: [bool; 4]| -> Vec<String> {
        let when = ["before execution", "running", "terminated", "joined"];
        let looks = (0..4).map(|n| format!("Process {}: {}state={} alive={}", when[n], who[n], states[n], alive[n]));
        looks.chain(["-15".to_owned()]).collect()
    };
    let alive_still = ["initial", "started", "started", "stopped[SIGTERM]"];
    plays("process.kill", &json!({"scenario": 1}), 1, Together, |output| {
        assert_eq!(output["exit_code"], -15);
        assert_eq!(output["alive"], json!([false, true, true, false]));
        life([""; 4], alive_still, [false, true, true, false])
    });
    plays("process.kill", &json!({"scenario": 2}), 1, Together, |output| {
        assert_eq!(output["exit_code"], -15);
        assert_eq!(output["alive"], json!([false, true, false, false]));
        let states = ["initial", "started", "stopped[SIGTERM]", "stopped[SIGTERM]"];
        life([""; 4], states, [false, true, false, false])
    });
    // No tick is too short for the looks.
    plays("process.kill", &json!({"scenario": 3, "tick_ms": 0}), 1, Together, |output| {
        let (before, later) =
            ("name=Process-1 pid=none ", format!("name=Process-1 pid={} ", numbers(&output["pids"])[0]));
        life([before, &later, &later, &later], alive_still, [false, true, true, false])
    });
}

#[test]
fn subclass_runs_its_processes_in_the_order_of_the_scenario() {
    let orders = [
        (1, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (2, vec![10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (3, vec![2, 4, 6, 8, 10, 1, 3, 5, 7, 9]),
    ];
    for (scenario, order) in orders {
        plays("process.subclass", &json!({"scenario": scenario}), 10, OneByOne, |output| {
            in_order_of_time(output);
            order.iter().map(|n| format!("called run method by MyProcess-{n}")).collect()
        });
    }
}

#[test]
fn pool_answers_in_the_order_of_its_inputs_whoever_found_what() {
    let values: [(u64, Vec<u64>); 3] = [
        (1, (0..100).map(|x| x * x).collect()),
        (2, (0..100).map(|x| x * x * x).collect()),
        (3, (0..50).map(|x| x * x + x).collect()),
    ];
    for (scenario, values) in values {
        plays("process.pool", &json!({"scenario": scenario}), 4, Together, |output| {
            assert_eq!(numbers(&output["results"]), values);
            let by_pid = output["by_pid"].as_object().unwrap();
            let found: Vec<u64> = by_pid.values().map(|count| count.as_u64().unwrap()).collect();
            assert_eq!(found.iter().sum::<u64>(), values.len() as u64);
            assert!(found.len() == 4 && found.iter().all(|count| *count > 0), "each had its share: {found:?}");
            let pids: BTreeSet<String> = numbers(&output["pids"]).iter().map(u64::to_string).collect();
            assert_eq!(by_pid.keys().cloned().collect::<BTreeSet<_>>(), pids);
            let values: Vec<String> = values.iter().map(u64::to_string).collect();
            vec![format!("Pool: [{}]", values.join(", "))]
        });
    }
}

#[test]
fn barrier_lets_those_go_on_together_who_belong_to_it() {
    let orders: [(u64, &[&str], &[&str]); 3] =
        [(1, &["p3", "p4"], &["p1", "p2"]), (2, &["p1", "p2"], &["p3", "p4"]), (3, &["p3", "p4"], &["p1", "p2", "p5"])];
    for (scenario, without, with) in orders {
        let children = without.len() + with.len();
        plays("process.barrier", &json!({"scenario": scenario}), children, Together, |output| {
            in_order_of_time(output);
            let find = |name: &str| {
                let processes = output["processes"].as_array().unwrap();
                processes.iter().find(|process| process["name"] == name).unwrap().clone()
            };
            let time = |name: &str| find(name)["finish_time"].as_f64().unwrap();
            for name in without {
                assert_eq!(
                    (&find(name)["has_barrier"], &find(name)["barrier_cross_time"]),
                    (&json!(false), &json!(false))
                );
                assert!(with.iter().all(|later| time(name) <= time(later)), "{output}");
            }
            for name in with {
                let crossed = find(name)["barrier_cross_time"].as_f64().unwrap();
                assert_eq!(find(name)["has_barrier"], true);
                assert!(crossed <= time(name));
                // The last one comes after so many ticks of 5 ms at the earliest, and nobody crosses before.
                let last = output["runs"].as_array().unwrap().iter().find(|run| run["by"] == *with.last().unwrap());
                let begun = last.unwrap()["from_ms"].as_f64().unwrap();
                assert!(crossed >= begun + 5.0 * with.len() as f64, "{output}");
            }
            let said = |(name, function): (&&str, &str)| format!("process {name} - {function} ----> {}", time(name));
            let first = without.iter().map(|name| said((name, "test_without_barrier")));
            first.chain(with.iter().map(|name| said((name, "test_with_barrier")))).collect()
        });
    }
}

#[test]
fn start_greets_with_its_arguments() {
    plays("process.start", &json!({}), 1, Together, |_| owned(&["Hello bob sponge"]));
    let odd = "\"q\" ä\n\u{1}".repeat(10);
    let args = [odd.as_str(), &"\u{7f}\u{0}".repeat(50), &"🌊".repeat(100)];
    plays("process.start", &json!({"args": args}), 1, Together, |_| vec![format!("Hello {}", args.join(" "))]);
}

#[test]
fn identity_tells_who_is_whose_parent() {
    for (options, name) in [(json!({}), "bob"), (json!({"name": "Ada"}), "Ada")] {
        identity_tells(&options, name);
    }
}

fn identity_tells(options: &Value, name: &str) {
    plays("process.identity", options, 1, Together, |output| {
        let parent = output["timeline"][0]["pid"].as_u64().unwrap();
        let child = numbers(&output["pids"])[0];
        vec![
            "main line".to_owned(),
            format!("parent process: {}", std::process::id()),
            format!("process id: {parent}"),
            "function f".to_owned(),
            format!("parent process: {parent}"),
            format!("process id: {child}"),
            format!("hello {name}"),
        ]
    });
}

#[test]
fn queue_and_pipe_carry_a_value() {
    for task in ["process.queue", "process.pipe"] {
        plays(task, &json!({}), 1, Together, |output| {
            assert_eq!(output["received"], json!([42, null, "hello"]));
            owned(&["[42, null, \"hello\"]"])
        });
    }
}

#[test]
fn lock_keeps_lines_whole() {
    plays("process.lock", &json!({"processes": 12}), 12, Together, |output| {
        in_order_of_time(output);
        (0..12).map(|i| format!("hello world {i}")).collect()
    });
}

#[test]
fn shared_is_changed_in_place_by_the_child() {
    plays("process.shared", &json!({}), 1, Together, |output| {
        assert_eq!(output["before"], json!({"number": 0.0, "array": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}));
        #[expect(clippy::approx_constant, reason = "the number of the catalogue")]
        let number = 3.141_592_7;
        assert_eq!(output["after"], json!({"number": number, "array": [0, -1, -2, -3, -4, -5, -6, -7, -8, -9]}));
        owned(&["3.1415927", "[0, -1, -2, -3, -4, -5, -6, -7, -8, -9]"])
    });
}

#[test]
fn manager_keeps_what_a_child_has_changed() {
    plays("process.manager", &json!({}), 2, Together, |output| {
        assert_eq!(output["map"], json!({"1": "1", "2": 2, "0.25": null}));
        assert_eq!(output["list"], json!([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]));
        owned(&["{\"1\": \"1\", \"2\": 2, \"0.25\": null}", "[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]"])
    });
}

#[test]
fn many_starts_a_process_for_each_name() {
    let foods = |names: &[&str]| names.iter().map(|name| format!("The name of food is : {name}")).collect::<Vec<_>>();
    plays("process.many", &json!({}), 5, Together, |output| {
        in_order_of_time(output);
        foods(&["Rice", "Tomato", "Groundnuts", "cocoyam", "plantain"])
    });
    plays("process.many", &json!({"names": []}), 1, Together, |_| foods(&["Rice"]));
}

#[test]
fn what_is_not_allowed_is_refused_before_anything_starts() {
    let long = "x".repeat(101);
    let bad = [
        ("process.spawn", json!({"scenario": 0}), "scenario"),
        ("process.spawn", json!({"scenario": 4}), "scenario"),
        ("process.spawn", json!({"processes": 0}), "processes"),
        ("process.spawn", json!({"processes": -3}), "processes"),
        ("process.spawn", json!({"processes": 1_000_000_000}), "processes"),
        ("process.name", json!({"tick_ms": 60_001}), "tick_ms"),
        ("process.name", json!({"names": []}), "names"),
        ("process.background", json!({"scenario": "1"}), "scenario"),
        ("process.kill", json!({"seed": -1}), "seed"),
        ("process.subclass", json!({"processes": 65}), "processes"),
        ("process.pool", json!({"processes": 33}), "processes"),
        ("process.barrier", json!({"scenario": 1.5}), "scenario"),
        ("process.start", json!({"scenario": 2}), "scenario"),
        ("process.start", json!({"args": vec!["a"; 17]}), "args"),
        ("process.start", json!({"args": [1]}), "args"),
        ("process.start", json!({"args": vec!["x".repeat(100); 6]}), "together"),
        ("process.identity", json!({"name": long}), "name"),
        ("process.queue", json!({"processes": 1}), "processes"),
        ("process.pipe", json!([1, 2]), "expected an object"),
        ("process.lock", json!({"processes": 33}), "processes"),
        ("process.shared", json!({"number": 1}), "number"),
        ("process.manager", json!({"tick_ms": -1}), "tick_ms"),
        ("process.many", json!({"names": vec!["a"; 32]}), "names"),
        ("process.many", json!({"names": ["a", long]}), "names[1]"),
    ];
    for (task, input, field) in bad {
        let ended = support::run(&["run", task, &input.to_string()]);
        let outcome = &ended.lines()[0];
        assert_eq!((outcome["status"].as_str(), outcome["attempts"].as_u64()), (Some("failed"), Some(0)), "{outcome}");
        assert_eq!(outcome["error"]["kind"], "invalid_input");
        assert!(outcome["error"]["message"].as_str().unwrap().contains(field), "{outcome}");
        // As options of the batch they are refused before there is a batch.
        if let Value::Object(fields) = input {
            let (name, value) = fields.iter().next().unwrap();
            let ended = support::run(&["run", task, "-o", &format!("{name}={value}")]);
            assert_eq!(ended.code, Some(2), "{task} {fields:?}: {}", ended.stderr);
        }
    }
}
