//! The sink: lines as they came, or parsed, kept, and printed in the form that was asked for.

use std::io;

use tidemill_core::outcome::Outcome;

use super::Following;
use super::kept::Kept;
use crate::client::{ApiError, Client};
use crate::error::CliError;
use crate::line;
use crate::printer::{Printer, not_printed};

/// Where outcomes end.
pub(super) struct Sink {
    /// Outcomes in a file are printed too where somebody says how.
    printer: Option<Printer>,
    kept: Kept,
}

/// Why no more is taken.
pub(super) enum Stop {
    /// Something did not come; it may come later.
    Api(ApiError),
    /// This is the end.
    Cli(CliError),
    /// Whoever read our output has closed it (`| head`).
    Deaf,
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<CliError> for Stop {
    fn from(error: CliError) -> Self {
        Self::Cli(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Deaf } else { Self::Cli(not_printed(&error)) }
    }
}

impl Sink {
    pub(super) fn new(following: &Following, kept: Kept) -> Self {
        let is_printed = kept.file().is_none() || following.format.is_some();
        Self { printer: is_printed.then(|| Printer::new(following.format)), kept }
    }

    /// Whether lines must tell the names of their items.
    pub(super) fn needs_names(&self) -> bool {
        self.kept.needs_names()
    }

    /// Takes whole lines, all or, where something cannot be fetched now, none.
    pub(super) async fn take(&mut self, client: &Client, lines: &[u8]) -> Result<(), Stop> {
        let as_they_come = |printer: &&mut Printer| printer.takes_lines() && self.kept.is_nothing();
        if let Some(printer) = self.printer.as_mut().filter(as_they_come) {
            printer.lines(lines)?;
            return Ok(printer.flush()?);
        }
        let parsed: Result<Vec<Outcome>, String> =
            lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(line::parse).collect();
        let mut outcomes = parsed.map_err(|message| {
            let message = format!("{}: {message}", client.url());
            Stop::Cli(CliError::fault(message).hint("is it a results API of this version?"))
        })?;
        self.kept.keep(client, &mut outcomes).await?;
        let Some(printer) = &mut self.printer else { return Ok(()) };
        for outcome in &outcomes {
            printer.print(outcome)?;
        }
        Ok(printer.flush()?)
    }

    /// Ends what is printed; gives what is kept.
    pub(super) fn end(self) -> Result<Kept, CliError> {
        self.end_by(Printer::end)
    }

    /// The same where nothing came of it; see [`Printer::give_up`].
    pub(super) fn give_up(self) -> Result<Kept, CliError> {
        self.end_by(Printer::give_up)
    }

    fn end_by(mut self, end: fn(&mut Printer) -> io::Result<()>) -> Result<Kept, CliError> {
        match self.printer.as_mut().map_or(Ok(()), end) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(not_printed(&error)),
            _ => Ok(self.kept),
        }
    }
}
