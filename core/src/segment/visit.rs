//! Walks over a segment's outcomes without making values of them.
//!
//! A collector looks at every outcome when it comes and again whenever it is read: with serde's own visitor that was
//! the longest part of the way of a cheap item. So the frame is read here by hand, and whatever in it is more than a
//! number or a plain string is given to `serde_json`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::batch::{Attempt, BatchId, ItemIndex};
use crate::failure::Failure;
use crate::outcome::{Ending, Maker, Outcome, Status};
use crate::wire::{Malformed, VERSION, is_relative, unknown_version};

/// What stands before the outcomes of a segment.
#[derive(Debug)]
pub struct Head {
    /// The batch of all of them.
    pub batch: BatchId,
    /// Who made all of them.
    pub maker: Maker,
}

/// One outcome as it stands in a segment.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The item's place.
    pub index: u64,
    /// How it ended.
    pub status: Status,
    /// The item's input, JSON.
    pub input: &'a str,
    /// The output of `ok`; the failure of `failed` and `dead`; else `null`. JSON.
    pub value: &'a str,
    /// How many runs it took.
    pub attempts: u32,
    /// Microseconds from the delivery to the start of its last run.
    pub queued: u64,
    /// Microseconds of its last run.
    pub run: u64,
    /// The item's relative path, where it has one.
    pub name: Option<Cow<'a, str>>,
    /// Where the bytes of the file are that its input names, where that file was uploaded.
    pub source: Option<Cow<'a, str>>,
}

impl Entry<'_> {
    /// Checks what only some outcomes have.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        let index = self.index;
        if matches!(self.status, Status::Failed | Status::Dead)
            && let Err(error) = serde_json::from_str::<Failure>(self.value)
        {
            return Err(Malformed::new(format!("outcome {index}: its value is no failure: {error}")));
        }
        match &self.name {
            Some(name) if !is_relative(name) => {
                Err(Malformed::new(format!("outcome {index}: its name is no plain relative path")))
            }
            _ => Ok(()),
        }
    }

    /// As a value.
    pub fn to_outcome(&self, maker: &Arc<Maker>) -> Outcome {
        let failure = || {
            serde_json::from_str(self.value).unwrap_or_else(|_| Failure::permanent("unknown", self.value.to_owned()))
        };
        let ending = match self.status {
            Status::Ok => Ending::Ok(owned(self.value)),
            Status::Failed => Ending::Failed(failure()),
            Status::Dead => Ending::Dead(failure()),
            Status::Cancelled => Ending::Cancelled,
            Status::Expired => Ending::Expired,
        };
        Outcome {
            index: ItemIndex(self.index),
            input: owned(self.input),
            name: self.name.as_deref().map(Into::into),
            source: self.source.as_deref().map(Into::into),
            ending,
            attempts: Attempt(self.attempts),
            maker: Arc::clone(maker),
            queued: Duration::from_micros(self.queued),
            run: Duration::from_micros(self.run),
        }
    }
}

