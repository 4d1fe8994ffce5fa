//! `--out FILE` of `results` and `submit`: outcomes of a cluster in a file, against a results API inside the test.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "support/files.rs"]
mod files;
mod support;

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tidemill_core::batch::{Batch, BatchId};
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::Ending;
use tidemill_core::store::Store as _;
use tidemill_core::task::raw;
use tidemill_results_api::http::Api;
use tidemill_results_api::testing::{Server, batch, outcome};

use self::files::{Folder, rows, until_it_has};
use self::support::{Ended, run, tidemill};

async fn ask(server: &Server, args: &[&str]) -> Ended {
    let mut command = tidemill(args);
    command.env("TIDEMILL__API__URL", &server.url);
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

/// Starts a follower, waits until its file has so many lines, and ends it with a signal.
async fn stopped(server: &Server, args: &[&str], file: &str, lines: usize, signal: Signal) -> Ended {
    let mut command = tidemill(args);
    command.env("TIDEMILL__API__URL", &server.url).stdout(Stdio::piped()).stderr(Stdio::piped());
    let file = file.to_owned();
    let stopping = move || {
        let mut child: Child = command.spawn().unwrap();
        until_it_has(lines, &file, &mut child);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        child.wait_with_output().unwrap().into()
    };
    tokio::task::spawn_blocking(stopping).await.unwrap()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_go_to_the_file_and_are_printed_only_where_somebody_says_how() {
    let server = Server::start().await;
    let batch = server.batch(Some(3), 0..3).await;
    let folder = Folder::new();
    let (ndjson, parquet) = (folder.path("all.ndjson"), folder.path("all.parquet"));
    let printed = ask(&server, &["results", batch.as_str()]).await.stdout;

    let ended = ask(&server, &["results", batch.as_str(), "--out", &ndjson]).await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(read(&ndjson), printed);
    let ended = ask(&server, &["results", batch.as_str(), "--follow", "--out", &parquet, "--format", "ndjson"]).await;
    assert_eq!((ended.code, &ended.stdout), (Some(0), &printed));
    let outputs: Vec<Value> = rows(&parquet).iter().map(|row| row["output"].clone()).collect();
    assert_eq!(outputs, [0.0, 10.0, 20.0].map(Value::from));
    assert_eq!(rows(&parquet)[2]["name"], "folder/2.txt");
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet"]);

    let ended = ask(&server, &["results", batch.as_str(), "--out", &parquet]).await;
    assert!(ended.stderr.contains("all.parquet is there already, and complete\n  hint: remove it"), "{}", ended.stderr);
    let ended = ask(&server, &["results", batch.as_str(), "--out", &ndjson]).await;
    assert!(ended.stderr.contains("all.ndjson is there already\n  hint: --resume goes on"), "{}", ended.stderr);
    for file in [&parquet, &ndjson] {
        assert_eq!(ask(&server, &["results", batch.as_str(), "--out", file, "--resume"]).await.code, Some(0));
    }
    assert_eq!(read(&ndjson), printed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_goes_on_where_its_file_broke_off_and_reads_nothing_twice() {
    let server = Server::start().await;
    let folder = Folder::new();
    for (name, journal) in [("all.ndjson", "all.ndjson"), ("all.parquet", "all.parquet.part.ndjson")] {
        let (file, journal) = (folder.path(name), folder.path(journal));
        let batch = server.batch(None, 0..1000).await;
        let args = ["results", batch.as_str(), "--follow", "--out", &file];

        stopped(&server, &args, &journal, 1000, Signal::SIGKILL).await;
        // As if the machine had stopped within a line.
        write!(std::fs::OpenOptions::new().append(true).open(&journal).unwrap(), "{{\"index\":77,\"inp").unwrap();
        server.record(&batch, 1000..2000).await;
        stopped(&server, &[&args[..], &["--resume"]].concat(), &journal, 2000, Signal::SIGKILL).await;
        server.record(&batch, 2000..3000).await;
        server.store.seal(&batch, 3000).await.unwrap();
        // Of its own: the other may still read for those that were killed, until it sees that they are gone.
        let last = Server::start_over(Arc::new(server.store.seen_apart()), "127.0.0.1:0", |api| api).await;
        let ended = ask(&last, &[&args[..], &["--resume"]].concat()).await;
        let again = last.store.outcomes_read();

        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
        assert!(again <= 1001, "the last one that it had, and the rest: {again}");
        if name == "all.ndjson" {
            assert!(read(&file) == ask(&server, &["results", batch.as_str()]).await.stdout, "the lines are the same");
        } else {
            let indices: Vec<u64> = rows(&file).iter().map(|row| row["index"].as_u64().unwrap()).collect();
            assert!(indices.into_iter().eq(0..3000));
        }
    }
    assert_eq!(folder.names(), ["all.ndjson", "all.parquet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_says_so_and_how_to_go_on() {
    let server = Server::start().await;
    let batch = server.batch(Some(5), [0, 1, 3]).await;
    let folder = Folder::new();
    let (file, journal) = (folder.path("all.parquet"), folder.path("all.parquet.part.ndjson"));
    let hint =
        format!("{file} is not finished; `tidemill results {batch} --follow --out {file} --resume` goes on with it");

    let ended = ask(&server, &["results", batch.as_str(), "--out", &file]).await;
    assert_eq!(ended.code, Some(5));
    assert!(ended.stderr.contains(&hint) && ended.stderr.contains("so far 3 ok (of 5)"), "{}", ended.stderr);
    assert_eq!(folder.names(), ["all.parquet.part.ndjson"]);

    server.record(&batch, [2]).await;
    let args = ["results", batch.as_str(), "--follow", "--out", &file, "--resume"];
    let ended = stopped(&server, &args, &journal, 4, Signal::SIGINT).await;
    assert_eq!(ended.code, Some(130));
    assert!(ended.stderr.contains(&hint), "{}", ended.stderr);

    server.record(&batch, [4]).await;
    let ended = ask(&server, &args).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(rows(&file).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_batch_is_left_as_it_is() {
    let server = Server::start().await;
    let (one, other) = (server.batch(Some(2), 0..2).await, server.batch(Some(1), 0..1).await);
    let folder = Folder::new();
    let file = folder.path("all.ndjson");
    ask(&server, &["results", one.as_str(), "--out", &file]).await;
    // What would be cut off of the right file.
    let before = read(&file) + "{\"index\":2,\"inp";
    std::fs::write(&file, &before).unwrap();

    let ended = ask(&server, &["results", other.as_str(), "--out", &file, "--resume"]).await;

    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("all.ndjson is of another batch: item 1 of"), "{}", ended.stderr);
    assert_eq!(read(&file), before);
}

/// Three pictures' masks, of which the last is gone; each picture has an overlay, which is nowhere.
async fn masks(server: &Server, blobs: &Blobs) -> BatchId {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 3, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(vec![0; 6]);
    encoder.write_header().unwrap().write_image_data(&[1, 0, 0, 1, 1, 0]).unwrap();
    let there = blobs.put(png, "image/png", "png").await.unwrap();
    let gone = BlobRef { blob: format!("sha256:{}", "0".repeat(64)), ..there.clone() };
    let batch = Batch { task: "vision.segment".into(), options: raw(&json!({})), ..batch() };
    server.store.open(&batch).await.unwrap();
    for (index, mask) in [(0, &there), (1, &there), (2, &gone)] {
        let output = json!({
            "model": "selfie-segmentation", "width": 3, "height": 2, "classes": [], "mask": mask, "overlay": gone
        });
        let outcome = Arc::new(outcome(index, Ending::Ok(raw(&output))));
        server.store.record(&batch.id, &[outcome]).await.unwrap();
    }
    server.store.seal(&batch.id, 3).await.unwrap();
    batch.id
}

#[tokio::test(flavor = "multi_thread")]
async fn coco_is_made_of_masks_that_are_fetched_and_not_kept() {
    let limits = FetchLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(5) };
    let blobs = Blobs::at(&"memory://".parse().unwrap(), limits, None).unwrap();
    let server = Server::start_with(|api| Api { blobs: Some(blobs.clone()), ..api }).await;
    let batch = masks(&server, &blobs).await;
    let folder = Folder::new();
    let file = folder.path("people.coco.json");

    let ended = ask(&server, &["results", batch.as_str(), "--out", &file]).await;

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("3 ok") && ended.stderr.contains("; 1 of them failed here"), "{}", ended.stderr);
    assert_eq!(folder.names(), ["people.coco.json"]);
    let coco: Value = serde_json::from_str(&read(&file)).unwrap();
    let names: Vec<&Value> = coco["images"].as_array().unwrap().iter().map(|image| &image["file_name"]).collect();
    assert_eq!(names, ["folder/0.txt", "folder/1.txt"], "of the third the mask is gone");
    assert_eq!(coco["annotations"][1]["segmentation"], json!({"size": [2, 3], "counts": [0, 2, 1, 1, 2]}));
    assert_eq!(coco["annotations"].as_array().unwrap().len(), 2);
    assert_eq!(coco["tidemill"]["of"]["batch"], batch.as_str());
    let again = ask(&server, &["results", batch.as_str(), "--out", &file, "--resume"]).await;
    assert_eq!((again.code, again.stderr.contains("is complete")), (Some(5), true), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_file_is_of_its_batch_alone_and_ends_as_it_did() {
    let server = Server::start().await;
    let (one, other) = (server.batch(Some(2), 0..2).await, server.batch(Some(2), 0..2).await);
    let failing = server.batch(None, [0]).await;
    let failed = outcome(1, Ending::Failed(Failure::permanent("not_finite", "too large")));
    server.store.record(&failing, &[Arc::new(failed)]).await.unwrap();
    server.store.seal(&failing, 2).await.unwrap();
    let folder = Folder::new();

    for (batch, code) in [(&one, 0), (&failing, 5)] {
        let file = folder.path(&format!("{batch}.parquet"));
        let results = async |batch: &BatchId, more: &[&str]| {
            ask(&server, &[&["results", batch.as_str(), "--out", &file][..], more].concat()).await
        };
        assert_eq!(results(batch, &[]).await.code, Some(code));
        let before = std::fs::read(&file).unwrap();

        let again = results(batch, &["--resume"]).await;
        let of_other = results(&other, &["--resume"]).await;
        let by_run = run(&["run", "compute.map", "0", "1", "-o", "expr=10*x", "--out", &file, "--resume"]);

        assert_eq!((again.code, again.stderr.contains("is complete")), (Some(code), true), "{}", again.stderr);
        for (ended, now) in [(of_other, format!("of batch {other}")), (by_run, "made by `tidemill run`".to_owned())] {
            let problem = format!("--resume: {file} is of batch {batch}, not {now}");
            assert_eq!((ended.code, ended.stderr.contains(&problem)), (Some(2), true), "{}", ended.stderr);
        }
        assert!(std::fs::read(&file).unwrap() == before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_placed_are_told_and_counted_wherever_outcomes_go() {
    let limits = FetchLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(5) };
    let blobs = Blobs::at(&"memory://".parse().unwrap(), limits, None).unwrap();
    let server = Server::start_with(|api| Api { blobs: Some(blobs.clone()), ..api }).await;
    let batch = server.batch(None, []).await;
    let there = blobs.put(b"flour".to_vec(), "image/png", "png").await.unwrap();
    for index in 0..2 {
        let made = outcome(index, Ending::Ok(raw(&json!({ "image": there }))));
        server.store.record(&batch, &[Arc::new(made)]).await.unwrap();
    }
    server.store.seal(&batch, 2).await.unwrap();
    let folder = Folder::new();
    let (out, elsewhere, file) = (folder.path("out"), folder.path("elsewhere"), folder.path("all.ndjson"));
    std::fs::create_dir(&out).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    // The names of the items begin with that folder.
    std::os::unix::fs::symlink(&elsewhere, folder.path("out/folder")).unwrap();
    let args = ["results", batch.as_str(), "--download", &out];

    let printed = ask(&server, &args).await;
    let written = ask(&server, &[&args[..], &["--out", &file]].concat()).await;
    let again = ask(&server, &[&args[..], &["--out", &file, "--resume"]].concat()).await;

    for ended in [&printed, &written, &again] {
        assert_eq!(ended.code, Some(5), "{}", ended.stderr);
        assert!(ended.stderr.contains("; 2 of them failed here"), "{}", ended.stderr);
    }
    for outcome in printed.lines().into_iter().chain(files::lines(&file)) {
        assert_eq!(outcome["error"]["kind"], "storage");
        let message = outcome["error"]["message"].as_str().unwrap();
        assert!(message.contains("out/folder is a link, and nothing is written to where it leads"), "{message}");
    }
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn produced_files_are_fetched_beside_and_a_resumed_file_never_takes_their_names() {
    let limits = FetchLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(5) };
    let blobs = Blobs::at(&"memory://".parse().unwrap(), limits, None).unwrap();
    let server = Server::start_with(|api| Api { blobs: Some(blobs.clone()), ..api }).await;
    let batch = server.batch(None, []).await;
    let there = blobs.put(b"flour".to_vec(), "image/png", "png").await.unwrap();
    let record = |index| {
        // They all have one name.
        let named = tidemill_core::outcome::Outcome {
            name: Some("a.txt".into()),
            ..outcome(index, Ending::Ok(raw(&json!({ "image": there }))))
        };
        let (store, batch) = (Arc::clone(&server.store), batch.clone());
        async move { store.record(&batch, &[Arc::new(named)]).await.unwrap() }
    };
    record(0).await;
    let folder = Folder::new();
    let (file, out) = (folder.path("all.ndjson"), folder.path("out"));
    let args = ["results", batch.as_str(), "--follow", "--download", &out, "--out", &file];
    stopped(&server, &args, &file, 1, Signal::SIGKILL).await;
    record(1).await;
    server.store.seal(&batch, 2).await.unwrap();

    let ended = ask(&server, &[&args[..], &["--resume"]].concat()).await;

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let files: Vec<Value> = files::lines(&file).iter().map(|line| line["output"]["image"]["file"].clone()).collect();
    assert_eq!(files, [json!(format!("{out}/a.png")), json!(format!("{out}/a.txt.png"))]);
    assert!(files.iter().all(|file| read(file.as_str().unwrap()) == "flour"));
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_another_model_are_not_taken_for_those_of_the_outcomes() {
    let server = Server::start().await;
    let batch = Batch { task: "vision.segment".into(), options: raw(&json!({})), ..batch() };
    server.store.open(&batch).await.unwrap();
    let output = json!({"model": "people-2", "width": 3, "height": 2, "classes": []});
    server.store.record(&batch.id, &[Arc::new(outcome(0, Ending::Ok(raw(&output))))]).await.unwrap();
    let file = Folder::new();

    let ended = ask(&server, &["results", batch.id.as_str(), "--out", &file.path("a.coco.json")]).await;

    let problem = "item 0: it was made by the model people-2, and the classes here are those of selfie-segmentation";
    assert!(ended.stderr.contains(problem), "{}", ended.stderr);
}

#[test]
fn what_cannot_be_combined_is_said_before_anybody_is_asked() {
    let folder = Folder::new();
    let (file, out) = (folder.path("a.parquet"), folder.path("out"));
    let around = folder.path("");
    for (args, problem) in [
        (vec!["results", "0197c2a4", "--out", &file, "--from", "3"], "cannot be used with"),
        (vec!["results", "0197c2a4", "--out", &file, "--limit", "3"], "cannot be used with"),
        (vec!["results", "0197c2a4", "--out", &file, "--order", "completion"], "in the order of the inputs"),
        (vec!["results", "0197c2a4", "--out", &out], "is no file for outcomes\n  hint: name one that ends in"),
        (vec!["results", "0197c2a4", "--resume"], "--out <FILE>"),
        (vec!["submit", "time.sleep", "1", "--out", &file], "it needs --wait\n  hint: add it; or later"),
        (vec!["submit", "time.sleep", "1", "--wait", "--out", &out], "the task makes no files"),
        (vec!["submit", "text.count", &around, "--wait", "--out", &file], "lies within the input"),
        (vec!["submit", "time.sleep", "1", "--wait", "--out", &file, "--order", "completion"], "in the order of"),
        (vec!["submit", "time.sleep", "1", "--wait", "--out", &folder.path("a.coco.json")], "has no COCO form"),
    ] {
        let ended = run(&args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(problem), "{args:?}: {}", ended.stderr);
    }
    assert_eq!(folder.names(), Vec::<String>::new());
}
