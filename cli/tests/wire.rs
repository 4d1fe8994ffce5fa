//! The wire as `docs/wire.md` tells it: a Python program without any of our code publishes batches, reads their outcomes,
//! and works in place of our worker. The servers are real, and so are the processes.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Ended, root, tidemill};
use tidemill_core::store::frame::Frames;
use tidemill_core::wire::{Type, decode};
use tidemill_testing::{Rabbit, Redis, free_port, or_skip, skip, unique};

/// A cluster of its own on servers that others use too.
struct World {
    rabbit: Rabbit,
    redis: Redis,
    prefix: String,
    packages: String,
    /// Where its results API listens.
    api: String,
}

/// A process that ends with its value.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `None` where the servers or the Python packages are not installed.
fn sandbox() -> Option<World> {
    let (rabbit, redis) = (or_skip(Rabbit::shared())?, or_skip(Redis::shared())?);
    let asked = Command::new("python3").arg(root().join("bin/python-clients")).arg("--where").output();
    let packages = match asked {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        _ => {
            skip(&"the Python clients are not installed (`bin/python-clients` fetches them)");
            return None;
        }
    };
    Some(World { rabbit, redis, prefix: unique(), packages, api: format!("127.0.0.1:{}", free_port()) })
}

impl World {
    /// Starts one of our roles.
    fn role(&self, name: &str) -> Role {
        let mut command = tidemill(&[name]);
        command
            .env("TIDEMILL__BROKER__URL", self.rabbit.url())
            .env("TIDEMILL__BROKER__PREFIX", &self.prefix)
            .env("TIDEMILL__STORE__URL", self.redis.url())
            .env("TIDEMILL__STORE__PREFIX", &self.prefix)
            .env("TIDEMILL__API__LISTEN", &self.api)
            .env("TIDEMILL__WORKER__NAME", "ours");
        Role(command.spawn().unwrap())
    }

    fn python(&self, word: &str, args: &[&str]) -> Command {
        let mut command = Command::new("python3");
        command.arg("-B").arg(root().join("tests/wire/client.py")).arg(word);
        command.args(["--amqp", &self.rabbit.url(), "--prefix", &self.prefix]).args(args);
        command.env("PYTHONPATH", &self.packages).stdin(Stdio::null());
        command
    }

    /// Publishes a batch and reads all there is of it.
    fn submit(&self, task: &str, options: &Value, priority: &str, inputs: &[Value]) -> Value {
        let inputs: Vec<String> = inputs.iter().map(Value::to_string).collect();
        let (url, http, options) = (self.redis.url(), format!("http://{}", self.api), options.to_string());
        let mut args =
            vec!["--redis", &url, "--http", &http, "--task", task, "--options", &options, "--priority", priority, "--"];
        args.extend(inputs.iter().map(String::as_str));
        answer(&mut self.python("submit", &args))
    }
}

