//! `tidemill run vision.classify` as a user calls it, through the small command and its hand-over.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The small command, which a build of the workspace leaves beside `tidemill-vision`.
fn tidemill(args: &[&str]) -> Output {
    let small = Path::new(env!("CARGO_BIN_EXE_tidemill-vision")).with_file_name("tidemill");
    assert!(small.is_file(), "build the whole workspace first: {} is not there", small.display());
    Command::new(small).args(args).current_dir(root()).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The labels of each photo with their probabilities, by the file's name.
fn labels(output: &Output) -> BTreeMap<String, BTreeMap<String, f64>> {
    let labels = |line: &Value| {
        let name = Path::new(line["input"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
        let label =
            |label: &Value| (label["label"].as_str().unwrap().to_owned(), label["probability"].as_f64().unwrap());
        (name, line["output"]["labels"].as_array().unwrap().iter().map(label).collect())
    };
    lines(output).iter().map(labels).collect()
}

#[test]
fn the_photos_are_what_they_are_in_fp32_and_near_it_in_bf16() {
    for (precision, tolerance) in [("fp32", 0.02), ("bf16", 0.05)] {
        let output = tidemill(&["run", "vision.classify", "examples/photos", "--precision", precision]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let labels = labels(&output);
        assert_eq!(labels.len(), 10);
        // Seen with PyTorch 2.11 on the same photos (torchvision's Resize and CenterCrop, Pillow's bicubic filter).
        let seen = [
            ("coffee.png", "espresso", 0.951),
            ("chelsea.png", "tiger cat", 0.39),
            ("chelsea.png", "Egyptian cat", 0.36),
        ];
        for (photo, label, probability) in seen {
            let likely = labels[photo].get(label).copied().unwrap_or_default();
            assert!((likely - probability).abs() <= tolerance, "{photo}, {label} in {precision}: {likely}");
        }
    }
}

#[test]
fn outcomes_come_in_order_and_a_bad_picture_harms_only_itself() {
    let output = tidemill(&["run", "vision.classify", "tests/odd-files", "-o", "top=1"]);
    assert_eq!(output.status.code(), Some(5));
    let lines = lines(&output);
    let inputs: Vec<&str> = lines.iter().map(|line| line["input"].as_str().unwrap()).collect();
    assert!(inputs.is_sorted());
    // Each variety: CMYK, gray, 16 bits, one bit, palettes, alpha, films, every way to be turned; what it is in the end
    // stands in the list that the tests of pictures go by.
    let expected = std::fs::read_to_string(root().join("tests/odd-files/expected.json")).unwrap();
    let expected: BTreeMap<String, Value> = serde_json::from_str(&expected).unwrap();
    for (name, expected) in &expected {
        let line = lines.iter().find(|line| Path::new(line["input"].as_str().unwrap()).ends_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} has no outcome"));
        if let Some(kind) = expected.get("error") {
            assert_eq!((&line["status"], &line["error"]["kind"]), (&"failed".into(), kind), "{name}");
        } else {
            let output = &line["output"];
            assert_eq!(line["status"], "ok", "{name}: {line}");
            assert_eq!(serde_json::json!([output["width"], output["height"]]), expected["size"], "{name}");
            assert_eq!(output["labels"].as_array().unwrap().len(), 1, "{name}");
        }
    }
}

#[test]
fn a_model_that_does_not_fit_its_card_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("small");
    std::fs::create_dir(&model).unwrap();
    let card = std::fs::read_to_string(root().join("models/efficientnet-lite0/card.toml")).unwrap();
    let card = card
        .replace("efficientnet-lite0\"", "small\"")
        .replace("architecture = \"small\"", "architecture = \"efficientnet-lite0\"");
    std::fs::write(model.join("card.toml"), card).unwrap();
    std::fs::write(model.join("weights.safetensors"), b"these are no weights").unwrap();

    let output = tidemill(&[
        "run",
        "vision.classify",
        "examples/photos/coffee.png",
        "-o",
        &format!("model={}", model.display()),
    ]);

    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let error = &lines(&output)[0]["error"];
    assert_eq!(error["kind"], "model");
    assert!(error["message"].as_str().unwrap().contains("sha256"), "{error}");
}

#[test]
fn what_is_drawn_for_a_picture_is_placed_under_its_name() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().to_str().unwrap();
    let options = ["-o", r#"pictures=["mask","overlay"]"#, "-o", "picture=true"];
    let words = ["run", "vision.segment", "examples/photos/astronaut.png", "--out", folder];

    let output = tidemill(&[&words[..], &options].concat());

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = &lines(&output)[0];
    let placed = |field: &str| PathBuf::from(line["output"][field]["file"].as_str().unwrap());
    for (field, name) in [
        ("mask", "astronaut.mask.png"),
        ("overlay", "astronaut.overlay.png"),
        ("side_by_side", "astronaut.side-by-side.png"),
    ] {
        assert_eq!(placed(field), out.path().join(name));
        assert!(placed(field).is_file(), "{name}");
    }
}

#[test]
fn models_come_in_and_are_verified_by_the_command() {
    let home = tempfile::tempdir().unwrap();
    let to = home.path().to_str().unwrap();
    let network = "models/selfie-segmentation/selfie-segmentation.pt";
    let flags = ["--task", "segment", "--size", "256x256", "--mean", "0,0,0", "--std", "1,1,1", "--activation", "none"];
    let labels = ["--labels", "models/selfie-segmentation/labels.txt", "--golden", "examples/photos/camera.png"];
    let words = ["models", "import", network, "--name", "people", "--to", to];

    let output = tidemill(&[&words[..], &flags, &labels].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verified = tidemill(&["models", "verify", &format!("{to}/people")]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(said.contains("1 golden inputs in fp32"), "{said}");

    std::fs::write(home.path().join("people/golden.safetensors"), b"others").unwrap();
    let verified = tidemill(&["models", "verify", &format!("{to}/people")]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(3), "{said}");
    assert!(said.contains("✖") && said.contains("golden.sha256"), "{said}");
}

#[test]
fn what_cannot_be_had_is_refused_before_anything_starts() {
    let photo = "examples/photos/coffee.png";
    for (flags, code, said) in [
        (["--device", "tpu"], 3, "it is one of auto, cpu, cuda, cuda:0"),
        (["--precision", "int8"], 3, "it is one of auto, fp32, bf16, fp16"),
        (["--device", "cuda:9"], 3, "cuda"), // none here, or fewer than ten
        (["--instances", "0"], 2, "--instances"),
        (["--instances", "65535"], 3, "vision.instances"),
    ] {
        let output = tidemill(&[&["run", "vision.classify", photo][..], &flags].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {error}");
        assert!(error.contains(said) && output.stdout.is_empty(), "{flags:?}: {error}");
    }
    let output = tidemill(&["run", "vision.classify", photo, "--device", "cpu", "--instances", "1000"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("vision.instances and vision.threads ask for 1000 × 1 threads"), "{error}");
}

#[test]
fn the_bench_says_how_much_of_what_is_possible_is_reached() {
    let output = tidemill(&["bench", "--seconds", "1", "--format", "json", "--device", "cpu"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["model"], &found["images"]), (&"efficientnet-lite0".into(), &10.into()), "{found}");
    let number = |key: &str| found[key].as_f64().unwrap();
    let (forward, decode) = (number("forward"), number("decode"));
    for rate in ["forward", "decode", "end_to_end", "one_forward_ms", "one_end_to_end_ms"] {
        assert!(number(rate) > 0.0, "{rate}: {found}");
    }
    assert!((number("slower") - forward.min(decode)).abs() < 0.1, "{found}");
    assert!(number("limit") < number("slower"), "on the CPU both share the cores: {found}");
    let share = number("end_to_end") / number("limit");
    assert!((number("share_of_limit") - share).abs() < 0.05 * share.max(1.0), "{found}");

    let refused = tidemill(&["bench", "efficientnet-lite9"]);
    assert_eq!(refused.status.code(), Some(2));
    let refused = tidemill(&["bench", "--images", "no/such/folder"]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn the_doctor_says_what_networks_run_on() {
    let output = tidemill(&["doctor"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("networks run on the cpu"), "{said}");
    assert!(said.contains("model efficientnet-lite0 is complete"), "{said}");
}

#[test]
fn the_small_command_does_not_link_libtorch() {
    let small = Path::new(env!("CARGO_BIN_EXE_tidemill-vision")).with_file_name("tidemill");
    let needed = Command::new("readelf").args(["-d"]).arg(small).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    assert!(needed.contains("libc.so"), "{needed}");
    assert!(!needed.contains("libtorch"), "{needed}");
}
