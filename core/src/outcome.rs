//! Outcomes: what became of each item.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::batch::{Attempt, ItemIndex};
use crate::failure::Failure;

/// How an item ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It ran; the task's output.
    Ok(Box<RawValue>),
    /// It ran and failed for good, or failed too often.
    Failed(Failure),
    /// It ended the process that ran it; what is known of that end.
    Dead(Failure),
    /// Its batch was cancelled before it was finished.
    Cancelled,
    /// Its batch's time was over before it was finished.
    Expired,
}

/// The one word for an [`Ending`], as it stands in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is explained at Ending")]
pub enum Status {
    Ok,
    Failed,
    Dead,
    Cancelled,
    Expired,
}

impl Status {
    /// Every status, in the order in which they are counted and shown.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Dead, Self::Cancelled, Self::Expired];

    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who made an outcome, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// The worker's name; empty where no worker was needed (an input refused by the producer).
    pub worker: String,
    /// `cpu`, `cuda:0`, …
    pub device: String,
}

/// What became of one item, as it travels from the worker to the store. [`Outcome::line`] is its form
/// for people and programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The item's place in its batch.
    pub index: ItemIndex,
    /// The item's input, repeated so that a line can be read by itself.
    pub input: Box<RawValue>,
    /// The item's relative path, where it has one; see [`crate::chunk::Item::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// How it ended.
    pub ending: Ending,
    /// How many runs it took; 0 if it never ran.
    pub attempts: Attempt,
    /// Who made it.
    pub maker: Arc<Maker>,
    /// From the delivery to the start of its last run.
    #[serde(with = "crate::micros")]
    pub queued: Duration,
    /// Its last run.
    #[serde(with = "crate::micros")]
    pub run: Duration,
}

impl Outcome {
    /// The one word for how it ended.
    pub fn status(&self) -> Status {
        match self.ending {
            Ending::Ok(_) => Status::Ok,
            Ending::Failed(_) => Status::Failed,
            Ending::Dead(_) => Status::Dead,
            Ending::Cancelled => Status::Cancelled,
            Ending::Expired => Status::Expired,
        }
    }

    /// What went wrong, for `failed` and `dead`.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.ending {
            Ending::Failed(failure) | Ending::Dead(failure) => Some(failure),
            _ => None,
        }
    }

    /// The outcome as one line of NDJSON.
    pub fn line(&self) -> Line<'_> {
        Line(self)
    }

    /// What its item counted for when memory was budgeted; see [`crate::chunk::Item::weight_bytes`].
    pub fn weight_bytes(&self) -> u64 {
        crate::chunk::weight_bytes(&self.input, self.name.as_deref())
    }

    /// The size of what it brought along: its output, or why it has none.
    pub fn output_bytes(&self) -> u64 {
        match &self.ending {
            Ending::Ok(output) => output.get().len() as u64,
            Ending::Failed(failure) | Ending::Dead(failure) => failure.message.len() as u64,
            Ending::Cancelled | Ending::Expired => 0,
        }
    }
}

/// The form of an outcome that people and programs read:
/// `{"index":0,"input":"a.jpg","status":"ok","output":{…},"attempts":1,"worker":"…","device":"cpu",
/// "timing":{"queued_ms":0.1,"run_ms":3.2}}`, with `error` in place of `output` for one that failed.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(&'a Outcome);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(outcome) = self;
        let mut line = serializer.serialize_struct("Outcome", 8)?;
        line.serialize_field("index", &outcome.index)?;
        line.serialize_field("input", &outcome.input)?;
        line.serialize_field("status", outcome.status().as_str())?;
        match &outcome.ending {
            Ending::Ok(output) => line.serialize_field("output", output)?,
            Ending::Failed(failure) | Ending::Dead(failure) => {
                line.serialize_field("error", failure)?;
            }
            Ending::Cancelled | Ending::Expired => {}
        }
        line.serialize_field("attempts", &outcome.attempts)?;
        line.serialize_field("worker", &outcome.maker.worker)?;
        line.serialize_field("device", &outcome.maker.device)?;
        line.serialize_field("timing", &Timing { queued_ms: millis(outcome.queued), run_ms: millis(outcome.run) })?;
        line.end()
    }
}

#[derive(Serialize)]
struct Timing {
    queued_ms: f64,
    run_ms: f64,
}

/// Milliseconds to the microsecond, which is as fine as these clocks deserve.
#[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            index: ItemIndex(3),
            input: RawValue::from_string("\"a.jpg\"".into()).unwrap(),
            name: Some("a.jpg".into()),
            ending,
            attempts: Attempt(2),
            maker: Arc::new(Maker { worker: "w1".into(), device: "cpu".into() }),
            queued: Duration::from_micros(120),
            run: Duration::from_micros(3210),
        }
    }

    #[test]
    fn a_line_has_the_fields_of_the_contract_in_their_order() {
        let output = RawValue::from_string("{\"bytes\":7}".into()).unwrap();
        assert_eq!(
            serde_json::to_string(&outcome(Ending::Ok(output)).line()).unwrap(),
            r#"{"index":3,"input":"a.jpg","status":"ok","output":{"bytes":7},"attempts":2,"worker":"w1","device":"cpu","timing":{"queued_ms":0.12,"run_ms":3.21}}"#
        );
    }

    #[test]
    fn a_failed_line_says_what_kind_of_failure_and_whether_it_may_pass() {
        let line = serde_json::to_value(outcome(Ending::Failed(Failure::transient("timeout", "took too long"))).line())
            .unwrap();
        assert_eq!(
            line["error"],
            serde_json::json!({"kind": "timeout", "message": "took too long", "retryable": true})
        );
        assert!(line.get("output").is_none());
    }

    #[test]
    fn cancelled_and_expired_lines_have_neither_output_nor_error() {
        for ending in [Ending::Cancelled, Ending::Expired] {
            let line = serde_json::to_value(outcome(ending).line()).unwrap();
            assert!(line.get("output").is_none() && line.get("error").is_none());
        }
    }
}
