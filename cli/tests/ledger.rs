//! `--out FILE`: outcomes in a file, and a run that goes on after any end.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "support/files.rs"]
mod files;
mod support;

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use self::files::{Folder, lines, rows, until_it_has};
use self::support::{Ended, run, start, tidemill};

const EXPR: &str = "expr=x*x - 2*x";
/// More than a pipe holds, so that a command which has written some of them is in the middle of reading.
const ITEMS: u64 = 50_000;

/// Inputs that come, and do not end before they are taken away.
struct Fed {
    child: Child,
    inputs: Option<std::process::ChildStdin>,
}

impl Fed {
    /// Starts a command over numbers from standard input, and waits until a file of its has so many lines.
    fn start(args: &[&str], items: u64, file: &str, lines: usize) -> Self {
        let mut command = tidemill(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut inputs = child.stdin.take().unwrap();
        inputs.write_all(numbers(items).as_bytes()).unwrap();
        until_it_has(lines, file, &mut child);
        Self { child, inputs: Some(inputs) }
    }

    fn end_with(mut self, signal: Signal) -> Ended {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        let ended = self.child.wait_with_output().unwrap().into();
        drop(self.inputs.take());
        ended
    }
}

fn numbers(items: u64) -> String {
    (0..items).map(|number| format!("{number}\n")).collect()
}

fn resumed(args: &[&str], items: u64) -> Ended {
    support::run_with_input(&[args, &["--resume"]].concat(), &numbers(items))
}

/// Makes the file one that was not finished.
fn label(file: &str, task: &str, options: &Value) {
    std::fs::write(format!("{file}.part.json"), json!({ "task": task, "options": options }).to_string()).unwrap();
}

#[test]
fn outcomes_go_to_the_file_and_not_to_standard_output() {
    let folder = Folder::new();
    let (ndjson, parquet) = (folder.path("all.ndjson"), folder.path("all.parquet"));
    let expected: Vec<Value> = run(&["run", "compute.map", "1", "2", "x", "8", "-o", EXPR]).lines();
    for file in [&ndjson, &parquet] {
        let ended = run(&["run", "compute.map", "1", "2", "x", "8", "-o", EXPR, "--out", file]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), ""), "{}", ended.stderr);
        assert!(ended.stderr.starts_with("3 ok, 1 failed in"), "{}", ended.stderr);
    }

    let without = |mut line: Value| {
        line.as_object_mut().unwrap().retain(|key, _| key != "worker" && key != "timing");
        line
    };
    assert_eq!(lines(&ndjson), expected.into_iter().map(without).collect::<Vec<_>>());
    let rows = rows(&parquet);
    assert_eq!(
        rows.iter().map(|row| row["output"].clone()).collect::<Vec<_>>(),
        [json!(-1.0), json!(0.0), Value::Null, json!(48.0)]
    );
    assert_eq!(
        (&rows[2]["status"], &rows[2]["input"], &rows[2]["error_kind"]),
        (&json!("failed"), &json!("x"), &json!("invalid_input"))
    );
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet"], "nothing else is left");
}

#[test]
fn with_a_format_they_are_printed_too() {
    let folder = Folder::new();
    let ended = run(&["run", "compute.map", "3", "-o", EXPR, "--out", &folder.path("a.jsonl"), "--format", "ndjson"]);
    assert_eq!(ended.field("output"), [3]);
    assert_eq!(lines(&folder.path("a.jsonl"))[0]["output"], 3);
}

