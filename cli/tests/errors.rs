//! What is said when something is wrong: what, where, and what to do.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use insta::assert_snapshot;
use support::{root, run, tidemill};

/// What standard error says; nothing is on standard output, and the exit code is as given.
fn said(code: i32, args: &[&str]) -> String {
    let ended = run(args);
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended.stderr
}

#[test]
fn a_misspelt_task() {
    assert_snapshot!(said(2, &["run", "image.tranfsorm", "examples/photos"]), @r#"
    error: no task is called "image.tranfsorm"; did you mean image.transform?
      hint: `tidemill tasks` lists them
    "#);
}

#[test]
fn a_misspelt_option() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().to_str().unwrap();
    assert_snapshot!(said(2, &["run", "image.transform", "examples/photos", "-o", "step=[]", "--out", out]), @"
    error: options of image.transform: step: unknown field `step`, expected one of `steps`, `format`, `quality`, `metadata`, `exact`; did you mean steps?
      hint: `tidemill tasks image.transform` shows its options
    ");
}

#[test]
fn an_option_of_the_wrong_type() {
    assert_snapshot!(said(2, &["run", "time.sleep", "1", "-o", "tick_ms=soon"]), @r#"
    error: options of time.sleep: tick_ms: invalid type: string "soon", expected a whole number
      hint: `tidemill tasks time.sleep` shows its options
    "#);
}

#[test]
fn an_option_out_of_range() {
    assert_snapshot!(said(2, &["run", "time.sleep", "1", "-o", "tick_ms=99999999"]), @"
    error: options of time.sleep: tick_ms: 99999999 is not within 0 and 60000
      hint: `tidemill tasks time.sleep` shows its options
    ");
}

#[test]
fn a_misspelt_default_model() {
    let classify = ["run", "vision.classify", "examples/photos"];
    let ended: support::Ended =
        tidemill(&classify).env("TIDEMILL__VISION__DEFAULT_MODEL", "efficientnet-lite9").output().unwrap().into();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    let said = ended.stderr;
    assert!(said.starts_with("error: vision.default_model: no model is called \"efficientnet-lite9\" in "), "{said}");
    assert!(said.contains("; did you mean efficientnet-lite0?"), "{said}");
    let doctor: support::Ended =
        tidemill(&["doctor"]).env("TIDEMILL__VISION__DEFAULT_MODEL", "efficientnet-lite9").output().unwrap().into();
    assert!(doctor.stdout.contains("✖ vision.default_model: no model is called"), "{}", doctor.stdout);
}

#[test]
fn a_missing_option() {
    assert_snapshot!(said(2, &["run", "compute.map", "1"]), @"
    error: options of compute.map: missing field `expr`
      hint: `tidemill tasks compute.map` shows its options
    ");
}

#[test]
fn an_option_that_is_broken_json() {
    let said = said(2, &["run", "image.transform", "examples/photos", "-o", r#"steps=[{"blur":15}"#]);
    assert!(said.contains("the value is not JSON: EOF while parsing a list"), "{said}");
}

#[test]
fn a_glob_that_nothing_matches() {
    assert_snapshot!(said(2, &["run", "text.count", "examples/photos/*.nef"]), @"
    error: examples/photos/*.nef: no file matches
      hint: * stands for a part of a name, ** for any folders; hidden files are passed over
    ");
}

#[test]
fn an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let warned = said(0, &["run", "text.count", path]);
    assert!(warned.contains(&format!("{path}: there are no files in it")), "{warned}");
    assert_eq!(said(0, &["-q", "run", "text.count", path]), "");
}

#[test]
fn completions_that_nobody_reads() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tidemill(&["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = tidemill(&["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn help_that_nobody_reads() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = tidemill(args).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: cannot print: No space left on device"), "{said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = tidemill(args).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn a_name_that_a_terminal_would_obey() {
    assert_snapshot!(said(2, &["run", "text.count", "a/\u{1b}]0;x\u{7}.txt"]), @r#"
    error: a/ ]0;x .txt: no such file or folder
      hint: a text that looks like a path goes in as '{"text": "…"}'
    "#);
}

#[test]
fn a_range_beyond_all_numbers() {
    let said =
        said(2, &["run", "compute.map", "--range", "18446744073709551600..18446744073709551610", "-o", "expr=x"]);
    assert!(said.contains("18446744073709551600 is too large; the largest number is 9223372036854775807"), "{said}");
}

#[test]
fn an_api_that_others_could_call() {
    let said = said(3, &["serve", "--listen", "0.0.0.0:0"]);
    assert!(said.contains("which others can reach, and there is no token"), "{said}");
    assert!(!said.contains("serves at"), "{said}");
}

#[test]
fn an_expression_that_cannot_be_read() {
    assert_snapshot!(said(2, &["run", "compute.map", "1", "-o", "expr=x + y"]), @r#"
    error: options of compute.map: expr: cannot read "x + y": y at character 5 is not known; the only variable is x
      hint: `tidemill tasks compute.map` shows its options
    "#);
}

#[test]
fn a_file_that_is_not_there() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().to_str().unwrap();
    assert_snapshot!(said(2, &["run", "image.transform", "examples/fotos", "--out", out]), @"
    error: examples/fotos: no such file or folder
      hint: did you mean photos or PHOTOS.md?
    ");
}

#[test]
fn no_inputs() {
    assert_snapshot!(said(2, &["run", "time.sleep"]), @"
    error: time.sleep needs inputs
      hint: tidemill run time.sleep 5 4 3 2 1
    ");
}

#[test]
fn no_place_for_files() {
    assert_snapshot!(said(2, &["run", "image.transform", "examples/photos"]), @"
    error: image.transform makes files, and nothing says where to put them
      hint: name a folder with --out DIR
    ");
}

#[test]
fn an_output_folder_within_the_input() {
    let photos = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("examples/photos/coffee.png"), photos.path().join("coffee.png")).unwrap();
    let (input, out) = (photos.path().to_str().unwrap(), photos.path().join("small"));
    let said = said(2, &["run", "image.transform", input, "--out", out.to_str().unwrap()]);
    assert!(said.contains(&format!("lies within the input {input}")), "{said}");
}

#[test]
fn an_output_folder_that_cannot_be_written() {
    assert_snapshot!(said(2, &["run", "image.transform", "examples/photos", "--out", "/proc/nowhere"]), @"
    error: --out: cannot write to /proc/nowhere: No such file or directory (os error 2)
      hint: name a folder that you may write to, on a disk with room
    ");
}

#[test]
fn an_unknown_model() {
    let said = said(2, &["run", "vision.classify", "examples/photos", "-o", "model=eficientnet-lite0"]);
    assert!(said.contains("did you mean efficientnet-lite0?"), "{said}");
}

#[test]
fn a_model_to_measure_that_is_not_there() {
    assert_snapshot!(said(2, &["bench", "efficientnet-lite9"]), @r#"
    error: no model is called "efficientnet-lite9"; did you mean efficientnet-lite0?
      hint: `tidemill models` lists them
    "#);
    assert_snapshot!(said(2, &["bench", "NOSUCH"]), @r#"
    error: no model is called "NOSUCH"
      hint: `tidemill models` lists them
    "#);
}

#[test]
fn items_that_cannot_be_read() {
    assert_snapshot!(said(2, &["run", "compute.map", "--items", "no-such.ndjson", "-o", "expr=x"]), @"
    error: --items: cannot read no-such.ndjson: No such file or directory (os error 2)
    ");
}

#[test]
fn a_misspelt_setting_is_a_configuration_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "[worker]\nthread = 3\n").unwrap();
    let said = said(3, &["--config", file.to_str().unwrap(), "tasks"]);
    assert!(said.contains("thread") && said.contains("threads") && said.contains("mine.toml"), "{said}");
}

#[test]
fn a_full_disk_under_the_output_ends_the_run_however_long_it_is() {
    for range in ["0..1", "0..2000000"] {
        let out = tidemill(&["run", "compute.map", "--range", range, "-o", "expr=x"])
            .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1));
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(said.starts_with("error: cannot print outcomes: No space left on device"), "{said}");
    }
}

#[test]
fn networks_without_the_other_command() {
    // A copy elsewhere has no tidemill-vision beside it.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("tidemill");
    std::fs::copy(env!("CARGO_BIN_EXE_tidemill"), &copy).unwrap();
    let mut command = std::process::Command::new(&copy);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL")) {
        command.env_remove(name);
    }
    let ended = command.args(["run", "vision.classify", "examples/photos"]).current_dir(root()).output().unwrap();
    assert_eq!(ended.status.code(), Some(3));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("networks run in tidemill-vision, which is not installed at"), "{said}");
    assert!(said.contains("hint: put tidemill-vision beside tidemill"), "{said}");
}
