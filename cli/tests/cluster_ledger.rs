//! `--out FILE` in a cluster of real processes and real servers: whoever writes the file is killed, and it is whole at last.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "support/files.rs"]
mod files;
mod mill_cluster;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tidemill_core::outcome::Status;

use self::files::{Folder, lines, rows, until_it_has};
use self::mill_cluster::{Cluster, Role, breathe, count};

/// Servers, a results API that answers, and a worker; produced files lie in `blobs`.
fn cluster(blobs: &Folder) -> Option<(Cluster, [Role; 2])> {
    let cluster = Cluster::start()?.with("TIDEMILL__BLOBS__URL", &format!("file://{}", blobs.path("")));
    let roles = [cluster.api(), cluster.worker()];
    cluster.until_ok(&["workers"]);
    Some((cluster, roles))
}

fn start(cluster: &Cluster, args: &[&str]) -> Child {
    cluster.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The first batch that is listed.
fn newest(cluster: &Cluster) -> Value {
    let listed: Value = serde_json::from_str(&cluster.until_ok(&["status", "--json"])).unwrap();
    listed[0].clone()
}

fn fields(outcomes: &[Value], names: [&str; 3]) -> Vec<[Value; 3]> {
    outcomes.iter().map(|outcome| names.map(|name| outcome[name].clone())).collect()
}

#[test]
fn a_file_whose_writer_is_killed_can_be_resumed_by_submit_and_by_results() {
    let folder = Folder::new();
    let Some((cluster, _roles)) = cluster(&folder) else { return };
    let items = folder.path("items");
    // In the middle one that does not end: the outcomes behind it cannot be written before.
    let seconds = (0..300).map(|_| 0).chain([3600]).chain((0..20).map(|_| 0));
    std::fs::write(&items, seconds.map(|seconds| format!("{{\"seconds\":{seconds}}}\n")).collect::<String>()).unwrap();
    let (file, journal) = (folder.path("all.parquet"), folder.path("all.parquet.part.ndjson"));
    let submit = ["submit", "time.sleep", "--items", &items, "--timeout", "2h", "--chunk", "1"];
    let submit = [&submit[..], &["--idempotency-key", "k", "--wait", "--out", &file]].concat();

    let mut submitting = start(&cluster, &submit);
    until_it_has(300, &journal, &mut submitting);
    // Outcomes are written while the rest is published.
    while newest(&cluster)["progress"]["total"] != 321 {
        breathe();
    }
    kill(submitting);
    let mut again = start(&cluster, &submit);
    let said = BufReader::new(again.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(said.ends_with("was accepted whole before: 321 items"), "{said}");
    kill(again);
    while newest(&cluster)["progress"]["counts"][Status::Ok as usize] != 320 {
        breathe();
    }
    let batch = newest(&cluster)["batch"]["id"].as_str().unwrap().to_owned();
    cluster.until_ok(&["cancel", &batch]);
    let ended = cluster.run(&["results", &batch, "--follow", "--out", &file, "--resume"]);

    assert_eq!(ended.status.code(), Some(5), "{}", String::from_utf8_lossy(&ended.stderr));
    let outcomes = cluster.must_be_sound(&batch, 321);
    assert_eq!((count(&outcomes, "ok"), count(&outcomes, "cancelled")), (320, 1));
    let same = ["index", "status", "output"];
    assert_eq!(fields(&rows(&file), same), fields(&outcomes, same));
    assert!(!folder.names().contains(&"all.parquet.part.ndjson".to_owned()));
}

#[test]
fn a_reader_that_is_killed_anywhere_can_be_resumed_and_ends_in_the_same_lines() {
    let folder = Folder::new();
    let Some((cluster, _roles)) = cluster(&folder) else { return };
    let submit = ["submit", "compute.map", "--range", "0..50000", "-o", "expr=x*x", "--chunk", "100"];
    let batch = cluster.until_ok(&submit).trim().to_owned();
    cluster.until_ok(&["status", &batch]);
    let file = folder.path("all.ndjson");
    let read = ["results", &batch, "--follow", "--out", &file, "--resume"];

    for lines in [1, 1000, 5000, 20_000] {
        let mut reading = start(&cluster, &read);
        while std::fs::read(&file).map_or(0, |text| text.split(|byte| *byte == b'\n').count()) <= lines {
            breathe();
        }
        // It may have ended by itself by now.
        drop(reading.kill());
        reading.wait().unwrap();
    }
    let ended = cluster.run(&read);

    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    cluster.must_be_sound(&batch, 50_000);
    assert!(std::fs::read_to_string(&file).unwrap() == cluster.until_ok(&["results", &batch, "--format", "ndjson"]));
}

#[test]
fn of_a_submission_that_is_refused_nothing_is_printed_in_any_form() {
    let Some(cluster) = Cluster::start() else { return };
    // It stores no blobs, so no file can be uploaded.
    let _api = cluster.api();
    cluster.until_ok(&["workers"]);

    for format in ["json", "csv", "table", "ndjson"] {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let ended = cluster.run(&["submit", "text.count", file, "--wait", "--format", format]);

        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.success(), said.contains("stores no blobs")), (false, true), "{format}: {said}");
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "", "{format}");
    }
}

#[test]
fn a_submission_that_is_waited_for_leaves_files_and_their_outcomes() {
    let folder = Folder::new();
    let Some((cluster, _roles)) = cluster(&folder) else { return };
    let photos = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/photos");
    let (out, file) = (folder.path("small"), folder.path("small.ndjson"));
    let steps = r#"steps=[{"thumbnail":[40,40]}]"#;

    let ended =
        cluster.run(&["submit", "image.transform", photos, "-o", steps, "--wait", "--out", &out, "--out", &file]);

    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.stdout.is_empty());
    let written = lines(&file);
    assert!(written.len() > 3);
    for line in &written {
        assert_eq!(line["status"], json!("ok"));
        let placed = line["output"]["image"]["file"].as_str().unwrap();
        assert!(placed.starts_with(&out) && std::fs::metadata(placed).unwrap().is_file(), "{placed}");
    }
}
