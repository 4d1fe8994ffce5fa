//! `tidemill run`, end to end.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{run, run_with_input, start, tidemill};

const EXPR: &str = "expr=x*x - 2*x";

#[test]
fn values_come_out_in_the_order_in_which_they_went_in() {
    let ended = run(&["run", "compute.map", "1", "2", "3", "8", "10", "-o", EXPR]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.field("output"), [-1, 0, 3, 48, 80]);
    assert_eq!(ended.field("index"), [0, 1, 2, 3, 4]);
    assert_eq!(ended.stderr, "", "nothing is said that nobody asked for");
}

#[test]
fn a_line_has_exactly_the_fields_of_the_contract() {
    let ended = run(&["run", "compute.map", "--range", "-1..1", "-o", "expr=1/x"]);
    assert_eq!(ended.code, Some(5));
    let lines: Vec<Value> = ended.lines();
    let keys = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let common = ["index", "input", "status", "attempts", "worker", "device", "timing"];
    let with = |field| sorted(common.iter().copied().chain([field]).collect());
    let keys_sorted = |line: &Value| {
        let mut keys = keys(line);
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys_sorted(&lines[0]), with("output"));
    assert_eq!(keys_sorted(&lines[1]), with("error"));
    assert_eq!(
        lines[1]["error"],
        json!({"kind": "not_finite", "message": "1/x is infinite for x = 0", "retryable": false})
    );
    assert!(lines[0]["timing"]["queued_ms"].is_number() && lines[0]["timing"]["run_ms"].is_number());
}

#[test]
fn sleepers_show_both_orders() {
    let sleep = |order| run(&["run", "time.sleep", "5", "4", "3", "2", "1", "-o", "tick_ms=300", "--order", order]);
    let said = |seconds: i32| json!(format!("Done sleeping for {seconds} second(s)"));
    assert_eq!(sleep("completion").field("output"), [1, 2, 3, 4, 5].map(said));
    assert_eq!(sleep("input").field("output"), [5, 4, 3, 2, 1].map(said));
}

#[test]
fn a_thousand_sleepers_take_about_as_long_as_one() {
    let ones = vec!["1"; 1000];
    let ended = run(&[&["run", "time.sleep"], &ones[..]].concat());
    let took =
        |line: &Value| line["timing"]["queued_ms"].as_f64().unwrap() + line["timing"]["run_ms"].as_f64().unwrap();
    let lines = ended.lines();
    assert_eq!(lines.len(), 1000);
    let longest = lines.iter().map(took).fold(0.0, f64::max);
    assert!(longest < 1500.0, "{longest} ms; one after the other would be 1000 s");
}

#[test]
fn a_long_range_is_printed_in_order_with_flat_memory() {
    let mut child = tidemill(&["run", "compute.map", "--range", "0..400000", "-o", EXPR])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());

    let mut expected = 0i64;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["index"], expected);
        assert_eq!(line["output"], expected * expected - 2 * expected);
        expected += 1;
    }
    assert_eq!(expected, 400_000);
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    assert!(usage.max_rss() < 200 * 1024, "{} KiB", usage.max_rss());
}

#[test]
fn an_interrupt_prints_what_is_finished_and_reports_the_rest_as_cancelled() {
    let sleeps = ["0", "0", "1000", "0", "1000", "1000"];
    let (mut child, mut lines) = start(&[&["-vv", "run", "time.sleep"], &sleeps[..]].concat());
    let first: Vec<Value> = lines.by_ref().take(2).collect();
    // The item behind the one that sleeps is finished too; nothing of it can be seen but in the log.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("chunk finished") && line.contains("first=3")));

    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let rest: Vec<Value> = lines.collect();
    let code = child.wait().unwrap().code();

    assert!(first.iter().all(|line| line["status"] == "ok"));
    let statuses: Vec<&str> = rest.iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["cancelled", "ok", "cancelled", "cancelled"]);
    assert_eq!(rest.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(code, Some(130));
    let said = log.last().unwrap();
    assert!(said.starts_with("interrupted: 3 ok, 3 cancelled"), "{said}");
}

#[test]
fn an_interrupt_loses_no_item_that_was_read_but_not_yet_sent() {
    let mut child = tidemill(&["run", "time.sleep", "-", "--chunk", "100", "--order", "completion"])
        .env("TIDEMILL__RUN__WINDOW", "64KiB")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // The first chunk never ends by itself, so the window fills while a third chunk is being cut.
    writeln!(input, "{{\"seconds\":1000}}").unwrap();
    (0..349).for_each(|_| writeln!(input, "{{\"seconds\":0}}").unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen: Vec<String> = lines.by_ref().take(100).collect();

    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    seen.extend(lines);

    assert_eq!(child.wait().unwrap().code(), Some(130));
    let index = |line: &String| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap();
    let mut indices: Vec<u64> = seen.iter().map(index).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..indices.len() as u64).collect::<Vec<_>>(), "each once, none left out");
    drop(input);
}

