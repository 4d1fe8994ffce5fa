//! Kept: what a follower leaves behind besides what it prints: a folder of files and a file of outcomes.

use std::path::{Path, PathBuf};

use tidemill_core::batch::{Batch, BatchId};
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::store::Progress;
use tidemill_producer::inputs::Source;

use super::download::Download;
use super::sink::Stop;
use crate::args::OrderArg;
use crate::client::{Client, Trouble};
use crate::error::CliError;
use crate::ledger::{Form, Label, Ledger, Opened};

/// A file of a cluster's outcomes is written in the order of their inputs.
///
/// # Errors
/// Where another order was asked for.
pub(crate) fn must_be_in_input_order(order: OrderArg) -> Result<(), CliError> {
    match order {
        OrderArg::Input => Ok(()),
        OrderArg::Completion => Err(CliError::usage("--out: a file is written in the order of the inputs")
            .hint("leave out --order completion, or print the outcomes: > FILE")),
    }
}

/// What is kept, opened.
#[derive(Default)]
pub(crate) struct Kept {
    download: Option<Download>,
    ledger: Option<Ledger>,
    /// How the items ended whose outcomes the ledger had before, and the last of them.
    before: Progress,
    last: Option<Outcome>,
    /// Items that were `ok`, and are failures here.
    harmed: u64,
}

impl Kept {
    /// Makes the folder and the file ready; with `resume` goes on with the file that is there. `None` where that is
    /// complete. The inputs are told by whoever has them.
    ///
    /// # Errors
    /// Where one of them cannot be used, an input lies within the folder, or the file is there and is not to be gone on with.
    pub(crate) fn open(
        folder: Option<&Path>,
        inputs: Option<&[Source]>,
        file: Option<(PathBuf, Form)>,
        resume: bool,
    ) -> Result<Option<Self>, CliError> {
        let mut download = folder.map(|folder| Download::into_folder(folder, inputs)).transpose()?;
        let Some((path, form)) = file else { return Ok(Some(Self { download, ..Self::default() })) };
        let has_masks = form.has_masks();
        let opened = Ledger::open(&path, form, None, resume, |record| match (&mut download, record.output) {
            (Some(download), Some(output)) => download.remember(output),
            _ => Ok(()),
        })?;
        let Opened::Ledger(ledger, begun) = opened else { return Ok(None) };
        if has_masks && download.is_none() {
            download = Some(Download::of_masks(ledger.spool()?)?);
        }
        Ok(Some(Self { download, ledger: Some(*ledger), before: begun.progress, last: begun.last, harmed: 0 }))
    }

    /// Makes sure that what the file has is the beginning of this batch.
    ///
    /// # Errors
    /// Where it is not, or nobody can tell now.
    pub(crate) async fn must_be_of(&self, client: &Client, batch: &BatchId) -> Result<(), CliError> {
        let (Some(ledger), Some(last)) = (&self.ledger, &self.last) else { return Ok(()) };
        let is_same = match client.outcome(batch, last.index).await {
            Ok(outcome) => is_same(last, &outcome),
            Err(error) if error.trouble == Trouble::Unknown => false,
            Err(error) => return Err(error.into()),
        };
        if is_same {
            return Ok(());
        }
        let (path, index) = (ledger.path().display(), last.index);
        Err(CliError::usage(format!("--resume: {path} is of another batch: item {index} of {batch} ended otherwise"))
            .hint("name the file of this batch; or remove it, and all is read again"))
    }

    /// The place of the next outcome.
    pub(super) fn place(&self) -> u64 {
        self.before.recorded()
    }

    /// How many items failed only here, where their files were not to be had or not to be placed. Of what an earlier
    /// command wrote only the counts are known: what has not ended well in it, and more of it than in the whole batch.
    pub(super) fn harmed(&self, batch: &Progress) -> u64 {
        let not_ok = |progress: &Progress| progress.recorded() - progress.count(Status::Ok);
        self.harmed + not_ok(&self.before).saturating_sub(not_ok(batch))
    }

    /// The file of outcomes.
    pub(super) fn file(&self) -> Option<&Path> {
        self.ledger.as_ref().map(Ledger::path)
    }

    /// Whether nothing is kept.
    pub(super) fn is_nothing(&self) -> bool {
        self.download.is_none() && self.ledger.is_none()
    }

    /// Where files lie until they are placed or no longer needed.
    pub(super) fn staging(&self) -> Option<PathBuf> {
        self.download.as_ref().map(Download::staging)
    }

    /// Fetches the files of these outcomes and writes the outcomes down: all of them or, where something cannot be
    /// fetched now, none.
    pub(super) async fn keep(&mut self, client: &Client, outcomes: &mut [Outcome]) -> Result<(), Stop> {
        if let Some(download) = &mut self.download {
            let before = count_ok(outcomes);
            download.fetch(client, outcomes).await?;
            self.harmed += before - count_ok(outcomes);
        }
        if let Some(ledger) = &mut self.ledger {
            let staged = self.download.as_ref().map(Download::staged);
            for outcome in &*outcomes {
                ledger.add(outcome, staged)?;
            }
            ledger.flush()?;
        }
        if let Some(download) = &mut self.download {
            download.forget(outcomes);
        }
        Ok(())
    }

    /// Makes of the journal what was asked for, now that it is whole: the outcomes of this batch.
    pub(super) async fn finish(self, batch: &Batch) -> Result<(), CliError> {
        let Self { download, ledger, .. } = self;
        drop(download);
        let Some(mut ledger) = ledger else { return Ok(()) };
        ledger.is_of(Label::of(batch));
        ledger.finish().await
    }

    /// Removes the file again, if nothing was written to it.
    pub(crate) fn discard_if_empty(self) {
        self.ledger.map(Ledger::discard_if_empty).unwrap_or_default();
    }
}

fn count_ok(outcomes: &[Outcome]) -> u64 {
    outcomes.iter().filter(|outcome| outcome.status() == Status::Ok).count() as u64
}

/// The file may say of a produced file where it lies, or that it was gone; who made an outcome when cannot change.
fn is_same(one: &Outcome, other: &Outcome) -> bool {
    one.input.get() == other.input.get()
        && one.attempts == other.attempts
        && one.maker == other.maker
        && (one.queued, one.run) == (other.queued, other.run)
}