/// What was walked over is JSON.
fn owned(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Walks over a segment's outcomes.
///
/// # Errors
/// [`Malformed`], or what `each` gives.
pub fn visit(bytes: &[u8], mut each: impl FnMut(&Head, Entry<'_>) -> Result<(), Malformed>) -> Result<Head, Malformed> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Malformed::new(format!("what stands at byte {} is not UTF-8", error.valid_up_to())))?;
    let mut scan = Scan { text, at: 0 };
    let head = head(&mut scan)?;
    scan.expect(b'[', "outcomes")?;
    if !scan.eats(b']') {
        loop {
            let entry = entry(&mut scan)?;
            each(&head, entry)?;
            if !scan.eats(b',') {
                break;
            }
        }
        scan.expect(b']', "the end of outcomes, or a comma and another outcome")?;
    }
    scan.expect(b'}', "the end of the segment: outcomes is its last field")?;
    if scan.next().is_some() {
        return Err(scan.wrong("nothing more"));
    }
    Ok(head)
}

/// Everything before the outcomes' own bracket.
fn head(scan: &mut Scan<'_>) -> Result<Head, Malformed> {
    let (mut version, mut batch, mut worker, mut device) = (None, None, None, None);
    scan.expect(b'{', "a segment, an object with v, batch, worker, device and, last, outcomes")?;
    loop {
        let name: Cow<'_, str> = scan.string("a field's name")?;
        scan.expect(b':', "a colon")?;
        match name.as_ref() {
            "v" => version = Some(scan.typed(&name)?),
            "batch" => batch = Some(scan.typed(&name)?),
            "worker" => worker = Some(scan.typed(&name)?),
            "device" => device = Some(scan.typed(&name)?),
            "outcomes" => {
                if version != Some(VERSION) {
                    return Err(Malformed::new(unknown_version(version)));
                }
                let (Some(batch), Some(worker), Some(device)) = (batch, worker, device) else {
                    return Err(Malformed::new("batch, worker and device stand before outcomes"));
                };
                return Ok(Head { batch, maker: Maker { worker, device } });
            }
            other => {
                let known = "v, batch, worker, device and outcomes";
                return Err(Malformed::new(format!("a segment has no field {other:?}; its fields are {known}")));
            }
        }
        if !scan.eats(b',') {
            return Err(scan.wrong("a comma: outcomes is missing"));
        }
    }
}

fn entry<'a>(scan: &mut Scan<'a>) -> Result<Entry<'a>, Malformed> {
    scan.expect(
        b'[',
        "an outcome: [index, status, input, value, attempts, queued_us, run_us] and perhaps name and source",
    )?;
    let index = scan.number("index")?;
    scan.expect(b',', "status")?;
    let status = scan.status()?;
    scan.expect(b',', "input")?;
    let input = scan.value("input")?;
    scan.expect(b',', "value")?;
    let value = scan.value("value")?;
    scan.expect(b',', "attempts")?;
    let attempts = scan.number("attempts")?;
    let attempts = u32::try_from(attempts)
        .map_err(|_| Malformed::new(format!("outcome {index}: {attempts} attempts are too many")))?;
    scan.expect(b',', "queued")?;
    let queued = scan.number("queued")?;
    scan.expect(b',', "run")?;
    let run = scan.number("run")?;
    let name = scan.further("name")?;
    let source = scan.further("source")?;
    scan.expect(b']', "the end of the outcome: it has at most nine parts")?;
    Ok(Entry { index, status, input, value, attempts, queued, run, name, source })
}