#[test]
fn a_second_signal_ends_at_once_a_run_whose_outcomes_nobody_takes() {
    let (reader, mut full) = std::io::pipe().unwrap();
    // As much as a pipe of Linux holds: whoever has more to say waits.
    full.write_all(&[b'\n'; 64 << 10]).unwrap();
    let mut command = tidemill(&["-vv", "run", "time.sleep", "0"]);
    let mut child = command.stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("chunk finished")));

    // Of two kinds, for two of one kind may come as one.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    }

    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(reader);
}

#[test]
fn outcomes_come_while_standard_input_is_still_open() {
    let (mut child, mut lines) = start(&["run", "compute.map", "-", "-o", EXPR]);
    let mut input = child.stdin.take().unwrap();
    for (number, value) in [(3, 3), (8, 48), (10, 80)] {
        writeln!(input, "{number}").unwrap();
        assert_eq!(lines.next().unwrap()["output"], value);
    }
    drop(input);
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn whoever_closes_our_output_ends_the_run_quietly() {
    let (mut child, mut lines) = start(&["run", "compute.map", "--range", "0..100000000", "-o", EXPR]);
    assert_eq!(lines.next().unwrap()["index"], 0);
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_bad_line_is_an_outcome_and_harms_nobody() {
    let ended = run_with_input(
        &["run", "compute.factorize", "-"],
        "12\nnot json\n\"text\"\n-4\n0\n7.5\n18446744073709551557\n",
    );
    assert_eq!(ended.code, Some(5));
    let statuses = ended.field("status");
    assert_eq!(statuses, ["ok", "failed", "failed", "failed", "failed", "failed", "ok"]);
    let errors: Vec<Value> = ended.lines().iter().map(|line| line["error"]["message"].clone()).collect();
    assert_eq!(errors[1], "line 2 of standard input is not JSON: expected ident at column 2");
    assert_eq!(errors[2], "invalid type: string \"text\", expected a whole number");
    assert_eq!(errors[4], "0 has no prime factors; the smallest number allowed is 1");
    assert_eq!(ended.field("attempts")[1], 0, "it was never sent to a worker");
    assert_eq!(ended.lines()[6]["output"], json!([18_446_744_073_709_551_557_u64]));
    let ended = run_with_input(&["run", "time.sleep", "-"], "true\n");
    assert_eq!(ended.lines()[0]["error"]["message"], "invalid type: boolean `true`, expected an object");
}

#[test]
fn the_formats_say_the_same() {
    let formatted = |format| run(&["run", "compute.map", "1", "0", "-o", "expr=1/x", "--format", format]);
    let array: Value = serde_json::from_str(&formatted("json").stdout).unwrap();
    assert_eq!(array[0]["output"], 1);
    assert_eq!(array[1]["status"], "failed");

    let text = formatted("csv").stdout;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let cell = |row: usize, name: &str| &rows[row][headers.iter().position(|header| header == name).unwrap()];
    assert_eq!((cell(0, "output"), cell(1, "error_kind"), rows.len()), ("1", "not_finite", 2));

    let table = formatted("table").stdout;
    assert_eq!(table.lines().count(), 3);
    assert!(table.contains("not_finite: 1/x is infinite for x = 0"));
}

#[test]
fn numbers_from_anywhere_mean_what_they_mean_as_words() {
    let folder = tempfile::tempdir().unwrap();
    let items = folder.path().join("items.ndjson");
    std::fs::write(&items, "1\n{\"seconds\":2}\n").unwrap();
    let sleep = ["run", "time.sleep", "-o", "tick_ms=0"];
    let expected = [json!({"seconds": 1}), json!({"seconds": 2})];
    for more in [&["1", "2"][..], &["--range", "1..3"], &["--items", items.to_str().unwrap()]] {
        let ended = run(&[&sleep[..], more].concat());
        assert_eq!((ended.code, ended.field("input")), (Some(0), expected.to_vec()), "{more:?}");
    }
    assert_eq!(run_with_input(&[&sleep[..], &["-"]].concat(), "0.1\n").field("input"), [json!({"seconds": 0.1})]);
    assert_eq!(run(&["run", "thread.define", "--range", "1..4"]).code, Some(0));
    let out = folder.path().join("out");
    let turtle = ["run", "event.turtle", "--out", out.to_str().unwrap(), "-"];
    assert_eq!(run_with_input(&turtle, "\"up left\"\n").code, Some(0));
}

#[test]
fn an_option_that_looks_like_a_number_is_text_where_text_is_wanted() {
    let ended = run(&["run", "text.count", "in 1984, 1e3", "-o", "word=1984"]);
    assert_eq!((ended.code, &ended.lines()[0]["output"]["count"]), (Some(0), &json!(1)), "{}", ended.stderr);
    assert_eq!(run(&["run", "text.count", "in 1984, 1e3", "-o", "word=1e3"]).lines()[0]["output"]["count"], 1);
    assert_eq!(run(&["run", "compute.map", "1", "-o", "expr=7"]).field("output"), [7]);
}

#[test]
fn every_format_gives_inputs_as_they_were_typed() {
    let typed = ["1e400", "18446744073709551616", "1e3", "[1, 2]", "0.10"];
    for format in ["csv", "table", "ndjson"] {
        let ended = run(&[&["run", "compute.map", "-o", "expr=x", "--format", format][..], &typed].concat());
        assert_eq!(ended.code, Some(5), "{}", ended.stderr);
        let rows: Vec<&str> = ended.stdout.lines().skip(usize::from(format != "ndjson")).collect();
        for (row, typed) in rows.iter().zip(typed) {
            let cell = match format {
                "csv" if typed.contains(',') => format!(",\"{typed}\","),
                "csv" => format!(",{typed},"),
                "table" => format!("  {}  ", typed.replace(['[', ',', ']'], "")),
                _ => format!("\"input\":{typed},"),
            };
            assert!(row.contains(&cell), "{row} has not {cell}");
        }
        assert_eq!(rows.len(), typed.len());
    }
}

#[test]
fn nothing_to_do_is_done() {
    let ended = run(&["run", "compute.map", "--range", "5..5", "-o", EXPR]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    assert_eq!(run(&["run", "compute.map", "--range", "5..5", "-o", EXPR, "--format", "json"]).stdout, "[]\n");
}

#[test]
fn chunks_and_workers_change_nothing_that_is_printed() {
    let told = |extra: &[&str]| -> Vec<Value> {
        let ended = run(&[&["run", "compute.factorize", "--range", "0..500"], extra].concat());
        let without = |mut line: Value| {
            for varying in ["timing", "worker"] {
                line.as_object_mut().unwrap().remove(varying);
            }
            line
        };
        ended.lines().into_iter().map(without).collect()
    };
    let expected = told(&[]);
    assert_eq!(expected.len(), 500);
    for extra in
        [["--chunk", "1", "--workers", "1"], ["--chunk", "7", "--workers", "3"], ["--chunk", "500", "--workers", "2"]]
    {
        assert_eq!(told(&extra), expected, "{extra:?}");
    }
}

#[test]
fn an_item_over_its_timeout_fails_as_often_as_it_may_be_tried() {
    let ended = run(&["run", "time.sleep", "0", "1000", "--timeout", "30ms", "--retries", "1"]);
    assert_eq!(ended.code, Some(5));
    let late = &ended.lines()[1];
    assert_eq!((&late["status"], &late["attempts"]), (&json!("failed"), &json!(2)));
    assert_eq!(late["error"]["kind"], "timeout");
    assert_eq!(ended.stderr, late_summary(&ended.stderr));
}

/// The summary without its time.
fn late_summary(stderr: &str) -> String {
    let end = stderr.split(" in ").nth(1).unwrap();
    format!("1 ok, 1 failed in {end}")
}

#[test]
fn words_that_name_files_are_read_and_others_are_texts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("book.txt");
    std::fs::write(&file, "Lorem lorem\nflorem LOREM").unwrap();
    let texts = [file.to_str().unwrap(), "lorem ipsum", "{\"text\": \"x\"}", "is *lorem* lorem?", "lorem [***"];
    let ended = run(&[&["run", "text.count"][..], &texts].concat());
    let counts: Vec<Value> = ended.lines().iter().map(|line| line["output"]["count"].clone()).collect();
    assert_eq!(counts, [3, 1, 0, 2, 1]);
}

#[test]
fn a_text_that_looks_like_a_path_goes_in_as_an_object() {
    let word = r#"{"text":"and/or/lorem.txt"}"#;

    let plain = run(&["run", "text.count", "and/or/lorem.txt"]);
    let object = run(&["run", "text.count", word]);

    assert_eq!(plain.code, Some(2));
    assert!(plain.stderr.contains(r#"goes in as '{"text": "…"}'"#), "{}", plain.stderr);
    assert_eq!((object.code, object.field("input")), (Some(0), vec![serde_json::from_str::<Value>(word).unwrap()]));
    assert_eq!(object.lines()[0]["output"]["count"], 1, "{}", object.stderr);
}

/// Whether the system may give a process large pages, as `/proc` has it.
fn has_large_pages(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    status.lines().any(|line| line == "THP_enabled:\t1")
}

#[test]
fn who_computes_has_large_pages_and_who_asks_has_none() {
    let mut computes = tidemill(&["run", "compute.map", "-", "-o", EXPR])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut inputs = computes.stdin.take().unwrap();
    inputs.write_all(b"1\n").unwrap();
    let mut lines = BufReader::new(computes.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"output\":-1"));
    assert_eq!(has_large_pages(computes.id()), has_large_pages(std::process::id()), "unless nobody here has");
    drop(inputs);
    assert!(computes.wait().unwrap().success());

    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", api.local_addr().unwrap());
    let mut asks = tidemill(&["status"]).env("TIDEMILL__API__URL", url).stderr(Stdio::null()).spawn().unwrap();
    let asked = api.accept().unwrap();
    assert!(!has_large_pages(asks.id()));
    drop(asked);
    asks.wait().unwrap();
}
