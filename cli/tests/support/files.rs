//! Files of outcomes, looked into.
#![allow(clippy::unwrap_used, reason = "a test may end so")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Value, json};

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What a file says, but for what differs from run to run.
pub(crate) fn lines(path: &str) -> Vec<Value> {
    let line = |line: std::io::Result<String>| {
        let mut line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        for key in ["worker", "timing"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    BufReader::new(File::open(path).unwrap()).lines().map(line).collect()
}

fn value(cell: &Field) -> Value {
    match cell {
        Field::Null => Value::Null,
        Field::Bool(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Double(value) => json!(value),
        Field::Str(value) => json!(value),
        other => panic!("{other:?}"),
    }
}

/// The rows of a Parquet file, but for what differs from run to run.
pub(crate) fn rows(path: &str) -> Vec<Value> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let row = |row: parquet::errors::Result<parquet::record::Row>| {
        let row = row.unwrap();
        let kept =
            row.get_column_iter().filter(|(name, _)| !["worker", "queued_ms", "run_ms"].contains(&name.as_str()));
        Value::Object(kept.map(|(name, cell)| (name.clone(), value(cell))).collect())
    };
    reader.get_row_iter(None).unwrap().map(row).collect()
}

/// Waits until a file has so many lines; the command that writes it must not have ended by then.
pub(crate) fn until_it_has(lines: usize, file: &str, child: &mut Child) {
    let mut seen = 0;
    let mut reader = None;
    while seen < lines {
        // First: of one that has ended no file may come.
        assert!(child.try_wait().unwrap().is_none(), "it has ended, and its file had {seen} of {lines} lines");
        std::thread::yield_now();
        let Some(reader) = reader.as_mut() else {
            reader = File::open(file).ok();
            continue;
        };
        let mut more = Vec::new();
        reader.read_to_end(&mut more).unwrap();
        seen += more.iter().filter(|byte| **byte == b'\n').count();
        assert!(child.try_wait().unwrap().is_none(), "it has not all yet");
    }
}
