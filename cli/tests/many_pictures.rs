//! Many pictures, whole and damaged, through one worker.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::run;

const DAMAGED: usize = 10_000;

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// A few bytes changed, lost or put between.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(2) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes[at] = self.below(256) as u8,
                1..=4 => bytes[at] ^= 1 << self.below(8),
                5 => bytes.truncate(at + 1),
                6 => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => drop(bytes.splice(at..at, [0xFF; 3])),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
    }
}

/// The JPEGs and PNGs among the odd files that are small and of any use.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/odd-files");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &Path| {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        matches!(ending, "jpg" | "png") && (1..100_000).contains(&path.metadata().unwrap().len())
    };
    let mut seeds: Vec<_> = entries
        .filter(|path| is_one(path))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() > 15);
    seeds
}

#[test]
fn ten_thousand_damaged_pictures_have_one_outcome_each() {
    let (seeds, mut dice) = (seeds(), Dice(0x9E37_79B9_7F4A_7C15));
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for n in 0..DAMAGED {
        let (name, bytes) = &seeds[n % seeds.len()];
        let mut bytes = bytes.clone();
        dice.damage(&mut bytes);
        std::fs::write(pictures.join(format!("{n:05}-{name}")), bytes).unwrap();
    }

    let out = folder.path().join("out");
    let ended = run(&[
        "run",
        "image.transform",
        pictures.to_str().unwrap(),
        "-o",
        r#"steps=[{"thumbnail":24}]"#,
        "--out",
        out.to_str().unwrap(),
    ]);

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let lines = ended.lines();
    assert_eq!(lines.len(), DAMAGED);
    let mut statuses = BTreeMap::new();
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], n);
        *statuses.entry(line["status"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        if line["status"] == "failed" {
            assert!(!line["error"]["message"].as_str().unwrap().is_empty());
            assert_ne!(line["error"]["retryable"], Value::Bool(true), "{line}");
        }
    }
    let (ok, failed) = (statuses["ok"], statuses["failed"]);
    assert_eq!(ok + failed, DAMAGED);
    assert!(ok > 1000 && failed > 1000, "both ways are taken: {statuses:?}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), ok, "one file for each that is ok");
}
