//! Outcomes: what became of each item.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::batch::{Attempt, ItemIndex};
use crate::chunk::Item;
use crate::failure::Failure;

/// How an item ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It ran; the task's output.
    Ok(Box<RawValue>),
    /// It ran and failed for good, or failed too often.
    Failed(Failure),
    /// It ended the process that ran it, or would not stop; what is known of that.
    Dead(Failure),
    /// Its batch was cancelled before it was finished.
    Cancelled,
    /// Its batch's time was over before it was begun.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Maker {
    /// The worker's name; empty where no worker was needed (an input refused by the producer).
    pub worker: String,
    /// `cpu`, `cuda:0`, …
    pub device: String,
}

impl Maker {
    /// Appends its part of an outcome's line: `,"worker":"w1","device":"cpu"`.
    pub(crate) fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b",\"worker\":");
        write_string(&self.worker, text);
        text.extend_from_slice(b",\"device\":");
        write_string(&self.device, text);
    }
}

/// What became of one item, as it travels from the worker to the store. [`Outcome::write_line`] gives
/// its form for people and programs.
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
    /// Where the bytes of its file are, so that it can run again; see [`crate::chunk::Item::source`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<str>>,
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
    /// The outcome of an item that did not run, and of which nothing but its input is known.
    pub fn unrun(
        index: ItemIndex,
        input: Box<RawValue>,
        ending: Ending,
        attempts: Attempt,
        maker: &Arc<Maker>,
    ) -> Self {
        Self {
            index,
            input,
            name: None,
            source: None,
            ending,
            attempts,
            maker: Arc::clone(maker),
            queued: Duration::ZERO,
            run: Duration::ZERO,
        }
    }

    /// The outcome of an item; how long it waited and ran is for whoever knows.
    pub fn of(item: &Item, ending: Ending, attempts: Attempt, maker: &Arc<Maker>) -> Self {
        Self {
            name: item.name.clone(),
            source: item.lasting_source(),
            ..Self::unrun(item.index, item.input.clone(), ending, attempts, maker)
        }
    }

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

    /// Appends the form that people and programs read, without a line's end:
    /// `{"index":0,"input":"a.jpg","status":"ok","output":{…},"attempts":1,"worker":"…","device":"cpu",
    /// "timing":{"queued_ms":0.1,"run_ms":3.2}}`, with `error` in place of `output` for one that failed.
    ///
    /// Written out by hand: of a million cheap items, a serializer's walk over nine fields was a tenth of the time.
    pub fn write_line(&self, text: &mut Vec<u8>) {
        let failure;
        let value = match &self.ending {
            Ending::Ok(output) => Some(output.get()),
            Ending::Failed(why) | Ending::Dead(why) => {
                failure = crate::task::raw(why);
                Some(failure.get())
            }
            Ending::Cancelled | Ending::Expired => None,
        };
        Line {
            index: self.index.0,
            input: self.input.get(),
            status: self.status(),
            value,
            attempts: self.attempts.0,
            queued: self.queued,
            run: self.run,
        }
        .write(text, |text| self.maker.write(text));
    }

    /// The same as a value.
    pub fn to_value(&self) -> serde_json::Value {
        let mut text = Vec::new();
        self.write_line(&mut text);
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// What its item counted for when memory was budgeted; see [`crate::chunk::Item::weight_bytes`].
    pub fn weight_bytes(&self) -> u64 {
        crate::chunk::weight_bytes(&self.input, self.name.as_deref())
    }

    /// The size of what it brought along, at most: its output, or why it has none, of which JSON may write a byte as six.
    pub fn output_bytes(&self) -> u64 {
        match &self.ending {
            Ending::Ok(output) => output.get().len() as u64,
            Ending::Failed(failure) | Ending::Dead(failure) => 6 * failure.message.len() as u64,
            Ending::Cancelled | Ending::Expired => 0,
        }
    }
}

/// The parts of an outcome's line, borrowed from wherever they are; [`Outcome::write_line`] tells its form.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The item's place.
    pub index: u64,
    /// Its input, JSON.
    pub input: &'a str,
    /// How it ended.
    pub status: Status,
    /// The output of `ok`, the failure of `failed` and `dead`; JSON.
    pub value: Option<&'a str>,
    /// How many runs it took.
    pub attempts: u32,
    /// From the delivery to the start of its last run.
    pub queued: Duration,
    /// Its last run.
    pub run: Duration,
}

