//! Faults: processes killed with SIGKILL, servers that end and come back, connections that are cut, items that kill.
//! Each ends with the oracle, [`Cluster::must_be_sound`].
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "mill_cluster/asking.rs"]
mod asking;
#[path = "mill_cluster/mod.rs"]
mod cluster;
#[path = "mill_cluster/letters.rs"]
mod letters;

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use self::asking::{Asking, ask};
use self::cluster::{Cluster, Inputs, LIMIT_MEMORY, PATIENCE, Role, breathe, count};

/// A small generator, so that a seed names a schedule.
struct Random(u64);

impl Random {
    /// Evenly within 0 to `below`, not including it (xorshift64*, S. Vigna, 2014).
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % below
    }

    /// The same values in another order, each of all orders as likely as the others (Fisher, Yates).
    fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            values.swap(last, other);
        }
    }
}

/// Items for `test.mischief`, in a file.
fn items(deeds: impl Iterator<Item = Value>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), deeds.map(|deed| format!("{deed}\n")).collect::<String>()).unwrap();
    file
}

fn seeds() -> u64 {
    std::env::var("TIDEMILL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

#[test]
fn whatever_is_killed_at_whatever_instant_every_item_has_one_outcome_in_order() {
    for seed in 1..=seeds() {
        let Some(cluster) = Cluster::start() else { return };
        storm(cluster, seed);
    }
}

/// What is harmed.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Worker,
    Collector,
    Producer,
    Rabbit,
    Redis,
    /// Every connection to the broker.
    ToRabbit,
    /// Every connection to the store.
    ToRedis,
}

/// So many blows: each sort at least once, the others as often as their weight says, in any order.
fn blows(count: usize, random: &mut Random) -> Vec<Blow> {
    use Blow::{Collector, Producer, Rabbit, Redis, ToRabbit, ToRedis, Worker};
    let mut blows = vec![Worker, Collector, Producer, Rabbit, Redis, ToRabbit, ToRedis];
    blows.resize_with(count, || match random.below(100) {
        0..45 => Worker,
        45..60 => Collector,
        60..72 => ToRabbit,
        72..82 => ToRedis,
        82..90 => Redis,
        90..94 => Rabbit,
        _ => Producer,
    });
    random.shuffle(&mut blows);
    blows
}

/// 20,000 short items, some of which are refused before they are sent, over four workers, and fifty blows. Whoever submits
/// them has been given some more at each blow, and all only after the last one: each finds it alive and the batch without
/// an end, with work that is under way.
fn storm(mut cluster: Cluster, seed: u64) {
    const ITEMS: usize = 20_000;
    const BLOWS: usize = 50;
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let blows = blows(BLOWS, &mut random);
    let mut workers: Vec<Role> = (0..4).map(|_| cluster.worker()).collect();
    let mut apis = [cluster.api(), cluster.second_api()];
    let is_refused = |n: usize| n % 31 == 7;
    let deed = |n: usize| if is_refused(n) { json!("idle") } else { json!({"work": 200 + n % 1000}) };
    let inputs = Inputs::new((0..ITEMS).map(|n| deed(n).to_string()));
    let key = format!("storm-{seed}");
    let submit = |from: &[&str]| {
        let words = ["submit", "test.mischief", "--chunk", "10", "--idempotency-key", &key, "-q"];
        [&words[..], from].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<String>>()
    };
    let words = submit(&["-"]);
    let mut producer = cluster.fed(&words.iter().map(String::as_str).collect::<Vec<_>>(), &inputs);
    inputs.let_go(ITEMS / (BLOWS + 1));
    let started = Instant::now();
    while recorded(&cluster) == 0 {
        assert!(started.elapsed() < PATIENCE, "seed {seed}: nothing comes of it");
        revive(&mut producer, &cluster);
        breathe();
    }

    let asking = Asking::begin(cluster.api_port);

    for (dealt, blow) in blows.iter().enumerate() {
        let pause = Instant::now() + Duration::from_millis(random.below(300));
        while Instant::now() < pause {
            breathe();
        }
        // It ends by itself where it cannot reach the cluster. Its inputs have no end yet, nor has its batch.
        revive(&mut producer, &cluster);
        assert!(inputs.are_held() && producer.is_running(), "seed {seed}: blow {dealt} comes too late");
        match blow {
            Blow::Worker => {
                let victim = usize::try_from(random.below(4)).unwrap();
                workers[victim].kill();
                workers[victim].start(&cluster);
            }
            Blow::Collector => {
                let victim = usize::try_from(random.below(2)).unwrap();
                apis[victim].kill();
                apis[victim].start(&cluster);
            }
            Blow::Producer => {
                producer.kill();
                producer.start(&cluster);
            }
            Blow::Rabbit => {
                cluster.rabbit.kill();
                cluster.rabbit.start();
            }
            Blow::Redis => {
                cluster.redis.kill();
                cluster.redis.start();
            }
            Blow::ToRabbit => cluster.to_rabbit.cut(),
            Blow::ToRedis => cluster.to_redis.cut(),
        }
        inputs.let_go(ITEMS * (dealt + 2) / (BLOWS + 1));
    }
    assert!(!inputs.are_held(), "all were let go at last");
    let answered = asking.end();
    // The same key makes the same batch.
    while !producer.wait().success() {
        assert!(started.elapsed() < 2 * PATIENCE, "seed {seed}: it is never accepted");
        producer.start(&cluster);
    }

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), inputs.text()).unwrap();
    let words = submit(&["--items", file.path().to_str().unwrap()]);
    let batch = cluster.until_ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let outcomes = cluster.must_be_sound(batch.trim(), ITEMS as u64);
    for (n, outcome) in outcomes.iter().enumerate() {
        let (status, output) = if is_refused(n) { ("failed", Value::Null) } else { ("ok", json!(200 + n % 1000)) };
        assert!(outcome["status"] == status && outcome["output"] == output, "seed {seed}: {outcome}; blows: {blows:?}");
    }
    assert!(answered.len() >= 5, "seed {seed}: only {} were answered beside it", answered.len());
    for id in &answered {
        let books = cluster.run(&["verify", id]);
        assert!(books.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&books.stdout));
    }
}