#[test]
fn the_properties_of_an_output_are_columns_and_names_are_kept() {
    let folder = Folder::new();
    let (out, file) = (folder.path("small"), folder.path("small.parquet"));
    let photos = ["run", "image.transform", "examples/photos", "-o", r#"steps=[{"thumbnail":[40,40]}]"#];
    let ended = run(&[&photos[..], &["--out", &file, "--out", &out]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let rows = rows(&file);
    let coffee = rows.iter().find(|row| row["name"] == "coffee.png").unwrap();
    assert_eq!(coffee["input"], "examples/photos/coffee.png");
    assert_eq!(coffee["output_width"], 40);
    let image: Value = serde_json::from_str(coffee["output_image"].as_str().unwrap()).unwrap();
    assert!(Path::new(image["file"].as_str().unwrap()).is_file());
}

#[test]
fn a_killed_run_goes_on_and_ends_in_the_same_file() {
    let folder = Folder::new();
    for (name, journal) in [("all.ndjson", "all.ndjson"), ("all.parquet", "all.parquet.part.ndjson")] {
        let (file, journal) = (folder.path(name), folder.path(journal));
        let whole = folder.path(&format!("whole-{name}"));
        let args = |file| ["run", "compute.map", "-", "-o", EXPR, "--out", file];
        let uninterrupted = support::run_with_input(&args(&whole), &numbers(ITEMS));
        assert_eq!(uninterrupted.code, Some(0), "{}", uninterrupted.stderr);

        let killed = Fed::start(&args(&file), ITEMS - 1, &journal, 1000).end_with(Signal::SIGKILL);
        assert_eq!(killed.code, None);
        // As if the machine had stopped within a line.
        write!(std::fs::OpenOptions::new().append(true).open(&journal).unwrap(), "{{\"index\":77,\"inp").unwrap();
        let again = Fed::start(&[&args(&file)[..], &["--resume"]].concat(), ITEMS - 1, &journal, 2000);
        again.end_with(Signal::SIGKILL);
        let ended = resumed(&args(&file), ITEMS);

        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
        if name == "all.ndjson" {
            assert!(lines(&file) == lines(&whole), "the lines are the same");
            assert_eq!(lines(&file).len() as u64, ITEMS);
        } else {
            assert!(rows(&file) == rows(&whole), "the rows are the same");
            assert_eq!(rows(&file).len() as u64, ITEMS);
        }
    }
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet", "whole-all.ndjson", "whole-all.parquet"]);
}

#[test]
fn an_interrupted_run_goes_on_where_it_was_cancelled_and_counts_all() {
    let folder = Folder::new();
    let file = folder.path("all.parquet");
    let journal = folder.path("all.parquet.part.ndjson");
    let args = ["run", "compute.map", "-", "-o", "expr=1/(x-3)", "--out", &file];
    let ended = Fed::start(&args, 1000, &journal, 500).end_with(Signal::SIGINT);
    assert_eq!(ended.code, Some(130));
    assert!(
        ended.stderr.contains("all.parquet is not finished; the same command with --resume goes on"),
        "{}",
        ended.stderr
    );
    assert!(!PathBuf::from(&file).exists());

    let ended = resumed(&args, 2000);

    assert_eq!(ended.code, Some(5), "the one that failed in the first part counts");
    assert!(ended.stderr.starts_with("1999 ok, 1 failed in"), "{}", ended.stderr);
    let indices: Vec<u64> = rows(&file).iter().map(|row| row["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..2000).collect::<Vec<_>>());
}

#[test]
fn what_was_cancelled_is_run_again() {
    let folder = Folder::new();
    let file = folder.path("all.ndjson");
    let args = ["run", "time.sleep", "0", "0", "20", "0", "1", "-o", "tick_ms=100", "--out", &file];
    let fed = Fed::start(&args, 0, &file, 2);
    assert_eq!(fed.end_with(Signal::SIGINT).code, Some(130));
    let statuses = || lines(&file).iter().map(|line| line["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert!(statuses().contains(&"cancelled".to_owned()));

    let ended = run(&[&args[..], &["--resume"]].concat());

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(statuses(), ["ok"; 5]);
    assert_eq!(lines(&file)[2]["output"], "Done sleeping for 20 second(s)");
}

#[test]
fn a_run_that_was_stopped_while_the_file_was_made_makes_it_again() {
    let folder = Folder::new();
    let (file, ndjson) = (folder.path("all.parquet"), folder.path("all.ndjson"));
    let args = |file| ["run", "compute.map", "--range", "0..100", "-o", EXPR, "--out", file];
    run(&args(&ndjson));
    std::fs::rename(&ndjson, folder.path("all.parquet.part.ndjson")).unwrap();
    std::fs::write(folder.path("all.parquet.part"), "PAR1 and no more").unwrap();
    label(&file, "compute.map", &json!({"expr": "x*x - 2*x"}));

    let ended = run(&[&args(&file)[..], &["--resume"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(rows(&file).len(), 100);
    assert_eq!(folder.names(), ["all.parquet"]);

    let ended = run(&[&args(&file)[..], &["--resume"]].concat());
    assert_eq!((ended.code, ended.stderr.contains("is complete")), (Some(0), true), "{}", ended.stderr);
    let ended = run(&args(&file));
    assert_eq!(ended.code, Some(2));
    let hint = "all.parquet is there already, and complete\n  hint: remove it, or name another file with --out\n";
    assert!(ended.stderr.ends_with(hint), "{}", ended.stderr);
}

#[test]
fn files_of_a_run_that_goes_on_never_get_the_names_of_those_before() {
    let folder = Folder::new();
    let photo = support::root().join("examples/photos/coffee.png");
    std::fs::create_dir(folder.path("in")).unwrap();
    for name in ["a.gif", "a.jpg", "a.png"] {
        std::fs::copy(&photo, folder.path("in/") + name).unwrap();
    }
    let (inputs, out, file) = (folder.path("in"), folder.path("out"), folder.path("all.ndjson"));
    let steps = r#"steps=[{"thumbnail":[40,40]}]"#;
    let args = ["run", "image.transform", &inputs, "-o", steps, "-o", "format=webp", "--out", &out, "--out", &file];
    assert_eq!(run(&args).code, Some(0));
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.split_inclusive('\n').next().unwrap()).unwrap();
    label(&file, "image.transform", &json!({"steps": [{"thumbnail": [40, 40]}], "format": "webp"}));

    let ended = run(&[&args[..], &["--resume"]].concat());

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let names: Vec<Value> = lines(&file).iter().map(|line| line["output"]["image"]["file"].clone()).collect();
    assert_eq!(names, ["a.webp", "a.jpg.webp", "a.png.webp"].map(|name| json!(format!("{out}/{name}"))));
    label(&file, "image.transform", &json!({"steps": [{"thumbnail": [40, 40]}], "format": "webp"}));
    let other = run(&[&args[..7], &["--out", &folder.path("other"), "--out", &file, "--resume"]].concat());
    assert_eq!(other.code, Some(2));
    assert!(other.stderr.contains("the files before are not in"), "{}", other.stderr);
}

#[test]
fn what_cannot_be_is_said_before_anything_runs() {
    let folder = Folder::new();
    let (there, out, other) = (folder.path("there.ndjson"), folder.path("x"), folder.path("y"));
    assert_eq!(run(&["run", "compute.map", "1", "2", "-o", EXPR, "--out", &there]).code, Some(0));
    let before = std::fs::read(&there).unwrap();
    let parquet = folder.path("a.parquet");
    let coco = folder.path("a.coco.json");
    for (args, problem) in [
        (vec!["1", "--out", &there], "there.ndjson is there already"),
        (vec!["1", "3", "4", "--out", &there, "--resume"], "is of other inputs: number 2 was 2 before, and is 3 now"),
        (vec!["1", "--out", &there, "--resume"], "there were at least 2 before, and there are 1 now"),
        (vec!["1", "2", "3", "--out", &there, "--resume"], "is of other inputs: it is complete, with 2 of them"),
        (vec!["1", "--resume"], "nothing says with what to go on"),
        (vec!["1", "--out", &there, "--resume", "--order", "completion"], "order of completion"),
        (vec!["1", "--out", &there, "--out", &parquet], "are two files for outcomes"),
        (vec!["1", "--out", &out, "--out", &other], "are two folders"),
        (vec!["1", "--out", &out], "compute.map makes no files"),
        (vec!["1", "--out", &coco], "compute.map has no COCO form"),
        (vec!["1", "--out", "/no/such/folder/a.ndjson"], "cannot write /no/such/folder/a.ndjson"),
    ] {
        let ended = run(&[&["run", "compute.map", "-o", EXPR][..], &args].concat());
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(problem), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("hint: "), "{args:?}: {}", ended.stderr);
    }
    assert_eq!(std::fs::read(&there).unwrap(), before);
    assert_eq!(folder.names(), ["there.ndjson"]);
    let within = run(&["run", "text.count", &folder.path(""), "--out", &folder.path("b.ndjson")]);
    assert!(within.stderr.contains("lies within the input"), "{}", within.stderr);
    std::fs::write(folder.path("c.json"), "x").unwrap();
    for (glob, name) in [("*", "b.ndjson"), ("*.ndjson", "b.ndjson"), ("*.json", "b.ndjson.part.json")] {
        let within = run(&["run", "text.count", &folder.path(glob), "--out", &folder.path("b.ndjson")]);
        let problem = format!("{} lies within the inputs", folder.path(name));
        assert_eq!((within.code, within.stderr.contains(&problem)), (Some(2), true), "{glob}: {}", within.stderr);
    }
    assert_eq!(folder.names(), ["c.json", "there.ndjson"]);
    let beside = run(&["run", "text.count", &folder.path("c*"), "--out", &folder.path("b.ndjson"), "-q"]);
    assert_eq!(beside.code, Some(0), "{}", beside.stderr);
}

#[test]
fn an_input_that_no_text_can_be_costs_its_neighbours_nothing() {
    let folder = Folder::new();
    let (items, parquet) = (folder.path("items.ndjson"), folder.path("a.parquet"));
    std::fs::write(&items, format!("{:?}\n\"\\ud800\"\n", items)).unwrap();

    let ended = run(&["run", "text.count", "--items", &items, "--out", &parquet, "--format", "csv"]);

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.stdout.contains("1,\"\"\"\\ud800\"\"\",failed"), "{}", ended.stdout);
    let inputs: Vec<Value> = rows(&parquet).iter().map(|row| row["input"].clone()).collect();
    assert_eq!(inputs, [Value::from(&*items), Value::from("\"\\ud800\"")]);
}

#[test]
fn a_finished_file_of_any_order_is_of_the_same_inputs() {
    let folder = Folder::new();
    let file = folder.path("a.parquet");
    let sleeps = ["run", "time.sleep", "0.3", "0.001", "--out", &file];
    let slept = run(&[&sleeps[..], &["--order", "completion", "--workers", "2", "--chunk", "1"]].concat());
    assert_eq!(
        (slept.code, rows(&file)[1]["input"].as_str()),
        (Some(0), Some("{\"seconds\":0.3}")),
        "{}",
        slept.stderr
    );

    let ended = run(&[&sleeps[..], &["--resume"]].concat());

    assert_eq!((ended.code, ended.stderr.contains("is complete")), (Some(0), true), "{}", ended.stderr);
}

#[test]
fn a_finished_file_is_gone_on_with_only_by_the_same_command_and_ends_as_it_did() {
    let folder = Folder::new();
    for name in ["all.ndjson", "all.parquet"] {
        let file = folder.path(name);
        let again = |args: &[&str]| {
            let ended = run(&[args, &["--out", &file, "--resume"]].concat());
            (ended.code, ended.stderr)
        };
        assert_eq!(run(&["run", "compute.map", "1", "0", "2", "-o", "expr=1/x", "--out", &file]).code, Some(5));
        let before = std::fs::read(&file).unwrap();

        let (code, said) = again(&["run", "compute.map", "1", "0", "2", "-o", "expr=1/x"]);
        assert_eq!((code, said.contains("is complete; there is nothing")), (Some(5), true), "{name}: {said}");
        for (inputs, problem) in [
            (&["1", "0", "3"][..], "is of other inputs: number 3 was 2 before, and is 3 now"),
            (&["1", "0"], "there were at least 3 before, and there are 2 now"),
            (&["1", "0", "2", "5"], "is of other inputs: it is complete, with 3 of them"),
        ] {
            let (code, said) = again(&[&["run", "compute.map", "-o", "expr=1/x"], inputs].concat());
            assert_eq!((code, said.contains(problem)), (Some(2), true), "{name}: {said}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
    for (args, problem) in [
        (&["run", "compute.map", "1", "0", "2", "-o", "expr=x"][..], "expr was \"1/x\" before, and is \"x\" now"),
        (&["run", "compute.factorize", "1", "0", "2"], "is of another task: it was compute.map before"),
    ] {
        let ended = run(&[args, &["--out", &folder.path("all.parquet"), "--resume"]].concat());
        assert_eq!((ended.code, ended.stderr.contains(problem)), (Some(2), true), "{}", ended.stderr);
    }
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet"]);
}

#[test]
fn an_unfinished_file_is_gone_on_with_only_by_the_same_task_and_options() {
    let folder = Folder::new();
    for (name, journal) in [("all.ndjson", "all.ndjson"), ("all.parquet", "all.parquet.part.ndjson")] {
        let (file, journal) = (folder.path(name), folder.path(journal));
        let args = ["run", "compute.map", "-", "-o", "expr=x", "-o", "device=cpu", "--out", &file];
        Fed::start(&args, 1000, &journal, 500).end_with(Signal::SIGKILL);
        for (args, problem) in [
            (
                &["run", "compute.map", "-o", "expr=x*1000", "-o", "device=cpu"][..],
                "expr was \"x\" before, and is \"x*1000\" now",
            ),
            (&["run", "compute.map", "-o", "expr=x"], "device was \"cpu\" before, and is not given now"),
            (&["run", "compute.factorize"], "is of another task: it was compute.map before"),
        ] {
            let ended = resumed(&[args, &["-", "--out", &file]].concat(), 1000);
            assert_eq!((ended.code, ended.stderr.contains(problem)), (Some(2), true), "{name}: {}", ended.stderr);
        }
        assert_eq!(resumed(&args, 1000).code, Some(0));
    }
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet"]);
}

#[test]
fn a_file_of_something_else_is_not_gone_on_with() {
    let folder = Folder::new();
    let file = folder.path("a.ndjson");
    for text in ["{\"a\":1}", "{\"a\":1}\n"] {
        std::fs::write(&file, text).unwrap();
        let ended = run(&["run", "compute.map", "1", "-o", "expr=x", "--out", &file, "--resume"]);
        assert_eq!(
            (ended.code, ended.stderr.contains("line 1: it is no outcome")),
            (Some(2), true),
            "{}",
            ended.stderr
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
    // What is left of a file that is not there any more is of no file.
    std::fs::remove_file(&file).unwrap();
    label(&file, "compute.factorize", &json!({}));
    assert_eq!(run(&["run", "compute.map", "1", "-o", "expr=x", "--out", &file, "--resume"]).code, Some(0));
    assert_eq!(folder.names(), ["a.ndjson"]);
}

#[test]
fn whoever_closes_our_output_leaves_a_file_that_is_not_finished_and_is_told_so() {
    let folder = Folder::new();
    let file = folder.path("all.ndjson");
    let args = ["run", "compute.map", "--range", "0..100000000", "-o", EXPR, "--format", "ndjson", "--out", &file];
    let (child, mut lines) = start(&args);
    assert_eq!(lines.next().unwrap()["index"], 0);
    drop(lines);

    let ended: Ended = child.wait_with_output().unwrap().into();

    let said = format!("{file} is not finished; the same command with --resume goes on\n");
    assert_eq!((ended.code, ended.stderr.ends_with(&said)), (Some(130), true), "{}", ended.stderr);
}

#[test]
fn what_was_written_in_the_order_of_completion_is_not_said_to_go_on() {
    let folder = Folder::new();
    for (name, journal) in [("all.ndjson", "all.ndjson"), ("all.parquet", "all.parquet.part.ndjson")] {
        let (file, journal) = (folder.path(name), folder.path(journal));
        let sleeps = ["run", "time.sleep", "0", "0", "1000", "--order", "completion", "--out", &file];
        let ended = Fed::start(&sleeps, 0, &journal, 2).end_with(Signal::SIGINT);

        let said = format!("; remove {journal} and run it again\n");
        assert_eq!((ended.code, ended.stderr.ends_with(&said)), (Some(130), true), "{}", ended.stderr);
        std::fs::remove_file(&journal).unwrap();
        let again = run(&["run", "time.sleep", "0", "--order", "completion", "--out", &file]);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
    }
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet"]);
}

#[test]
fn an_input_is_never_taken_for_what_stands_beside_the_file() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name);
    std::fs::create_dir(path("d.parquet.part.files")).unwrap();
    let names = ["a.ndjson", "a.ndjson.part.json", "b.parquet.part", "c.ndjson.part.json", "d.parquet.part.files/x"];
    names.iter().for_each(|name| std::fs::write(path(name), "1\n").unwrap());
    symlink(path("b.parquet.part"), path("link")).unwrap();
    let url = format!("file://{}", path("b.parquet.part"));
    let count = |input: &str| ["run", "text.count", input].map(str::to_owned).to_vec();
    let items = ["run", "compute.map", "-o", "expr=x", "--items", &path("c.ndjson.part.json")].map(str::to_owned);

    for (command, out, input) in [
        (count(&path("a.ndjson.part.json")), "a.ndjson", "a.ndjson.part.json"),
        (count(&path("a.ndjson")), "a.ndjson", "a.ndjson"),
        (count(&path("b.parquet.part")), "b.parquet", "b.parquet.part"),
        (count(&path("link")), "b.parquet", "b.parquet.part"),
        (count(&url), "b.parquet", "b.parquet.part"),
        (items.to_vec(), "c.ndjson", "c.ndjson.part.json"),
        (count(&path("d.parquet.part.files")), "d.parquet", "d.parquet.part.files"),
        (count(&path("d.parquet.part.files/x")), "d.parquet", "d.parquet.part.files"),
        (count(&path("d.parquet.part.files/*")), "d.parquet", "d.parquet.part.files"),
    ] {
        let out = path(out);
        let command: Vec<&str> = command.iter().map(String::as_str).chain(["--out", &out, "--resume"]).collect();
        let ended = run(&command);
        let problem = format!("--out: {} lies within the inputs", path(input));
        assert_eq!((ended.code, ended.stderr.contains(&problem)), (Some(2), true), "{command:?}: {}", ended.stderr);
    }
    names.iter().for_each(|name| assert_eq!(std::fs::read_to_string(path(name)).unwrap(), "1\n", "{name}"));
}

#[test]
fn a_file_that_a_link_would_make_an_input_is_refused() {
    let folder = Folder::new();
    for name in ["photos", "results"] {
        std::fs::create_dir(folder.path(name)).unwrap();
    }
    std::fs::write(folder.path("photos/a"), "x").unwrap();
    symlink("../results", folder.path("photos/link")).unwrap();

    let file = folder.path("results/all.ndjson");
    let ended = run(&["run", "text.count", &folder.path("photos"), "--out", &file]);

    assert_eq!((ended.code, ended.stderr.contains("lies within the inputs")), (Some(2), true), "{}", ended.stderr);
    assert!(!PathBuf::from(file).exists());
}

#[test]
fn what_is_not_ours_is_not_replaced_though_it_has_the_name() {
    let folder = Folder::new();
    let file = folder.path("a.parquet");
    let args = ["run", "compute.map", "1", "-o", "expr=x", "--out", &file];
    for name in ["a.parquet.part", "a.parquet.part.json"] {
        let foreign = folder.path(name);
        std::fs::write(&foreign, "of somebody else").unwrap();
        for more in [&[] as &[&str], &["--resume"]] {
            let ended = run(&[&args[..], more].concat());
            let says =
                ended.stderr.contains(&foreign) && ended.stderr.contains("hint: remove it, or name another file");
            assert_eq!((ended.code, says), (Some(2), true), "{name}: {}", ended.stderr);
            assert_eq!(folder.names(), [name]);
        }
        assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "of somebody else");
        std::fs::remove_file(foreign).unwrap();
    }
    assert_eq!(run(&args).code, Some(0));
}
