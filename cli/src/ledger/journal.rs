//! The journal: outcomes, a line each, in a file that a killed command leaves in a state that can be gone on with.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::store::Progress;

use super::{Record, not_written, unusable};
use crate::error::CliError;
use crate::line;

/// How every line begins; see [`Outcome::write_line`].
const BEGINNING: &[u8] = b"{\"index\":";
/// Written in one go at least at this size.
const FULL_BYTES: usize = 1 << 16;

/// The file that lines are added to. It is locked, so that no two commands add to it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where what counts ends, and the rest is to be cut off before anything is added.
    cut: Option<u64>,
    /// What was rendered and is not yet written.
    text: Vec<u8>,
    /// Whether outcomes are added in the order of their inputs, so that it can be gone on with.
    pub(super) is_in_order: bool,
}

/// What a journal already has.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// How the items ended that it has: the first ones of the batch.
    pub(crate) progress: Progress,
    /// The last of them.
    pub(crate) last: Option<Outcome>,
}

impl Journal {
    /// Makes the file, or goes on with it. Of a file that is gone on with, a half line at its end and everything from
    /// the first `cancelled` outcome on is cut off by the first [`Journal::flush`]: until then somebody may find that
    /// it is the wrong file.
    pub(super) fn open(
        path: PathBuf,
        resume: bool,
        seen: impl FnMut(&Record<'_>) -> Result<(), CliError>,
    ) -> Result<(Self, Begun), CliError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        if resume {
            options.create(true)
        } else {
            options.create_new(true)
        };
        let file = options.open(&path).map_err(|error| unusable(&path, &error))?;
        match file.try_lock() {
            // Some file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                let usage = CliError::usage(format!("--out: another command is writing {}", path.display()));
                return Err(usage.hint("wait for it to end, or name another file"));
            }
        }
        let (begun, cut) = if resume { scan(&path, &file, seen)? } else { Default::default() };
        Ok((Self { path, file, cut, text: Vec::new(), is_in_order: true }, begun))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, where `is_named` with the item's name, and with a note where there is one.
    pub(super) fn add(
        &mut self,
        outcome: &Outcome,
        is_named: bool,
        note: Option<Box<RawValue>>,
    ) -> Result<(), CliError> {
        outcome.write_line(&mut self.text);
        let name = outcome.name.as_deref().filter(|_| is_named).map(tidemill_core::task::raw);
        for (key, value) in [("name", name), ("note", note)] {
            if let Some(value) = value {
                self.text.pop();
                self.text.extend_from_slice(format!(",\"{key}\":{value}}}").as_bytes());
            }
        }
        self.text.push(b'\n');
        if self.text.len() >= FULL_BYTES { self.flush() } else { Ok(()) }
    }

    /// Whether nothing is in the file.
    pub(super) fn is_empty(&self) -> bool {
        self.file.metadata().is_ok_and(|about| about.len() == 0)
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        let cut = self.cut.take().map_or(Ok(()), |bytes| self.file.set_len(bytes));
        let written = cut.and_then(|()| self.file.write_all(&self.text));
        self.text.clear();
        written.map_err(|error| not_written(&self.path, &error, self.is_in_order))
    }
}

/// Reads what is there, a line at a time, and says where what counts ends.
fn scan(
    path: &Path,
    file: &File,
    mut seen: impl FnMut(&Record<'_>) -> Result<(), CliError>,
) -> Result<(Begun, Option<u64>), CliError> {
    let mut progress = Progress::default();
    let (mut line, mut last) = (Vec::new(), Vec::new());
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut kept_bytes = 0;
    loop {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(|error| CliError::fault(format!("--resume: cannot read {}: {error}", path.display())))?;
        let number = progress.recorded() + 1;
        let foreign = |problem: &str| {
            CliError::usage(format!("--resume: {}, line {number}: {problem}", path.display()))
                .hint("only a file that --out wrote in the order of the inputs can be gone on with")
        };
        if line.last() != Some(&b'\n') {
            let most = line.len().min(BEGINNING.len());
            if line[..most] != BEGINNING[..most] {
                return Err(foreign("it is no outcome"));
            }
            break;
        }
        let record: Record<'_> =
            serde_json::from_slice(&line).map_err(|error| foreign(&format!("it is no outcome: {error}")))?;
        if record.status == Status::Cancelled {
            break;
        }
        if record.index != progress.recorded() {
            let expected = progress.recorded();
            return Err(foreign(&format!("it is the outcome of item {}, not of {expected}", record.index)));
        }
        seen(&record)?;
        progress.counts[record.status as usize] += 1;
        kept_bytes += read as u64;
        std::mem::swap(&mut line, &mut last);
    }
    // A record is a line.
    Ok((Begun { progress, last: line::parse(&last).ok() }, Some(kept_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(index: u64, status: &str) -> String {
        format!(
            r#"{{"index":{index},"input":{},"status":"{status}","attempts":1,"worker":"w","device":"cpu","timing":{{"queued_ms":0,"run_ms":1.5}}}}"#,
            index * 10
        ) + "\n"
    }

    fn resume(text: &str) -> (Result<Begun, CliError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.ndjson");
        std::fs::write(&path, text).unwrap();
        let opened = Journal::open(path.clone(), true, |_| Ok(())).map(|(mut journal, begun)| {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "it may be the wrong file");
            journal.flush().unwrap();
            begun
        });
        (opened, std::fs::read_to_string(path).unwrap())
    }

    #[test]
    fn half_a_line_and_everything_from_the_first_cancelled_one_on_are_cut_off() {
        let whole = line(0, "ok") + &line(1, "failed");
        for rest in ["".to_owned(), "{\"index\":2,\"inp".into(), line(2, "cancelled") + &line(3, "ok")] {
            let (begun, left) = resume(&(whole.clone() + &rest));
            let begun = begun.unwrap();
            assert_eq!(left, whole);
            assert_eq!(begun.progress.recorded(), 2);
            assert_eq!(begun.progress.count(Status::Failed), 1);
            assert_eq!(begun.last.unwrap().input.get(), "10");
        }
    }

    #[test]
    fn a_file_of_something_else_is_left_as_it_is() {
        for (text, problem) in [
            ("flour\n".to_owned(), "line 1: it is no outcome"),
            ("{\"a\":1}".to_owned(), "line 1: it is no outcome"),
            (line(0, "ok") + "[1", "line 2: it is no outcome"),
            (line(0, "ok") + &line(2, "ok"), "line 2: it is the outcome of item 2, not of 1"),
        ] {
            let (begun, left) = resume(&text);
            let error = begun.unwrap_err();
            assert!(error.message.contains(problem), "{error}");
            assert_eq!(left, text);
        }
    }

    #[test]
    fn two_commands_do_not_write_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.ndjson");
        let first = Journal::open(path.clone(), false, |_| Ok(())).unwrap();
        let second = Journal::open(path, true, |_| Ok(())).unwrap_err();
        assert!(second.message.contains("another command is writing"), "{second}");
        drop(first);
    }
}
