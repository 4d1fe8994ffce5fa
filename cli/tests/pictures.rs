//! `image.transform` as a user calls it: real photographs, and a folder of odd files.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Ended, root, run, start, tidemill};

const THUMBNAIL: &str = r#"steps=[{"thumbnail":[40,40]}]"#;

/// A copy of the odd files, without the file that says what becomes of them.
fn odd_files() -> (tempfile::TempDir, BTreeMap<String, Value>) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("tests/odd-files")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let expected = std::fs::read(folder.path().join("expected.json")).unwrap();
    std::fs::remove_file(folder.path().join("expected.json")).unwrap();
    (folder, serde_json::from_slice(&expected).unwrap())
}

#[test]
fn of_a_folder_of_odd_files_each_gets_exactly_one_outcome() {
    let (folder, expected) = odd_files();
    let out = tempfile::tempdir().unwrap();
    let ended = run(&[
        "run",
        "image.transform",
        folder.path().to_str().unwrap(),
        "-o",
        THUMBNAIL,
        "--out",
        out.path().to_str().unwrap(),
    ]);

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let name = |line: &Value| {
        let path = line["input"].as_str().unwrap().to_owned();
        Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned()
    };
    let lines = ended.lines();
    let names: Vec<String> = lines.iter().map(name).collect();
    assert!(names.is_sorted(), "in order of name");
    assert_eq!(names.len(), expected.len());
    for line in &lines {
        let name = name(line);
        let expected = &expected[&name];
        match expected["error"].as_str() {
            Some(kind) => {
                assert_eq!(line["status"], "failed", "{name}");
                assert_eq!(line["error"]["kind"], kind, "{name}");
                assert!(line["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{name} says why");
                assert_eq!(line["error"]["retryable"], false, "{name}");
            }
            None => {
                assert_eq!(line["status"], "ok", "{name}: {}", line["error"]);
                let side = |key: &str| line["output"][key].as_u64().unwrap();
                assert!(side("width") <= 40 && side("height") <= 40, "{name}");
                let file = line["output"]["image"]["file"].as_str().unwrap();
                assert_eq!(std::fs::metadata(file).unwrap().len(), line["output"]["image"]["bytes"], "{name}");
            }
        }
    }
    let turned = lines.iter().find(|line| name(line) == "exif-turned.jpg").unwrap();
    assert!(turned["output"]["width"].as_u64() < turned["output"]["height"].as_u64(), "EXIF orientation is applied");
}

#[test]
fn produced_files_keep_their_names_and_folders_and_nothing_else_is_left() {
    let out = tempfile::tempdir().unwrap();
    let ended =
        run(&["run", "image.transform", "examples/photos", "-o", THUMBNAIL, "--out", out.path().to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    assert_eq!(files_in(out.path()), files_in(&root().join("examples/photos")));
}

#[test]
fn a_new_format_gives_a_new_ending_and_no_two_files_one_name() {
    let inputs = tempfile::tempdir().unwrap();
    let (photo, out) = (root().join("examples/photos/coffee.png"), tempfile::tempdir().unwrap());
    for name in ["a.png", "a.jpg", "a.b.png"] {
        std::fs::copy(&photo, inputs.path().join(name)).unwrap();
    }
    let (inputs, folder) = (inputs.path().to_str().unwrap(), out.path().to_str().unwrap());
    let ended = run(&["run", "image.transform", inputs, "-o", THUMBNAIL, "-o", "format=webp", "--out", folder]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(files_in(out.path()), ["a.b.webp", "a.png.webp", "a.webp"]);
}

/// A folder with copies of a picture.
fn copies(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(root().join("examples/photos/coffee.png"), path).unwrap();
    }
    folder
}

/// Runs it within a folder.
fn run_in(folder: &Path, args: &[&str]) -> Ended {
    let fixed = ["run", "image.transform", "-o", THUMBNAIL];
    tidemill(&[&fixed[..], args].concat()).current_dir(folder).output().unwrap().into()
}

#[test]
fn an_input_within_the_output_folder_is_refused_before_anything_is_written() {
    let folder = copies(&["a.jpg", "a.png", "one/a.png", "two/a.png"]);
    std::os::unix::fs::symlink(folder.path().join("two"), folder.path().join("one/more")).unwrap();
    let url = format!("file://{}", folder.path().join("a.png").display());
    let before = files_in(folder.path());

    for (inputs, out, input) in [
        (&["a.jpg", "a.png"][..], ".", "a.jpg"),
        (&["*.jpg", "*.png"], "../{}", "a.jpg"),
        (&["two/*"], "two", "two/a.png"),
        (&["t*"], "two", "two"),
        (&["one/a.png", "two/a.png"], "two", "two/a.png"),
        (&["one"], ".", "one"),
        (&["one"], "two", "one/more"),
        (&["one"], "two/small", "one/more"),
        (&[&url], ".", &url["file://".len()..]),
    ] {
        let out = out.replace("{}", folder.path().file_name().unwrap().to_str().unwrap());
        let ended = run_in(folder.path(), &[inputs, &["-o", "format=png", "--out", &out]].concat());
        assert_eq!(ended.code, Some(2), "{inputs:?} {out}: {}", ended.stderr);
        let either = [
            format!("error: --out: the input {input} lies within {out}"),
            format!("error: --out: {out} lies within the input {input}"),
        ];
        assert!(either.iter().any(|said| ended.stderr.starts_with(said)), "{inputs:?}: {}", ended.stderr);
    }
    assert_eq!(files_in(folder.path()), before);
}

#[test]
fn of_inputs_that_come_as_lines_none_is_overwritten_and_the_same_again_makes_the_same_files() {
    let folder = copies(&["a.jpg", "a.png", "b/a.png", "out/b/a.png"]);
    let original = std::fs::read(folder.path().join("a.png")).unwrap();
    let lines = r#""a.jpg" "b/a.png" "a.png" "out/b/a.png""#.replace(' ', "\n");
    std::fs::write(folder.path().join("items.ndjson"), lines).unwrap();

    for out in [".", "out", "out"] {
        let ended = run_in(folder.path(), &["--items", "items.ndjson", "-o", "format=png", "--out", out]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    let made = [
        ["a.jpg.png", "b/a.png.png", "a.png.png", "out/b/a.png.png"],
        ["out/a.png", "out/b/a.png.png", "out/a.png.png", "out/out/b/a.png"],
    ];
    let originals = ["a.jpg", "a.png", "b/a.png", "items.ndjson", "out/b/a.png"];
    let mut expected: Vec<&str> = made.into_iter().flatten().chain(originals).collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(files_in(folder.path()), expected);
    for name in ["a.jpg", "a.png", "b/a.png", "out/b/a.png"] {
        assert!(std::fs::read(folder.path().join(name)).unwrap() == original, "{name}");
    }
}

#[test]
fn what_an_earlier_run_made_of_such_inputs_is_replaced_but_nothing_that_a_link_leads_to() {
    let folder = copies(&["in/a.png", "in/b.png", "in/c/d.png", "elsewhere/d.png", "b.png"]);
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    for (to, name) in [("b.png", "b.png"), ("elsewhere", "c")] {
        std::os::unix::fs::symlink(folder.path().join(to), out.join(name)).unwrap();
    }
    let original = std::fs::read(folder.path().join("b.png")).unwrap();

    let sizes = [r#"steps=[{"thumbnail":[40,40]}]"#, r#"steps=[{"thumbnail":[20,20]}]"#].map(|steps| {
        let ended = run_in(folder.path(), &["in", "-o", steps, "--out", "out"]);
        assert_eq!(ended.code, Some(5), "{}", ended.stderr);
        let lines = ended.lines();
        let message = "out/c is a link, and nothing is written to where it leads";
        assert_eq!(lines[2]["error"], json!({ "kind": "storage", "message": message, "retryable": false }));
        lines[..2].iter().map(|line| line["output"]["image"]["file"].clone()).collect::<Vec<_>>()
    });

    assert_eq!(sizes[0], ["out/a.png", "out/b.png.png"]);
    assert_eq!(sizes[1], ["out/a.png", "out/b.png.png"]);
    for name in ["b.png", "elsewhere/d.png"] {
        assert!(std::fs::read(folder.path().join(name)).unwrap() == original, "{name}");
    }
    assert_eq!(files_in(&folder.path().join("elsewhere")), ["d.png"]);
}

#[test]
fn the_output_folder_itself_may_be_a_link() {
    let folder = copies(&["in/c/d.png", "elsewhere/x.png"]);
    std::os::unix::fs::symlink("elsewhere", folder.path().join("out")).unwrap();

    let ended = run_in(folder.path(), &["in", "--out", "out"]);

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(files_in(&folder.path().join("elsewhere")), ["c/d.png", "x.png"]);
}

#[test]
fn a_folder_whose_name_a_produced_file_has_gets_another_name_and_always_the_same() {
    let folder = copies(&["in/a", "in/a.png/b.png", "in/a.png/c.png", "in/a.png/d/e.png"]);

    for _ in 0..2 {
        let ended = run_in(folder.path(), &["in", "-o", "format=png", "--out", "out"]);

        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        let made = ["a.png", "a.png-2/b.png", "a.png-2/c.png", "a.png-2/d/e.png"];
        assert_eq!(files_in(&folder.path().join("out")), made);
    }
}

#[test]
fn files_with_the_same_bytes_do_not_change_together() {
    let folder = copies(&["in/a.png", "in/b.png", "in/c.png"]);
    let ended = run_in(folder.path(), &["in", "--out", "out"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let file = |name: &str| folder.path().join("out").join(name);
    let made = std::fs::read(file("a.png")).unwrap();
    for name in ["a.png", "b.png", "c.png"] {
        assert!(std::fs::read(file(name)).unwrap() == made, "{name}");
        assert_eq!(std::fs::metadata(file(name)).unwrap().nlink(), 1, "{name}");
    }
}

#[test]
fn the_output_is_byte_for_byte_the_same_whatever_the_chunks_and_workers() {
    let made = |extra: &[&str]| -> Vec<(Value, Vec<u8>)> {
        let out = tempfile::tempdir().unwrap();
        let fixed =
            ["run", "image.transform", "examples/photos", "-o", THUMBNAIL, "--out", out.path().to_str().unwrap()];
        let ended = run(&[&fixed[..], extra].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let file = |line: &Value| {
            let image = &line["output"]["image"];
            (image["blob"].clone(), std::fs::read(image["file"].as_str().unwrap()).unwrap())
        };
        ended.lines().iter().map(file).collect()
    };
    let (one, other) = (made(&["--workers", "1", "--chunk", "3"]), made(&["--workers", "3", "--chunk", "1"]));
    assert_eq!(one.len(), files_in(&root().join("examples/photos")).len());
    assert!(one.iter().all(|(blob, bytes)| blob.is_string() && !bytes.is_empty()));
    assert!(one == other);
}

#[test]
fn what_a_killed_run_has_left_goes_when_the_next_begins() {
    let out = tempfile::tempdir().unwrap();
    let args = ["run", "image.transform", "-", "--out", out.path().to_str().unwrap()];
    let begin = || {
        let (mut child, mut lines) = start(&args);
        writeln!(child.stdin.as_mut().unwrap(), "\"tests/odd-files/alpha.png\"").unwrap();
        lines.next().unwrap();
        child
    };
    let staged = || {
        let entries = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_hidden = |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
        entries.filter(is_hidden).collect::<Vec<_>>()
    };
    let mut killed = begin();
    let left = staged();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(staged(), left, "nobody was there to remove it");
    let mut running = begin();

    let swept = staged();
    let ended = support::run_with_input(&args, "\"tests/odd-files/alpha.png\"\n");

    assert_eq!((left.len(), swept.len()), (1, 1));
    assert_ne!(left, swept);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(staged(), swept, "another run needs it still");
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    assert!(staged().is_empty());
}

/// The files below a folder, as relative paths.
fn files_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
