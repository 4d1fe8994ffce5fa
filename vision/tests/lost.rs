//! A device that answers nothing any more, as a GPU after an illegal access: the process says so and ends.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::path::Path;
use std::process::Command;

use common::digits;
use serde_json::Value;

#[test]
fn a_run_whose_device_is_lost_keeps_what_had_ended_and_says_how_to_go_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill-vision"))
        .args(["run", "vision.classify", "examples/photos", "-o", "top=1", "--chunk", "1", "--format", "ndjson"])
        .current_dir(root)
        .env("OMP_NUM_THREADS", "1")
        .env("TIDEMILL__VISION__INSTANCES", "1")
        .env("TIDEMILL__VISION__MAX_BATCH", "1")
        .env("TIDEMILL_FAIL_AT", "vision.device=4")
        .output()
        .unwrap();

    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lost = "the device is lost to this process: cpu: the device is unplugged, as told";
    assert!(said.contains(lost) && said.contains("run it again"), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |status: &str| lines.iter().filter(|line| line["status"] == status).count();
    assert_eq!((count("ok"), count("failed")), (3, 0), "{lines:?}");
    assert_eq!(lines.len(), 10, "every picture has its outcome: {lines:?}");
    assert!(said.contains("3 items had ended before"), "{said}");
}

#[test]
fn a_training_whose_device_is_lost_goes_on_from_its_last_epoch_when_it_is_run_again() {
    let home = tempfile::tempdir().unwrap();
    digits::write(&home.path().join("digits"), 10);
    let train = |fail_at: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidemill-vision"))
            .args(["run", "vision.train", "digits", "--format", "ndjson"])
            .args(["-o", "to=models", "-o", "batch=16", "-o", "epochs=2"])
            .current_dir(home.path())
            .env("TIDEMILL__VISION__THREADS", "1")
            .env("TIDEMILL__VISION__DEVICE", "cpu")
            .env("TIDEMILL_FAIL_AT", fail_at)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };

    // An epoch is five batches to learn from and two to try: this is in the second.
    let (code, said) = train("vision.device=10");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the device is lost to this process: cpu: the device is unplugged, as told"), "{said}");

    let (code, said) = train("vision.device=1000");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("epoch=2 epochs=2") && !said.contains("epoch=1 epochs=2"), "{said}");
    assert!(home.path().join("models/digits/card.toml").is_file());
}
