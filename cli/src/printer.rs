//! The printer: owns standard output, the progress bar, and every form that an outcome is printed in.

mod bar;
mod table;
mod timeline;

use std::io::{self, IsTerminal as _, Write};

use serde_json::value::RawValue;
use tidemill_core::outcome::Outcome;

pub(crate) use self::bar::{Bar, clear, say, stderr_beside_the_bar};
use self::table::Table;
use crate::args::Format;
use crate::ledger::Record;

/// Prints outcomes.
pub(crate) struct Printer {
    form: Form,
    /// Whether it shares the terminal with the bar.
    is_terminal: bool,
    /// What was rendered and is not yet written.
    text: Vec<u8>,
}

enum Form {
    Ndjson,
    Json { is_first: bool },
    Csv(Box<csv::Writer<Vec<u8>>>),
    Table(Table),
}

/// Written in one go at least at this size.
const FULL_BYTES: usize = 1 << 16;

impl Printer {
    /// Prints in that format; without one, a table on a terminal and NDJSON elsewhere.
    pub(crate) fn new(format: Option<Format>) -> io::Result<Self> {
        let is_terminal = io::stdout().is_terminal();
        let format = format.unwrap_or(if is_terminal { Format::Table } else { Format::Ndjson });
        let mut text = Vec::new();
        let form = match format {
            Format::Ndjson => Form::Ndjson,
            Format::Json => {
                text.push(b'[');
                Form::Json { is_first: true }
            }
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
                writer.write_record(CSV_COLUMNS)?;
                Form::Csv(Box::new(writer))
            }
            Format::Table => Form::Table(Table::fit(is_terminal, &mut text)),
        };
        Ok(Self { form, is_terminal, text })
    }

    /// Renders an outcome; it is written when enough has come together, or by [`Printer::flush`].
    pub(crate) fn print(&mut self, outcome: &Outcome) -> io::Result<()> {
        match &mut self.form {
            Form::Ndjson => {
                outcome.write_line(&mut self.text);
                self.text.push(b'\n');
            }
            Form::Json { is_first } => {
                self.text.extend_from_slice(if *is_first { b"\n  " } else { b",\n  " });
                *is_first = false;
                outcome.write_line(&mut self.text);
            }
            Form::Csv(writer) => writer.write_record(csv_record(outcome)?)?,
            Form::Table(table) => table.row(outcome, &mut self.text),
        }
        if self.text.len() >= FULL_BYTES { self.write() } else { Ok(()) }
    }

    /// Whether it prints lines as they are; see [`Printer::lines`].
    pub(crate) fn takes_lines(&self) -> bool {
        matches!(self.form, Form::Ndjson)
    }

    /// Takes whole lines, each with its end, as they came. Only for a printer that [`Printer::takes_lines`].
    pub(crate) fn lines(&mut self, lines: &[u8]) -> io::Result<()> {
        self.text.extend_from_slice(lines);
        if self.text.len() >= FULL_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes all that was rendered, so that whoever reads sees it now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Form::Csv(writer) = &mut self.form {
            writer.flush()?;
            let full = std::mem::replace(writer, Box::new(csv::WriterBuilder::new().from_writer(Vec::new())));
            self.text.append(&mut full.into_inner().map_err(|error| io::Error::other(error.to_string()))?);
        }
        self.write()
    }

    /// Ends what is printed.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if let Form::Json { is_first } = self.form {
            self.text.extend_from_slice(if is_first { b"]\n" } else { b"\n]\n" });
        }
        self.flush()
    }

    fn write(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&self.text)?;
            stdout.flush()
        };
        // A pipe is in nobody's way; and who holds the bar while its reader has stopped would hold up all that is said.
        let written = if self.is_terminal { bar::aside(write) } else { write() };
        self.text.clear();
        written
    }
}

const CSV_COLUMNS: [&str; 11] = [
    "index",
    "input",
    "status",
    "output",
    "error_kind",
    "error_message",
    "attempts",
    "worker",
    "device",
    "queued_ms",
    "run_ms",
];

/// A string itself, anything else as JSON; and so is a string that no text can be, such as half a pair of surrogates.
pub(crate) fn bare(json: &RawValue) -> String {
    serde_json::from_str(json.get()).unwrap_or_else(|_| json.get().to_owned())
}

/// Values stay as they were written: a number may be larger than any that a computer counts with.
fn csv_record(outcome: &Outcome) -> io::Result<[String; CSV_COLUMNS.len()]> {
    let mut line = Vec::new();
    outcome.write_line(&mut line);
    let Record { index, input, status, output, error, attempts, worker, device, timing, .. } =
        serde_json::from_slice(&line)?;
    let text = |json: &RawValue| if json.get() == "null" { String::new() } else { bare(json) };
    let (error_kind, error_message) = error.map(|error| (error.kind.into(), error.message)).unwrap_or_default();
    Ok([
        index.to_string(),
        text(input),
        status.to_string(),
        output.map(text).unwrap_or_default(),
        error_kind,
        error_message,
        attempts.to_string(),
        worker.into(),
        device.into(),
        timing.queued_ms.to_string(),
        timing.run_ms.to_string(),
    ])
}
