//! `--out FILE.coco.json` as a user calls it: masks and labels in the form that tools for labelled pictures read.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The small command, which a build of the workspace leaves beside `tidemill-vision`.
fn tidemill(args: &[&str]) -> Output {
    let small = Path::new(env!("CARGO_BIN_EXE_tidemill-vision")).with_file_name("tidemill");
    assert!(small.is_file(), "build the whole workspace first: {} is not there", small.display());
    Command::new(small).args(args).current_dir(root()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The mask that runs stand for, rows from the top: a 1 for each pixel inside.
fn decoded(segmentation: &Value) -> Vec<u8> {
    let side = |place: usize| segmentation["size"][place].as_u64().unwrap() as usize;
    let (height, width) = (side(0), side(1));
    let mut mask = vec![0; width * height];
    let (mut place, mut inside) = (0, 0);
    for run in segmentation["counts"].as_array().unwrap() {
        for _ in 0..run.as_u64().unwrap() {
            mask[(place % height) * width + place / height] = inside;
            place += 1;
        }
        inside = 1 - inside;
    }
    assert_eq!(place, width * height, "the runs cover the picture");
    mask
}

/// The class of each pixel of a mask's file.
fn classes(path: &str) -> Vec<u8> {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut classes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut classes).unwrap();
    classes
}

#[test]
fn masks_of_people_are_what_the_files_show_also_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let photos = ["examples/photos/astronaut.png", "examples/photos/coffee.png"];
    let segment = |out: &[&str]| tidemill(&[&["run", "vision.segment"], &photos[..], out].concat());
    let (whole, masks) = (path("whole.coco.json"), path("masks"));
    let output = segment(&["--out", &whole, "--out", &masks]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let coco = read(&whole);
    assert_eq!(coco["categories"].as_array().unwrap().len(), 1, "the background is none: {}", coco["categories"]);
    let image =
        |name: &str| coco["images"].as_array().unwrap().iter().find(|image| image["file_name"] == name).unwrap();
    let astronaut = image("astronaut.png");
    assert_eq!((&astronaut["width"], &astronaut["height"], &astronaut["id"]), (&json!(512), &json!(512), &json!(0)));
    let annotations = coco["annotations"].as_array().unwrap();
    let of_astronaut: Vec<&Value> = annotations.iter().filter(|annotation| annotation["image_id"] == 0).collect();
    let [person] = of_astronaut[..] else { panic!("one class, one annotation") };
    let file = classes(&path("masks/astronaut.png"));
    assert_eq!(decoded(&person["segmentation"]), file);
    let area = file.iter().filter(|class| **class == 1).count();
    assert!(area > 50_000, "she fills a good part of the picture: {area}");
    assert_eq!(person["area"], area);
    assert_eq!(person["category_id"], coco["categories"][0]["id"]);

    // Killed after the first picture: its mask is not looked at again, and nothing but the file is left.
    let alone = path("alone.coco.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill-vision"))
        .args(["run", "vision.segment", "-", "--out", &alone])
        .current_dir(root())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut inputs = child.stdin.take().unwrap();
    writeln!(inputs, "{}", json!(photos[0])).unwrap();
    let journal = format!("{alone}.part.ndjson");
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.ends_with('\n')) {
        assert!(child.try_wait().unwrap().is_none(), "its inputs have not ended");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = segment(&["--out", &alone, "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(read(&alone)["annotations"], coco["annotations"]);
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["alone.coco.json", "masks", "whole.coco.json"]);
}

#[test]
fn labels_have_the_numbers_of_the_models_classes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("labels.coco.json").to_str().unwrap().to_owned();
    let args = ["run", "vision.classify", "examples/photos/coffee.png", "tests/odd-files/empty.jpg", "-o", "top=2"];
    let output = tidemill(&[&args[..], &["--out", &file]].concat());
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));

    let coco = read(&file);
    assert_eq!(coco["categories"].as_array().unwrap().len(), 1000);
    // ILSVRC-2012's number for it.
    assert_eq!(coco["categories"][967]["name"], "espresso");
    assert_eq!(coco["images"].as_array().unwrap().len(), 1, "what failed is no picture");
    assert_eq!(coco["annotations"].as_array().unwrap().len(), 2);
    assert_eq!((&coco["annotations"][0]["category_id"], &coco["annotations"][0]["id"]), (&json!(967), &json!(1)));
}

#[test]
fn without_masks_there_is_nothing_to_annotate() {
    let args = ["run", "vision.segment", "examples/photos/coffee.png", "-o", r#"pictures=["overlay"]"#];
    let output = tidemill(&[&args[..], &["--out", "/tmp/never.coco.json"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("COCO is made of the masks"), "{}", said(&output));
}
