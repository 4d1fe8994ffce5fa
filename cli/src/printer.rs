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
use crate::error::CliError;
use crate::ledger::Record;

/// Prints outcomes.
pub(crate) struct Printer {
    form: Form,
    /// Whether that was begun: what stands before the first outcome comes with it, and not before there is one.
    is_begun: bool,
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
    pub(crate) fn new(format: Option<Format>) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let format = format.unwrap_or(if is_terminal { Format::Table } else { Format::Ndjson });
        let form = match format {
            Format::Ndjson => Form::Ndjson,
            Format::Json => Form::Json { is_first: true },
            Format::Csv => Form::Csv(Box::new(csv_writer())),
            Format::Table => Form::Table(Table::fit(is_terminal)),
        };
        Self { form, is_begun: false, is_terminal, text: Vec::new() }
    }

    /// Renders an outcome; it is written when enough has come together, or by [`Printer::flush`].
    pub(crate) fn print(&mut self, outcome: &Outcome) -> io::Result<()> {
        self.begin()?;
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
            let full = std::mem::replace(writer, Box::new(csv_writer()));
            self.text.append(&mut full.into_inner().map_err(|error| io::Error::other(error.to_string()))?);
        }
        self.write()
    }

    /// Ends what is printed.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.begin()?;
        if let Form::Json { is_first } = self.form {
            self.text.extend_from_slice(if is_first { b"]\n" } else { b"\n]\n" });
        }
        self.flush()
    }

    /// Ends what is printed where nothing came of it: what was not begun is not printed at all.
    pub(crate) fn give_up(&mut self) -> io::Result<()> {
        if self.is_begun { self.end() } else { Ok(()) }
    }

    /// Renders what stands before the first outcome, once.
    fn begin(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Ok(());
        }
        match &mut self.form {
            Form::Ndjson => {}
            Form::Json { .. } => self.text.push(b'['),
            Form::Csv(writer) => writer.write_record(CSV_COLUMNS)?,
            Form::Table(table) => table.head(&mut self.text),
        }
        Ok(())
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

/// Standard output takes nothing more.
pub(crate) fn not_printed(error: &io::Error) -> CliError {
    CliError::fault(format!("cannot print outcomes: {error}")).hint("is the disk full that they are written to?")
}

/// A text for people without what a terminal would obey: the name of a file may have anything in it. Its lines stay.
pub(crate) fn harmless(text: &str) -> String {
    let is_obeyed = |character: char| character.is_control() && character != '\n';
    text.chars().map(|character| if is_obeyed(character) { ' ' } else { character }).collect()
}

fn csv_writer() -> csv::Writer<Vec<u8>> {
    csv::WriterBuilder::new().from_writer(Vec::new())
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

#[cfg(test)]
mod tests {
    use tidemill_results_api::testing::ok;

    use super::*;

    const FORMATS: [Format; 4] = [Format::Ndjson, Format::Json, Format::Csv, Format::Table];

    /// What was rendered so far.
    fn rendered(printer: &mut Printer) -> String {
        if let Form::Csv(writer) = &mut printer.form {
            let full = std::mem::replace(writer, Box::new(csv_writer()));
            printer.text.append(&mut full.into_inner().unwrap());
        }
        String::from_utf8(std::mem::take(&mut printer.text)).unwrap()
    }

    #[test]
    fn what_stands_before_the_first_outcome_comes_with_it_and_once() {
        for format in FORMATS {
            let mut printer = Printer::new(Some(format));
            assert_eq!(rendered(&mut printer), "", "{format:?}");

            printer.print(&ok(0)).unwrap();
            let (first, begins) = (rendered(&mut printer), ["{\"index\"", "[\n", "index,", "  item"]);
            printer.print(&ok(1)).unwrap();
            let second = rendered(&mut printer);

            assert!(begins.iter().any(|begin| first.starts_with(begin)), "{format:?}: {first}");
            let heads = ["[\n", "error_kind", "status  "];
            assert!(!heads.iter().any(|head| second.contains(head)), "{format:?}: {second}");
        }
    }

    #[test]
    fn where_nothing_came_of_it_nothing_is_printed() {
        for format in FORMATS {
            let mut printer = Printer::new(Some(format));
            printer.give_up().unwrap();
            assert!(!printer.is_begun && printer.text.is_empty(), "{format:?}");
        }
    }
}
