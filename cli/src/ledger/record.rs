//! A record: a line of a journal, borrowed from it. It is an outcome's line, with the item's name and a note behind.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::Status;

/// See [`tidemill_core::outcome::Outcome::write_line`].
#[derive(Debug, Deserialize)]
pub(crate) struct Record<'a> {
    pub(crate) index: u64,
    #[serde(borrow)]
    pub(crate) input: &'a RawValue,
    #[serde(borrow)]
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) status: Status,
    /// `None` also where the output is `null`.
    #[serde(borrow)]
    pub(crate) output: Option<&'a RawValue>,
    pub(crate) error: Option<Failure>,
    pub(crate) attempts: u32,
    #[serde(borrow)]
    pub(crate) worker: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) device: Cow<'a, str>,
    pub(crate) timing: Timing,
    /// What a form wants to know besides.
    #[serde(borrow)]
    pub(crate) note: Option<&'a RawValue>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Timing {
    pub(crate) queued_ms: f64,
    pub(crate) run_ms: f64,
}

/// Hands over each record of a finished journal, one at a time.
///
/// # Errors
/// Where the journal cannot be read, naming the line, and what `each` says.
pub(super) fn read(journal: &Path, mut each: impl FnMut(&Record<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(journal)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let within = |problem: &dyn std::fmt::Display| {
            io::Error::other(format!("{}, line {number}: {problem}", journal.display()))
        };
        let record: Record<'_> = serde_json::from_slice(&line).map_err(|error| within(&error))?;
        each(&record).map_err(|error| within(&error))?;
    }
    Ok(())
}
