//! Trainings that are interrupted, by the command: they go on from their last epoch as if nothing had been in between.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use common::digits;
use serde_json::Value;
use tch::Tensor;

/// `tidemill-vision run vision.train` over the digits in `home`, into `home/to`.
fn command(home: &Path, to: &str, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill-vision"));
    command.args(["run", "vision.train", "digits", "--format", "ndjson", "-o", &format!("to={to}")]);
    for option in ["batch=16", "flip=true", "shift=0.1"].iter().chain(options) {
        command.args(["-o", option]);
    }
    command.current_dir(home).env("TIDEMILL__VISION__THREADS", "1").env("TIDEMILL__VISION__DEVICE", "cpu");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end; its outcome, and what it said meanwhile.
fn run(mut command: Command) -> (Value, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no outcome: {said}")), said)
}

/// Runs it until it says that this epoch is finished, and sends it a signal.
fn interrupt(mut command: Command, epoch: u32, signal: &str) -> ExitStatus {
    let mut child: Child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = format!("epoch finished model=\"digits\" epoch={epoch} ");
    let mut lines = lines.skip_while(|line| !line.contains(&told));
    assert!(lines.next().is_some(), "it ended before epoch {epoch}");
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    // To the end of its words, or it might wait for somebody to read them.
    lines.for_each(drop);
    child.wait().unwrap()
}

fn weights(home: &Path, to: &str) -> Vec<(String, Tensor)> {
    let mut weights = Tensor::read_safetensors(home.join(to).join("digits/weights.safetensors")).unwrap();
    weights.sort_by(|(one, _), (other, _)| one.cmp(other));
    weights
}

#[test]
fn a_training_that_was_killed_and_interrupted_comes_to_what_it_would_have_come_to() {
    let home = tempfile::tempdir().unwrap();
    digits::write(&home.path().join("digits"), 30);
    let command = |to: &str, options: &[&str]| command(home.path(), to, options);
    let (whole, said) = run(command("whole", &["epochs=8"]));
    assert!(said.contains("training starts model=\"digits\"") && said.contains("epoch=1 epochs=8"), "{said}");
    assert_eq!(said.matches("epoch finished").count(), 8, "{said}");

    // Without a chance to write anything, and politely; then it is finished, and later it is to go further.
    interrupt(command("parts", &["epochs=6"]), 2, "-KILL");
    let stopped = interrupt(command("parts", &["epochs=6"]), 4, "-INT");
    assert_eq!(stopped.code(), Some(130));
    let (first, said) = run(command("parts", &["epochs=6"]));
    assert_eq!(first["output"]["epochs"].as_array().unwrap().len(), 6);
    let begun_again = (5..=6).any(|epoch| said.contains(&format!("epoch={epoch} epochs=6")));
    assert!(begun_again && !said.contains("epoch=4 epochs=6"), "it went on where it had been: {said}");
    let (parts, said) = run(command("parts", &["epochs=8"]));
    assert_eq!(said.matches("epoch finished").count(), 2, "{said}");

    for (one, other) in
        whole["output"]["epochs"].as_array().unwrap().iter().zip(parts["output"]["epochs"].as_array().unwrap())
    {
        for (part, figure) in [("training", "loss"), ("validation", "loss"), ("validation", "accuracy")] {
            let [one, other] = [one, other].map(|epoch| epoch[part][figure].as_f64().unwrap());
            assert!((one - other).abs() < 1e-4, "{part} {figure}: {one} and {other}");
        }
    }
    assert_eq!(whole["output"]["best_epoch"], parts["output"]["best_epoch"]);
    for ((name, one), (other_name, other)) in
        weights(home.path(), "whole").into_iter().zip(weights(home.path(), "parts"))
    {
        assert_eq!(name, other_name);
        assert!(one.allclose(&other, 1e-3, 1e-4, false), "{name}: {}", (one - &other).abs().max());
    }

    // Once more is nothing more: the same outcome, at once.
    let (again, said) = run(command("parts", &["epochs=8"]));
    assert_eq!((&again["output"], said.contains("epoch finished")), (&parts["output"], false));

    // Another training does not go on from it, and says what is other.
    let (refused, _) = run(command("parts", &["epochs=8", "learning_rate=0.01"]));
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("learning_rate is 0.01 and was 0.001; say another name"), "{message}");
    std::fs::remove_file(home.path().join("digits/train/3/001.png")).unwrap();
    let (refused, _) = run(command("parts", &["epochs=9"]));
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("the files of the data set are others"), "{message}");
}

#[test]
fn it_ends_early_where_nothing_gets_better_and_says_what_is_wrong_before_it_begins() {
    let home = tempfile::tempdir().unwrap();
    digits::write(&home.path().join("digits"), 10);
    let command = |to: &str, options: &[&str]| command(home.path(), to, options);

    let (outcome, _) = run(command("early", &["epochs=200", "patience=2", "learning_rate=0.05"]));
    let output = &outcome["output"];
    let (done, best) = (output["epochs"].as_array().unwrap().len() as u64, output["best_epoch"].as_u64().unwrap());
    assert_eq!((&output["stopped_early"], done), (&Value::Bool(true), best + 2));
    assert!(done < 200);

    // A folder that is there and is not ours stays as it is.
    std::fs::create_dir_all(home.path().join("other/digits")).unwrap();
    let (refused, _) = run(command("other", &[]));
    assert_eq!(refused["error"]["kind"], "exists");

    std::fs::write(home.path().join("digits/train/3/note.txt"), "to be drawn again").unwrap();
    let (refused, _) = run(command("bad", &[]));
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(refused["error"]["kind"], "data_set");
    assert!(message.starts_with("digits/train/3/note.txt: not an image"), "{message}");
}