/// How many outcomes there are of the newest batch.
fn recorded(cluster: &Cluster) -> u64 {
    let listed = cluster.run(&["status", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
    let counts = listed[0]["progress"]["counts"].as_array();
    counts.map_or(0, |counts| counts.iter().filter_map(Value::as_u64).sum())
}

/// Starts it again where it has ended without success: killed, or it could not reach the cluster.
fn revive(producer: &mut Role, cluster: &Cluster) {
    if !producer.is_running() {
        assert!(!producer.wait().success(), "its inputs have no end");
        producer.start(cluster);
    }
}

/// What submits 300 items in 43 chunks.
fn submit(key: &str) -> [&str; 11] {
    ["submit", "compute.map", "--range", "0..300", "-o", "expr=x*2", "--chunk", "7", "--idempotency-key", key, "-q"]
}

#[test]
fn a_crash_before_or_after_any_step_loses_nothing_and_doubles_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let mut worker = cluster.worker();
    let mut api = cluster.api();
    // Without it a submission does not come to its points.
    cluster.until_ok(&["workers"]);
    let points = [
        "producer.publish.before",
        "producer.publish.after",
        "producer.seal.before",
        "producer.seal.after",
        "worker.run.before",
        "worker.run.after",
        "worker.report.before",
        "worker.report.after",
        "worker.settle.after",
        "collector.record.before",
        "collector.record.after",
        "collector.ack.after",
    ];
    for point in points {
        // The first time is its first message; the third one is in the middle.
        let times = if point.contains("seal") { 1..=1 } else { 1..=3 };
        for time in times.step_by(2) {
            let order = format!("{point}={time}");
            let key = |n: u32| format!("{order} {n}");
            let env = [("TIDEMILL_FAIL_AT", order.as_str())];
            let mut broken = if point.starts_with("producer") {
                cluster.role(&submit(&key(0)), &env)
            } else if point.starts_with("worker") {
                worker.kill();
                cluster.role(&["worker"], &env)
            } else {
                api.kill();
                cluster.role(&["results-api"], &env)
            };
            let mut batches = 1;
            if !point.starts_with("producer") {
                let started = Instant::now();
                let mut batch = String::new();
                while broken.is_running() {
                    assert!(started.elapsed() < PATIENCE, "{order}: it never comes to that point");
                    // A collector that dies takes the API along: a key that was not seen needs it. And one that records
                    // much at a time comes to that point less often than there are messages: it gets another batch.
                    if !batch.is_empty() && cluster.run(&["results", &batch, "-q"]).status.success() {
                        batch.clear();
                        batches += 1;
                    }
                    if batch.is_empty() {
                        let submitted = cluster.run(&submit(&key(batches - 1)));
                        if submitted.status.success() {
                            batch = String::from_utf8(submitted.stdout).unwrap().trim().to_owned();
                        }
                    }
                    breathe();
                }
            }
            assert_eq!(broken.wait().signal(), Some(Signal::SIGABRT as i32), "{order}: it ended there, and of that");
            if point.starts_with("worker") {
                worker.start(&cluster);
            } else if point.starts_with("collector") {
                api.start(&cluster);
            }
            for n in 0..batches {
                let batch = cluster.until_ok(&submit(&key(n)));
                let outcomes = cluster.must_be_sound(batch.trim(), 300);
                assert_eq!(count(&outcomes, "ok"), 300, "{order}, batch {n}");
            }
        }
    }
}

#[test]
fn an_api_that_dies_before_it_answers_loses_nothing_and_doubles_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let _worker = cluster.worker();
    let points = [
        "api.open.after",
        "producer.publish.before",
        "producer.publish.after",
        "producer.seal.before",
        "producer.seal.after",
        "express.record.before",
        "express.record.after",
    ];
    for point in points {
        let order = format!("{point}=1");
        let mut broken = cluster.role(&["results-api"], &[("TIDEMILL_FAIL_AT", order.as_str())]);
        let started = Instant::now();
        let mut answered = 0;
        // One alone, without a key, goes in a hurry where the API has heard where its answer is to come.
        let is_express = point.starts_with("express");
        let items = if is_express { &[21][..] } else { &[21, 4] };
        let key = |answered: u32| (!is_express).then(|| format!("{point} {answered}"));
        while broken.is_running() {
            assert!(started.elapsed() < PATIENCE, "{order}: it never comes to that point");
            match ask(cluster.api_port, key(answered).as_deref(), items) {
                Some(_) => answered += 1,
                None => breathe(),
            }
        }
        assert_eq!(broken.wait().signal(), Some(Signal::SIGABRT as i32), "{order}: it ended there, and of that");
        let _api = cluster.api();

        let (batch, outcomes) = loop {
            assert!(started.elapsed() < PATIENCE, "{order}: nobody answers");
            match ask(cluster.api_port, key(answered).as_deref(), items) {
                Some(answer) => break answer,
                None => breathe(),
            }
        };

        let outputs: Vec<_> = outcomes.iter().map(|outcome| outcome["output"].as_i64().unwrap()).collect();
        assert!(outputs.iter().copied().eq(items.iter().map(|item| item * 2)), "{order}: {outputs:?}");
        cluster.must_be_sound(&batch, items.len() as u64);
    }
}