/// A place in JSON.
///
/// What is usual is looked for first, and within the caller: to walk twice over a million short outcomes took 0.15 of the two
/// seconds of CPU that they cost everybody, and hardly anybody writes white space or nineteen digits.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The next byte that is no white space; it stands there then.
    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        match self.text.as_bytes().get(self.at) {
            Some(byte) if *byte > b' ' => Some(*byte),
            _ => self.next_behind_space(),
        }
    }

    #[cold]
    fn next_behind_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space, if it is this one.
    #[inline(always)]
    fn eats(&mut self, byte: u8) -> bool {
        let is_it = self.next() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8, what: &str) -> Result<(), Malformed> {
        if self.eats(byte) { Ok(()) } else { Err(self.wrong(what)) }
    }

    #[cold]
    fn wrong(&self, expected: &str) -> Malformed {
        Malformed::new(match self.text.as_bytes().get(self.at) {
            Some(byte) => format!("at byte {}: {:?} stands where {expected} should", self.at, char::from(*byte)),
            None => format!("it ends where {expected} should stand"),
        })
    }

    /// A whole number without a sign.
    #[inline(always)]
    fn number(&mut self, what: &str) -> Result<u64, Malformed> {
        self.next();
        let (mut value, mut digits) = (0_u64, 0);
        for byte in self.rest() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 || digits == ALWAYS_FIT {
                break;
            }
            value = 10 * value + u64::from(digit);
            digits += 1;
        }
        if digits == 0 || digits == ALWAYS_FIT || (digits > 1 && self.rest()[0] == b'0') {
            return self.long_number(what);
        }
        // What follows a number is looked at by whoever asks for the next comma or bracket.
        self.at += digits;
        Ok(value)
    }

    /// One that may be too large, or none.
    #[cold]
    fn long_number(&mut self, what: &str) -> Result<u64, Malformed> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = &self.text[self.at..self.at + digits];
        let value = if digits > 1 && text.starts_with('0') { None } else { text.parse().ok() };
        let value = value.ok_or_else(|| self.wrong(&format!("{what}, a whole number,")))?;
        self.at += digits;
        Ok(value)
    }

    fn status(&mut self) -> Result<Status, Malformed> {
        self.next();
        // What nearly all of them say.
        if self.rest().starts_with(b"\"ok\"") {
            self.at += 4;
            return Ok(Status::Ok);
        }
        let at = self.at;
        let word: Cow<'_, str> = self.string("status")?;
        Status::ALL.into_iter().find(|status| status.as_str() == word).ok_or_else(|| {
            Malformed::new(format!(
                "at byte {at}: {word:?} is no status; they are ok, failed, dead, cancelled, expired"
            ))
        })
    }

    /// A string that need not be there, or `null`.
    fn further(&mut self, what: &str) -> Result<Option<Cow<'a, str>>, Malformed> {
        if !self.eats(b',') {
            return Ok(None);
        }
        self.next();
        if self.rest().starts_with(b"null") {
            self.at += 4;
            return Ok(None);
        }
        self.string(what).map(Some)
    }

    fn string(&mut self, what: &str) -> Result<Cow<'a, str>, Malformed> {
        if self.next() != Some(b'"') {
            return Err(self.wrong(&format!("{what}, a string,")));
        }
        let at = self.at;
        let text = self.value(what)?;
        let inner = &text[1..text.len() - 1];
        if !inner.contains('\\') {
            return Ok(Cow::Borrowed(inner));
        }
        serde_json::from_str(text).map(Cow::Owned).map_err(|error| self.of(at, what, &error))
    }

    fn typed<T: DeserializeOwned>(&mut self, what: &str) -> Result<T, Malformed> {
        self.next();
        let at = self.at;
        let text = self.value(what)?;
        serde_json::from_str(text).map_err(|error| self.of(at, what, &error))
    }

    /// Any value, as its text.
    #[inline]
    fn value(&mut self, what: &str) -> Result<&'a str, Malformed> {
        let plain = match self.next() {
            Some(b'"') => plain_string(self.rest()),
            Some(b'-' | b'0'..=b'9') => plain_number(self.rest()),
            _ => None,
        };
        let Some(bytes) = plain else { return self.any_value(what) };
        let text = &self.text[self.at..self.at + bytes];
        self.at += bytes;
        Ok(text)
    }

    fn any_value(&mut self, what: &str) -> Result<&'a str, Malformed> {
        let mut values = serde_json::Deserializer::from_slice(self.rest()).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(value)) => {
                self.at += values.byte_offset();
                Ok(value.get())
            }
            Some(Err(error)) => Err(self.of(self.at, what, &error)),
            None => Err(self.wrong(what)),
        }
    }

    /// What `serde_json` says of the value that begins there.
    fn of(&self, at: usize, what: &str, error: &serde_json::Error) -> Malformed {
        Malformed::new(format!("{what}, at byte {at}: {error}"))
    }
}

/// So many digits are a number of 64 bits, whichever they are.
const ALWAYS_FIT: usize = 19;

/// How long the string at the start is, quotes and all, where it has neither escapes nor control characters.
fn plain_string(bytes: &[u8]) -> Option<usize> {
    let end = 1 + bytes[1..].iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    (bytes[end] == b'"').then_some(end + 1)
}

/// How long the number at the start is, where it is a whole one or a plain fraction.
#[inline]
fn plain_number(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sign = usize::from(bytes[0] == b'-');
    let whole = digits(sign);
    let mut end = sign + whole;
    if whole == 0 || (whole > 1 && bytes[sign] == b'0') {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    // An exponent, or whatever else makes more of it.
    matches!(bytes.get(end), None | Some(b',' | b']' | b'}' | b' ' | b'\n' | b'\t' | b'\r')).then_some(end)
}
