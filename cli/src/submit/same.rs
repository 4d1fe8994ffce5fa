//! Same: whether a batch that is gone on with is given what it was begun with.

use serde_json::value::RawValue;
use tidemill_core::batch::{Batch, ItemIndex};
use tidemill_producer::inputs::{Inputs, NotTheSame, Source};

use super::Submission;
use crate::client::Trouble;
use crate::error::CliError;
use crate::identity;
use crate::prepared::not_produced;

/// A batch is resumed with what it was begun with.
pub(super) fn check_same(known: &Batch, given: &Batch) -> Result<(), CliError> {
    let Some(problem) = identity::difference(known, given) else { return Ok(()) };
    Err(CliError::usage(format!("batch {} was begun in another way: {problem}", known.id))
        .hint("give the same task, options and inputs, or submit a new batch"))
}

impl Submission<'_> {
    /// What the input of an item was, where it has an outcome that says so by now.
    async fn input_of(&self, index: u64) -> Result<Option<Box<RawValue>>, CliError> {
        match self.client.outcome(&self.batch.id, ItemIndex(index)).await {
            Ok(outcome) => Ok(Some(outcome.input)),
            // It has none, or none any more.
            Err(error) if matches!(error.trouble, Trouble::Unknown | Trouble::Refused) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes over the inputs that were accepted before: they are taken for the same where the last of them is.
    pub(super) async fn pass_over(&self, inputs: &mut Inputs, count: u64) -> Result<(), CliError> {
        let Some(last) = count.checked_sub(1) else { return Ok(()) };
        let last = self.input_of(last).await?;
        inputs.pass_over(count, last.as_deref()).await.map_err(|problem| self.has_other_inputs(problem))
    }

    /// Checks that the inputs are those of the batch, which has so many.
    pub(super) async fn must_be_whole(&self, sources: Vec<Source>, total: u64) -> Result<(), CliError> {
        let last = match total.checked_sub(1) {
            Some(last) => self.input_of(last).await?,
            None => None,
        };
        let checked = Inputs::walk(sources).must_be(total, last.as_deref()).await;
        checked.map_err(|problem| self.has_other_inputs(problem))
    }

    /// Checks that the end of the batch is this one: that nobody has sealed it at another, and that what has come of it before
    /// lies within: else that is not its end, whatever the broker was told.
    pub(super) async fn must_hold(&self, total: u64) -> Result<(), CliError> {
        // An API that does not answer will be asked by whoever reads.
        let Ok(Some(known)) = self.client.find_batch(&self.batch.id).await else { return Ok(()) };
        let recorded = known.progress.recorded();
        let problem = match known.progress.total {
            // It was closed where it stood.
            _ if known.progress.cancelled => return Ok(()),
            Some(sealed) if sealed != total => format!("there are {total} now, and it has {sealed}"),
            None if recorded > total => format!("there are {total} now, and {recorded} of them have outcomes"),
            _ => return Ok(()),
        };
        Err(CliError::usage(format!("batch {} was begun with other inputs: {problem}", self.batch.id))
            .hint("give the same inputs in the same order; or `tidemill cancel` it and submit these as a new batch"))
    }

    fn has_other_inputs(&self, problem: NotTheSame) -> CliError {
        match problem {
            NotTheSame::Broken(error) => not_produced(error.into()),
            problem if self.known.as_ref().is_some_and(|known| known.progress.cancelled) => CliError::usage(format!(
                "batch {} was cancelled before all its inputs were sent: {problem}",
                self.batch.id
            ))
            .hint("submit them as a new batch, with another key or none"),
            problem => CliError::usage(format!("batch {} was begun with other inputs: {problem}", self.batch.id))
                .hint("give the same inputs in the same order; other ones are another batch, with another key or none"),
        }
    }
}