#[test]
fn what_is_no_message_goes_to_the_dead_letters_and_every_worker_lives() {
    /// After so many of every sort both have what they keep.
    const WARM_UP: usize = 1_000;
    const MESSAGES: usize = 10_000;
    const TOTAL: usize = WARM_UP + MESSAGES;
    /// What neither may grow by.
    const GROWTH: u64 = 64 << 20;
    let Some(cluster) = Cluster::start() else { return };
    let mut api = cluster.api();
    let mut worker = cluster.worker();
    cluster.until_ok(&["submit", "compute.map", "1", "-o", "expr=x", "--wait", "-q"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let port = cluster.rabbit.port();
    let dead = || {
        let lines = cluster.rabbit.control(&["list_queues", "name", "messages"]);
        let line = lines.lines().find(|line| line.starts_with("tidemill.dead\t")).unwrap().to_owned();
        line.split('\t').nth(1).unwrap().trim().parse::<usize>().unwrap()
    };
    let until_dead = |messages: usize| {
        let started = Instant::now();
        while dead() < messages {
            assert!(started.elapsed() < PATIENCE, "{} of {messages} are dead letters", dead());
            breathe();
        }
    };
    runtime.block_on(async {
        letters::introduce(port).await;
        letters::send(port, 0..WARM_UP).await;
    });
    until_dead(WARM_UP);
    let reasons = runtime.block_on(letters::reasons(port, WARM_UP));
    assert!(reasons.iter().all(|reason| !reason.is_empty()), "each says why");
    for part in letters::REASONS {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "none says {part:?}");
    }
    let before = [worker.resident_bytes(), api.resident_bytes()];

    runtime.block_on(letters::send(port, WARM_UP..TOTAL));
    until_dead(TOTAL);

    assert!(worker.is_running() && api.is_running());
    for (role, (before, now)) in
        ["worker", "API"].iter().zip(before.into_iter().zip([worker.resident_bytes(), api.resident_bytes()]))
    {
        assert!(now.saturating_sub(before) <= GROWTH, "the {role} had {before} bytes, and has {now}");
    }
    runtime.block_on(letters::hostile(port));
    let (batch, items) = letters::HOSTILE;
    let outcomes = cluster.must_be_sound(batch, items);
    assert!(outcomes.iter().all(|outcome| outcome["error"]["kind"] == "forbidden"), "{outcomes:?}");
    let listed = String::from_utf8(cluster.run(&["dead", "list", "--json"]).stdout).unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let letters = listed["messages"].as_array().unwrap();
    assert_eq!(listed["messages_in_queue"], TOTAL);
    let says_why = |letter: &Value| letter["reason"].as_str().is_some_and(|reason| !reason.is_empty());
    assert!(!letters.is_empty() && letters.iter().all(says_why), "each says why");
    let batch = cluster.until_ok(&["submit", "compute.map", "--range", "0..100", "-o", "expr=x", "--chunk", "5", "-q"]);
    cluster.must_be_sound(batch.trim(), 100);
    let dropped = String::from_utf8(cluster.run(&["dead", "drop"]).stdout).unwrap();
    assert!(dropped.contains("thrown away"), "{dropped}");
    let started = Instant::now();
    while dead() > 0 {
        assert!(started.elapsed() < PATIENCE, "it says {dropped}, and {} are left", dead());
        breathe();
    }
}

/// Restarts workers that end, until `done` says so, as Docker or systemd would.
fn supervise<T>(cluster: &Cluster, workers: &mut [Role], mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        for worker in &mut *workers {
            if !worker.is_running() {
                worker.start(cluster);
            }
        }
        assert!(started.elapsed() < PATIENCE, "it never ends");
        breathe();
    }
}

