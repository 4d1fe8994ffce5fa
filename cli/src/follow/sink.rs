//! The sink: lines as they came, or parsed, with their files, in the form that was asked for.

use std::io;
use std::path::PathBuf;

use tidemill_core::outcome::Outcome;

use super::Following;
use super::download::Download;
use crate::client::{ApiError, Client};
use crate::error::{CliError, Exit};
use crate::line;
use crate::printer::Printer;

/// Where outcomes end.
pub(super) struct Sink {
    printer: Printer,
    download: Option<Download>,
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

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Deaf } else { Self::Cli(not_printed(&error)) }
    }
}

fn not_printed(error: &io::Error) -> CliError {
    CliError::new(Exit::Fault, format!("cannot print outcomes: {error}"))
        .hint("is the disk full that they are written to?")
}

impl Sink {
    pub(super) fn open(following: &Following<'_>) -> Result<Self, CliError> {
        let download = following.download.map(Download::open).transpose()?;
        Ok(Self { printer: Printer::new(following.format).map_err(|error| not_printed(&error))?, download })
    }

    /// Where files lie until they are placed.
    pub(super) fn staging(&self) -> Option<PathBuf> {
        self.download.as_ref().map(Download::staging)
    }

    /// Whether lines must tell the names of their items.
    pub(super) fn needs_names(&self) -> bool {
        self.download.is_some()
    }

    /// Takes whole lines, all or, where something cannot be fetched now, none.
    pub(super) async fn take(&mut self, client: &Client, lines: &[u8]) -> Result<(), Stop> {
        if self.download.is_none() && self.printer.takes_lines() {
            self.printer.lines(lines)?;
            return Ok(self.printer.flush()?);
        }
        let parsed: Result<Vec<Outcome>, String> =
            lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(line::parse).collect();
        let mut outcomes = parsed.map_err(|message| {
            let message = format!("{}: {message}", client.url());
            Stop::Cli(CliError::new(Exit::Fault, message).hint("is it a results API of this version?"))
        })?;
        if let Some(download) = &mut self.download {
            download.fetch(client, &mut outcomes).await?;
        }
        for outcome in &outcomes {
            self.printer.print(outcome)?;
        }
        Ok(self.printer.flush()?)
    }

    /// Ends what is printed.
    pub(super) fn end(&mut self) -> Result<(), CliError> {
        match self.printer.end() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(not_printed(&error)),
            _ => Ok(()),
        }
    }
}
