//! Tally: what was read of a run, and what is said of it at its end.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tidemill_core::outcome::Status;
use tidemill_core::store::Progress;
use tidemill_producer::Produced;
use tokio_util::sync::CancellationToken;

use crate::args::Shared;
use crate::error::{CliError, Exit};
use crate::follow::counts;
use crate::printer::not_printed;

/// What was read.
pub(super) struct Tally {
    pub(super) progress: Progress,
    /// Whoever read our output has closed it (`| head`): the rest is not printed, and not run.
    pub(super) is_deaf: bool,
}

impl Tally {
    /// Goes on from what was read before.
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, is_deaf: false }
    }

    /// Takes note of how printing ended: where nobody reads any more, the batch is cancelled.
    pub(super) fn hear(&mut self, printed: io::Result<()>, cancel: &CancellationToken) -> Result<(), CliError> {
        match printed {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_deaf = true;
                cancel.cancel();
                Ok(())
            }
            Err(error) => Err(not_printed(&error)),
        }
    }

    /// Says how it ended, where there is something to say or somebody who watches, and with which code.
    pub(super) fn end(
        &self,
        took: Duration,
        produced: Produced,
        is_cancelled: bool,
        unfinished: Option<String>,
        shared: &Shared,
    ) -> Result<Exit, CliError> {
        if self.is_deaf {
            // Who has had enough of the output may still want the file.
            let Some(unfinished) = unfinished else { return Ok(Exit::Ok) };
            shared.say(&unfinished);
            return Ok(Exit::Interrupted);
        }
        let progress = &self.progress;
        let is_all_ok = progress.recorded() == progress.count(Status::Ok);
        if !is_all_ok || is_cancelled || io::stderr().is_terminal() {
            let counts = if progress.recorded() == 0 { "nothing to do".to_owned() } else { counts(progress) };
            let interrupted = if is_cancelled { "interrupted: " } else { "" };
            let rest = if produced.is_whole { "" } else { "; the inputs after these were not read" };
            shared.say(&format!("{interrupted}{counts} in {:.1} s{rest}", took.as_secs_f64()));
        }
        if let Some(unfinished) = unfinished {
            shared.say(&unfinished);
        }
        Ok(match (is_cancelled, is_all_ok) {
            (true, _) => Exit::Interrupted,
            (false, true) => Exit::Ok,
            (false, false) => Exit::NotAllOk,
        })
    }
}