/// What a program printed, as a value.
fn answer(command: &mut Command) -> Value {
    let Ended { code, stdout, stderr } = command.output().unwrap().into();
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// One field of every outcome in one of the orders.
fn field(found: &Value, order: &str, name: &str) -> Vec<Value> {
    found[order].as_array().unwrap().iter().map(|outcome| outcome[name].clone()).collect()
}

/// Whether the completion order has the same outcomes as the input order, and what came over HTTP those of Redis.
fn assert_same_in_both_orders(found: &Value) {
    for order in ["input", "completion"] {
        assert_eq!(found["framed"][order], found[order]);
    }
    let mut landed = found["completion"].as_array().unwrap().clone();
    landed.sort_by_key(|outcome| outcome["index"].as_u64());
    assert_eq!(&landed, found["input"].as_array().unwrap());
}

#[test]
fn a_python_client_publishes_a_batch_and_reads_its_outcomes_in_either_order() {
    let Some(world) = sandbox() else { return };
    let _api = world.role("results-api");
    let _worker = world.role("worker");
    let mut inputs: Vec<Value> = (1..=50).map(Value::from).collect();
    inputs[20] = json!("twenty-one");

    let found = world.submit("compute.map", &json!({"expr": "x*x - 2*x"}), "0", &inputs);

    assert_eq!(field(&found, "input", "index"), (0..50).map(Value::from).collect::<Vec<_>>());
    assert_eq!(field(&found, "input", "input"), inputs);
    for (place, output) in field(&found, "input", "output").into_iter().enumerate() {
        let x = i64::try_from(place).unwrap() + 1;
        assert_eq!(output, if place == 20 { Value::Null } else { json!(x * x - 2 * x) });
    }
    let bad = &found["input"][20];
    assert_eq!((&bad["status"], &bad["error"]["kind"]), (&json!("failed"), &json!("invalid_input")));
    assert_eq!(
        found["counts"],
        json!({"total": 50, "ok": 49, "failed": 1, "dead": 0, "cancelled": 0, "expired": 0, "duplicates": 0})
    );
    assert_same_in_both_orders(&found);
}

#[test]
fn a_python_worker_in_place_of_ours_comes_to_the_same() {
    let Some(world) = sandbox() else { return };
    let _api = world.role("results-api");
    let numbers: Vec<Value> = [1, 2, 97, 360, 37_016_767, 59_639_200].map(Value::from).to_vec();
    let inputs = [&numbers[..], &[json!(0), json!("ten")]].concat();

    let ours = {
        let _worker = world.role("worker");
        world.submit("compute.factorize", &json!({}), "3", &inputs)
    };
    let mut worker = Role(world.python("work", &["--lane", "cpu"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut ready = String::new();
    BufReader::new(worker.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let theirs = world.submit("compute.factorize", &json!({}), "3", &inputs);

    assert_eq!(field(&ours, "input", "output")[..4], [json!([]), json!([2]), json!([97]), json!([2, 2, 2, 3, 3, 5])]);
    for name in ["index", "input", "status", "output", "attempts"] {
        assert_eq!(field(&theirs, "input", name), field(&ours, "input", name), "{name}");
    }
    let workers = field(&theirs, "input", "worker");
    assert!(workers.iter().all(|name| name.as_str().unwrap().starts_with("python-")), "{workers:?}");
    assert_same_in_both_orders(&theirs);

    // What failed for a passing reason waits in the broker and runs again.
    let again = world.submit("test.second-try", &json!({}), "3", &inputs);
    assert_eq!(field(&again, "input", "output"), inputs);
    assert_eq!(field(&again, "input", "attempts"), vec![json!(2); inputs.len()]);
}

#[test]
fn a_message_that_cannot_be_read_lies_among_the_dead_letters_with_its_reason() {
    let Some(world) = sandbox() else { return };
    let _api = world.role("results-api");
    let refused = |kind: &str, body: &str| {
        let letter = answer(&mut world.python("refused", &["--type", kind, "--body", body]));
        assert_eq!((letter["type"].as_str(), letter["body"].as_str()), (Some(kind), Some(body)));
        letter["reason"].as_str().unwrap().to_owned()
    };

    assert_eq!(
        refused("tidemill.seal", r#"{"v":2,"batch":"b","sum":1}"#),
        "version 2 is not spoken here; version 1 is"
    );
    assert_eq!(
        refused("tidemill.seal", r#"{"v":1,"batch":"a/b","total":1}"#),
        r#""a/b" is no batch id: one has 1 to 64 letters, digits, - and _ at line 1 column 20"#
    );
    assert_eq!(
        refused("tidemill.news", "{}"),
        r#"its type is "tidemill.news", none of tidemill.open, tidemill.chunk, tidemill.outcomes, tidemill.seal, tidemill.heartbeat"#
    );
    assert!(refused("tidemill.chunk", "{").starts_with("EOF while parsing"));
}

#[test]
fn the_examples_of_the_page_are_what_the_code_reads() {
    let page = std::fs::read_to_string(root().join("docs/wire.md")).unwrap();
    let (mut kind, mut seen, mut lines) = ("", Vec::new(), page.lines());
    let mut frames = Frames::default();
    while let Some(line) = lines.next() {
        if let Some(named) = line.strip_prefix("Type `") {
            kind = named.split('`').next().unwrap();
        } else if line == "```json" {
            let example = lines.next().unwrap();
            let body = decode(kind, example.to_owned().into()).unwrap_or_else(|error| panic!("{kind}: {error}"));
            seen.push(body.kind().unwrap());
        } else if line.starts_with("{\"order\":") {
            // Its segments are not shown.
            frames.push(format!("{line}\n{:240}", "").as_bytes());
        }
    }
    assert_eq!(seen, Type::ALL);
    assert_eq!(frames.take().unwrap().map(|page| page.next()), Some(3));
}