/// Where the killer stands among a thousand good items.
const KILLER: usize = 321;

/// Sends a killer among a thousand good items; gives the batch and its outcomes.
fn with_killer(cluster: &Cluster, killer: Value, workers: &mut [Role], more: &[&str]) -> (String, Vec<Value>) {
    let deeds = (0..1001).map(|n| if n == KILLER { killer.clone() } else { json!({"work": 100}) });
    let inputs = items(deeds);
    let path = inputs.path().to_str().unwrap();
    let arguments = [&["submit", "test.mischief", "--items", path, "--chunk", "20", "-q"], more].concat();
    let batch = cluster.until_ok(&arguments).trim().to_owned();
    supervise(cluster, workers, || {
        let status = cluster.run(&["status", &batch, "--json"]);
        let info: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        info["completed"].is_u64().then_some(())
    });
    for worker in workers.iter_mut() {
        if !worker.is_running() {
            worker.start(cluster);
        }
    }
    let outcomes = cluster.must_be_sound(&batch, 1001);
    assert_eq!((count(&outcomes, "ok"), count(&outcomes, "dead")), (1000, 1), "only the guilty pays");
    assert_eq!(outcomes[KILLER]["status"], "dead");
    let listed = String::from_utf8(cluster.run(&["dead", "list", &batch]).stdout).unwrap();
    assert!(listed.contains(&format!("{batch}:{KILLER}")), "{listed}");
    (batch, outcomes)
}

