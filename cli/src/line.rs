//! Line: an outcome's line, read back into the outcome that it was written from.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidemill_core::batch::{Attempt, ItemIndex};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome, Status};
use tidemill_core::task::raw;

/// See [`Outcome::write_line`]. A field that a later version adds is passed over.
#[derive(Deserialize)]
struct Line {
    index: u64,
    input: Box<RawValue>,
    name: Option<Box<str>>,
    status: Status,
    #[serde(default = "null")]
    output: Box<RawValue>,
    error: Option<Failure>,
    attempts: u32,
    worker: String,
    device: String,
    timing: Timing,
}

#[derive(Deserialize)]
struct Timing {
    queued_ms: f64,
    run_ms: f64,
}

fn null() -> Box<RawValue> {
    raw(&())
}

/// Reads a line.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn parse(line: &[u8]) -> Result<Outcome, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| format!("an outcome is not readable: {error}"))?;
    let failure = line.error.unwrap_or_else(|| Failure::permanent("unknown", "no reason was given"));
    Ok(Outcome {
        index: ItemIndex(line.index),
        input: line.input,
        name: line.name,
        source: None,
        ending: match line.status {
            Status::Ok => Ending::Ok(line.output),
            Status::Failed => Ending::Failed(failure),
            Status::Dead => Ending::Dead(failure),
            Status::Cancelled => Ending::Cancelled,
            Status::Expired => Ending::Expired,
        },
        attempts: Attempt(line.attempts),
        maker: Arc::new(Maker { worker: line.worker, device: line.device }),
        queued: millis(line.timing.queued_ms),
        run: millis(line.timing.run_ms),
    })
}

fn millis(millis: f64) -> Duration {
    // A cast saturates: what is no time becomes none.
    Duration::from_micros((millis * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_as_it_was_written() {
        for line in [
            r#"{"index":3,"input":"a.jpg","status":"ok","output":{"bytes":7},"attempts":2,"worker":"w1","device":"cpu","timing":{"queued_ms":0.120,"run_ms":3.210}}"#,
            r#"{"index":0,"input":1,"status":"ok","output":null,"attempts":1,"worker":"w","device":"cpu","timing":{"queued_ms":0,"run_ms":1}}"#,
            r#"{"index":0,"input":[1],"status":"failed","error":{"kind":"timeout","message":"too long","retryable":true},"attempts":3,"worker":"w","device":"cpu","timing":{"queued_ms":0,"run_ms":3600000.120}}"#,
            r#"{"index":9007199254740990,"input":{},"status":"cancelled","attempts":0,"worker":"","device":"","timing":{"queued_ms":0,"run_ms":0}}"#,
        ] {
            let mut written = Vec::new();
            parse(line.as_bytes()).unwrap().write_line(&mut written);
            assert_eq!(String::from_utf8(written).unwrap(), line);
        }
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_nonsense_is_not() {
        let line = r#"{"index":0,"input":1,"status":"expired","attempts":0,"worker":"w","device":"","timing":{"queued_ms":0,"run_ms":0,"x":1},"new":true,"name":"a/b.txt"}"#;
        assert_eq!(parse(line.as_bytes()).unwrap().name.as_deref(), Some("a/b.txt"));
        assert!(parse(b"<html>").is_err());
    }
}