impl Line<'_> {
    /// Appends the line, without its end; `maker` appends who made it, see [`Maker::write`].
    pub fn write(&self, text: &mut Vec<u8>, maker: impl FnOnce(&mut Vec<u8>)) {
        let mut number = itoa::Buffer::new();
        text.extend_from_slice(b"{\"index\":");
        text.extend_from_slice(number.format(self.index).as_bytes());
        text.extend_from_slice(b",\"input\":");
        write_raw(self.input, text);
        text.extend_from_slice(b",\"status\":\"");
        text.extend_from_slice(self.status.as_str().as_bytes());
        text.push(b'"');
        if let Some(value) = self.value {
            let key: &[u8] = if self.status == Status::Ok { b",\"output\":" } else { b",\"error\":" };
            text.extend_from_slice(key);
            write_raw(value, text);
        }
        text.extend_from_slice(b",\"attempts\":");
        text.extend_from_slice(number.format(self.attempts).as_bytes());
        maker(text);
        text.extend_from_slice(b",\"timing\":{\"queued_ms\":");
        write_millis(self.queued, text);
        text.extend_from_slice(b",\"run_ms\":");
        write_millis(self.run, text);
        text.extend_from_slice(b"}}");
    }
}

/// Milliseconds to the microsecond, which is as fine as these clocks deserve.
fn write_millis(duration: Duration, text: &mut Vec<u8>) {
    // 64 bits hold half a million years; 128 are divided by a call.
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    text.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    let rest = micros % 1000;
    if rest > 0 {
        // Three digits: the leading zeros count.
        text.push(b'.');
        text.extend_from_slice(&itoa::Buffer::new().format(1000 + rest).as_bytes()[1..]);
    }
}

/// A line has no line breaks in it, whatever white space somebody put into an input.
fn write_raw(json: &str, text: &mut Vec<u8>) {
    // Bytes, not characters: a search that decodes showed in the profile of a million cheap items.
    if json.bytes().any(is_break) {
        // In JSON they stand between its words alone.
        text.extend(json.bytes().filter(|byte| !is_break(*byte)));
    } else {
        text.extend_from_slice(json.as_bytes());
    }
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn write_string(string: &str, text: &mut Vec<u8>) {
    if string.bytes().any(|byte| matches!(byte, b'"' | b'\\' | ..b' ')) {
        write_json(string, text);
    } else {
        text.push(b'"');
        text.extend_from_slice(string.as_bytes());
        text.push(b'"');
    }
}

fn write_json(value: &(impl Serialize + ?Sized), text: &mut Vec<u8>) {
    // Writing strings and plain structs to memory cannot fail.
    serde_json::to_writer(text, value).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            index: ItemIndex(3),
            input: RawValue::from_string("\"a.jpg\"".into()).unwrap(),
            name: Some("a.jpg".into()),
            source: None,
            ending,
            attempts: Attempt(2),
            maker: Arc::new(Maker { worker: "w1".into(), device: "cpu".into() }),
            queued: Duration::from_micros(120),
            run: Duration::from_micros(3210),
        }
    }

    fn line(outcome: &Outcome) -> String {
        let mut text = Vec::new();
        outcome.write_line(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn milliseconds_are_written_to_the_microsecond() {
        let written = |micros| {
            let mut text = Vec::new();
            write_millis(Duration::from_micros(micros), &mut text);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(
            [0, 7, 70, 1000, 1005, 3_600_000_120].map(written),
            ["0", "0.007", "0.070", "1", "1.005", "3600000.120"]
        );
    }

    #[test]
    fn a_line_is_one_line_whatever_the_input_looks_like() {
        let input = RawValue::from_string("{\"z\":\n  [1.10,\r\n1e999],\n\"a\":\"\\n\"}".into()).unwrap();
        let written = line(&Outcome { input, ..outcome(Ending::Cancelled) });
        let expected = r#"{"index":3,"input":{"z":  [1.10,1e999],"a":"\n"},"status":"cancelled""#;
        assert!(written.starts_with(expected), "{written}");
    }

    #[test]
    fn a_line_has_the_fields_of_the_contract_in_their_order() {
        let output = RawValue::from_string("{\"bytes\":7}".into()).unwrap();
        assert_eq!(
            line(&outcome(Ending::Ok(output))),
            r#"{"index":3,"input":"a.jpg","status":"ok","output":{"bytes":7},"attempts":2,"worker":"w1","device":"cpu","timing":{"queued_ms":0.120,"run_ms":3.210}}"#
        );
    }

    #[test]
    fn a_failed_line_says_what_kind_of_failure_and_whether_it_may_pass() {
        let line = outcome(Ending::Failed(Failure::transient("timeout", "took too long"))).to_value();
        assert_eq!(
            line["error"],
            serde_json::json!({"kind": "timeout", "message": "took too long", "retryable": true})
        );
        assert!(line.get("output").is_none());
    }

    #[test]
    fn cancelled_and_expired_lines_have_neither_output_nor_error() {
        for ending in [Ending::Cancelled, Ending::Expired] {
            let line = outcome(ending).to_value();
            assert!(line.get("output").is_none() && line.get("error").is_none());
        }
    }
}