#[test]
fn of_an_item_that_aborts_its_worker_only_that_one_is_dead() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    let mut workers = [cluster.worker(), cluster.worker()];
    let (_, outcomes) = with_killer(&cluster, json!("abort"), &mut workers, &[]);
    assert_eq!(outcomes[KILLER]["error"]["kind"], "crash");
}

#[test]
fn a_dead_item_that_does_no_harm_any_more_is_run_again_and_its_batch_is_whole() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    let mut workers = [cluster.worker(), cluster.worker()];
    let (batch, _) = with_killer(&cluster, json!("abort"), &mut workers, &[]);
    let cluster = cluster.with("TIDEMILL_TEST_TAME", "1");
    for worker in &mut workers {
        worker.kill();
        worker.start(&cluster);
    }

    let said = cluster.until_ok(&["dead", "replay", &format!("{batch}:{KILLER}")]);

    assert!(said.starts_with("1 item is run again; "), "{said}");
    let outcomes = cluster.must_be_sound(&batch, 1001);
    assert_eq!(count(&outcomes, "ok"), 1001);
    let killer = &outcomes[KILLER];
    assert_eq!((&killer["output"], &killer["attempts"]), (&json!(0), &json!(1)), "from its first attempt on");
    assert_eq!(cluster.until_ok(&["dead", "list", &batch]), "no dead items\n");
}

#[test]
fn of_an_item_that_eats_all_memory_only_that_one_is_dead() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    // The system refuses memory at this size, as a container's limit would.
    let limited = |cluster: &Cluster| cluster.role(&["worker"], &[(LIMIT_MEMORY, "3000000000")]);
    let mut workers = [limited(&cluster), limited(&cluster)];
    let (_, outcomes) = with_killer(&cluster, json!("eat_memory"), &mut workers, &[]);
    assert_eq!(outcomes[KILLER]["error"]["kind"], "crash");
}

#[test]
fn of_an_item_that_never_returns_only_that_one_is_dead_and_its_worker_starts_anew() {
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster.with("TIDEMILL__WORKER__STUCK_AFTER", "300ms").with("TIDEMILL__WORKER__GRACE", "5s");
    let _api = cluster.api();
    let mut workers = [cluster.worker()];
    let process = workers[0].pid();
    let (_, outcomes) = with_killer(&cluster, json!("never_return"), &mut workers, &["--timeout", "300ms"]);
    assert_eq!(outcomes[KILLER]["error"]["kind"], "stuck");
    assert!(workers[0].is_running() && workers[0].pid() == process, "it became itself anew");
}

#[test]
fn a_worker_that_is_told_to_stop_loses_no_attempt_and_is_gone_within_its_grace() {
    let Some(cluster) = Cluster::start() else { return };
    let grace = Duration::from_secs(5);
    let cluster = cluster.with("TIDEMILL__WORKER__GRACE", "5s");
    let _api = cluster.api();
    let mut leaving = cluster.worker();
    let inputs = items((0..3000).map(|_| json!({"work": 1000})));
    let path = inputs.path().to_str().unwrap();
    let batch = cluster.until_ok(&["submit", "test.mischief", "--items", path, "--chunk", "5", "-q"]);
    let batch = batch.trim();
    // It exits with 5 while the batch is not complete; what counts is that a line came.
    let started = Instant::now();
    while String::from_utf8(cluster.run(&["results", batch, "--limit", "1", "-q"]).stdout).unwrap().is_empty() {
        assert!(started.elapsed() < PATIENCE, "it never begins");
        breathe();
    }

    let told = Instant::now();
    leaving.signal(Signal::SIGTERM);
    let status = leaving.wait();
    assert!(status.success(), "{status}");
    // And the end of a process.
    assert!(told.elapsed() < grace + Duration::from_secs(1), "it took {:?}", told.elapsed());

    let _staying = cluster.worker();
    let outcomes = cluster.must_be_sound(batch, 3000);
    assert_eq!(count(&outcomes, "ok"), 3000);
    assert!(outcomes.iter().all(|outcome| outcome["attempts"] == 1), "no attempt was lost");
    let books = String::from_utf8(cluster.run(&["verify", batch]).stdout).unwrap();
    assert!(books.contains("duplicates  0 suppressed"), "nothing ran twice: {books}");
}

