//! The sink: pages made into lines, or into outcomes that are kept and printed in the form that was asked for.

use std::io;
use std::sync::Arc;

use tidemill_core::outcome::Outcome;
use tidemill_core::store::{Fetched, StoreError};

use super::Following;
use super::kept::Kept;
use crate::client::{ApiError, Client};
use crate::error::CliError;
use crate::printer::{Printer, not_printed};

/// Where outcomes end.
pub(super) struct Sink {
    /// Outcomes in a file are printed too where somebody says how.
    printer: Option<Printer>,
    kept: Kept,
    /// Lines before they are printed: kept, since memory that nobody had before costs as much as to write in it.
    lines: Vec<u8>,
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

/// What came is no outcomes: it would be none the next time either.
fn broken(client: &Client, error: &StoreError) -> CliError {
    CliError::fault(format!("the results API at {}: {}", client.url(), error.reason))
}

impl Sink {
    pub(super) fn new(following: &Following, kept: Kept) -> Self {
        let is_printed = kept.file().is_none() || following.format.is_some();
        Self { printer: is_printed.then(|| Printer::new(following.format)), kept, lines: Vec::new() }
    }

    /// Takes a page, all of it or, where something cannot be fetched now, nothing.
    pub(super) async fn take(&mut self, client: &Client, page: Fetched) -> Result<(), Stop> {
        let as_they_come = |printer: &&mut Printer| printer.takes_lines() && self.kept.is_nothing();
        if let Some(printer) = self.printer.as_mut().filter(as_they_come) {
            self.lines.clear();
            page.write_lines(&mut self.lines).map_err(|error| broken(client, &error))?;
            printer.lines(&self.lines)?;
            return Ok(printer.flush()?);
        }
        let outcomes = page.into_outcomes().map_err(|error| broken(client, &error))?;
        let mut outcomes: Vec<Outcome> = outcomes.into_iter().map(Arc::unwrap_or_clone).collect();
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
