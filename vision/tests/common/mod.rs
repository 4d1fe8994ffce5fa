//! What the tests share: the model card, the photographs, and copies of the card to spoil.
#![allow(clippy::unwrap_used, reason = "a test may end so")]
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod digits;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tidemill_core::settings::{Device, Precision, VisionSettings};
use tidemill_tasks::vision::card::Card;

/// Settings for networks on the CPU, whatever else the machine has.
pub(crate) fn settings() -> VisionSettings {
    VisionSettings {
        models: Vec::new(),
        default_model: String::new(),
        preload: Vec::new(),
        device: Device::Cpu,
        precision: Precision::Auto,
        instances: 1,
        threads: 1,
        max_batch: 8,
        max_delay: Duration::ZERO,
        model_memory_bytes: u64::MAX,
        train_in: None,
        libtorch: None,
    }
}

/// The card that the tests run on.
pub(crate) fn card() -> Card {
    let card = Card::load(repository().join("models/efficientnet-lite0")).expect("load the card");
    assert!(card.network_path().is_file(), "the weights are missing: run `make models`");
    card
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pixels that `reference.json` is about, as `224 × 224 × 3` bytes.
pub(crate) fn pixels(photo: &str) -> Vec<u8> {
    let path = repository().join(format!("vision/tests/{photo}.pixels.png"));
    image::open(path).expect("read the pixels").into_rgb8().into_raw()
}

/// What PyTorch gives for a photograph: classes and probabilities, most probable first.
pub(crate) fn reference(photo: &str) -> Vec<(u32, f32)> {
    let text = include_str!("../reference.json");
    let all: serde_json::Value = serde_json::from_str(text).expect("parse reference.json");
    let rows = all[photo].as_array().expect("the photo is in reference.json");
    let row = |row: &serde_json::Value| {
        let class = row["class"].as_u64().expect("class");
        (u32::try_from(class).expect("class"), row["probability"].as_f64().expect("probability") as f32)
    };
    rows.iter().map(row).collect()
}

/// A copy of the card's folder, with its text changed.
pub(crate) fn changed_card(change: impl FnOnce(String) -> String) -> (TempDir, PathBuf) {
    let sandbox = TempDir::new().expect("make a folder");
    let folder = sandbox.path().join("efficientnet-lite0");
    fs::create_dir(&folder).expect("make the card's folder");
    let card = card();
    let text = fs::read_to_string(card.folder().join("card.toml")).expect("read the card");
    let changed = change(text.clone());
    assert_ne!(text, changed, "the change changed nothing");
    fs::write(folder.join("card.toml"), changed).expect("write the card");
    fs::copy(card.network_path(), folder.join(&card.network.file)).expect("copy the weights");
    (sandbox, folder)
}