#[test]
fn a_cancelled_batch_ends_at_once_and_every_item_has_its_outcome() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    let _worker = cluster.worker();
    // Half an hour of work.
    let inputs = items((0..2000).map(|_| json!({"work": 1_000_000})));
    let path = inputs.path().to_str().unwrap();
    let batch = cluster.until_ok(&["submit", "test.mischief", "--items", path, "--chunk", "10", "-q"]);
    let batch = batch.trim();
    let started = Instant::now();
    cluster.until_ok(&["cancel", batch]);
    let outcomes = cluster.must_be_sound(batch, 2000);
    assert!(started.elapsed() < Duration::from_secs(30), "it took {:?}", started.elapsed());
    assert!(count(&outcomes, "cancelled") > 1900);
    assert_eq!(count(&outcomes, "cancelled") + count(&outcomes, "ok"), 2000);
    // Its one thread was in the middle of one item; all others were queued, in the worker or in the broker.
    let begun = |outcome: &&Value| outcome["status"] == "cancelled" && outcome["attempts"] != 0;
    assert!(outcomes.iter().filter(begun).count() <= 1, "none of those that were queued was begun");
}

#[test]
fn items_that_have_not_begun_when_their_batchs_time_is_over_are_expired() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    let batch =
        cluster.until_ok(&["submit", "compute.map", "--range", "0..100", "-o", "expr=x", "--expires-in", "1ms", "-q"]);
    let _worker = cluster.worker();
    let outcomes = cluster.must_be_sound(batch.trim(), 100);
    assert_eq!(count(&outcomes, "expired"), 100);
    assert!(outcomes.iter().all(|outcome| outcome["attempts"] == 0));
}

#[test]
fn an_item_that_fails_for_a_passing_reason_is_run_again_as_often_as_allowed() {
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster.with("TIDEMILL__RETRY__BASE", "20ms");
    let _api = cluster.api();
    let _worker = cluster.worker();
    let inputs = items([json!({"work": 1}), json!("fail_again"), json!({"work": 2})].into_iter());
    let path = inputs.path().to_str().unwrap();
    let batch = cluster.until_ok(&["submit", "test.mischief", "--items", path, "--chunk", "3", "--retries", "2", "-q"]);
    let outcomes = cluster.must_be_sound(batch.trim(), 3);
    assert_eq!(outcomes[1]["status"], "failed");
    assert_eq!(outcomes[1]["attempts"], 3);
    assert_eq!(count(&outcomes, "ok"), 2);
}

#[test]
fn a_submit_that_meets_a_blocked_broker_ends_at_its_deadline_and_can_be_resumed() {
    let Some(cluster) = Cluster::start() else { return };
    let _api = cluster.api();
    // It is asked first whether the key is known.
    cluster.until_ok(&["workers"]);
    cluster.rabbit.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    let submit = ["submit", "compute.map", "--range", "0..5000", "-o", "expr=x", "--chunk", "10"];

    let started = Instant::now();
    let blocked = cluster.run(&[&submit[..], &["--idempotency-key", "k", "--deadline", "3s"]].concat());
    assert!(started.elapsed() < Duration::from_secs(3 + 5), "it cannot hang");
    let said = String::from_utf8_lossy(&blocked.stderr).into_owned();
    assert_eq!(blocked.status.code(), Some(4), "{said}");
    assert!(said.contains("waiting: the broker takes nothing now"), "{said}");
    assert!(said.contains("accepted: the first") && said.contains("--resume"), "{said}");

    cluster.rabbit.control(&["set_vm_memory_high_watermark", "absolute", "2GB"]);
    let _worker = cluster.worker();
    let batch = cluster.until_ok(&[&submit[..], &["--idempotency-key", "k"]].concat());
    let outcomes = cluster.must_be_sound(batch.trim(), 5000);
    assert_eq!(count(&outcomes, "ok"), 5000);
    let once_more = cluster.until_ok(&[&submit[..], &["--idempotency-key", "k"]].concat());
    assert_eq!(once_more, batch, "the same key never makes a second batch");
}
