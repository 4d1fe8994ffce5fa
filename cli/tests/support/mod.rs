//! Runs the real command, as a user does.
#![allow(clippy::unwrap_used, reason = "a test may end so")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The command, in the repository's root, with nothing of the caller's environment that changes what it does.
pub(crate) fn tidemill(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.current_dir(root()).args(args).stdin(Stdio::null()).env("NO_COLOR", "1").env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL")) {
        command.env_remove(name);
    }
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// The outcomes, a value a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// One field of every outcome.
    pub(crate) fn field(&self, name: &str) -> Vec<Value> {
        self.lines().iter().map(|line| line[name].clone()).collect()
    }
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    tidemill(args).output().unwrap().into()
}

/// Runs it with something on standard input.
pub(crate) fn run_with_input(args: &[&str], input: &str) -> Ended {
    let mut child = tidemill(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Starts it, to be talked to while it runs.
pub(crate) fn start(args: &[&str]) -> (Child, impl Iterator<Item = Value> + use<>) {
    let mut child = tidemill(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
}
