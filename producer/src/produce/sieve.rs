//! Sieve: parts the inputs that go out as items from those that the task does not take.

use std::sync::Arc;

use serde_json::value::RawValue;
use tidemill_core::batch::{Attempt, ItemIndex};
use tidemill_core::chunk::Item;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::task::Job;

use crate::cut::{Cut, Cutter};
use crate::inputs::Input;

/// Parts the inputs that go out as items from those that the task does not take.
pub(super) struct Sieve<'a> {
    job: &'a dyn Job,
    max_input_bytes: usize,
    /// The index of the next input.
    next: u64,
    pub(super) cutter: Cutter,
    /// Outcomes that are not published yet.
    pub(super) refused: Vec<Arc<Outcome>>,
    /// Who made them.
    nobody: Arc<Maker>,
}

impl<'a> Sieve<'a> {
    /// For inputs from that index on.
    pub(super) fn new(job: &'a dyn Job, max_input_bytes: usize, cut: Cut, from: u64) -> Self {
        let (cutter, nobody) = (Cutter::new(cut), Arc::default());
        Self { job, max_input_bytes, next: from, cutter, refused: Vec::new(), nobody }
    }

    /// The index behind the last input.
    pub(super) fn end(&self) -> u64 {
        self.next
    }

    /// Gives the next input its place; gives a chunk's items when they are complete.
    pub(super) fn push(&mut self, mut input: Input) -> Option<Vec<Item>> {
        let index = ItemIndex(self.next);
        self.next += 1;
        let Some(failure) = refusal(self.job, &mut input, self.max_input_bytes) else {
            return self.cutter.push(Item { index, input: input.json, name: input.name, source: input.source });
        };
        let outcome = Outcome::unrun(index, input.json, Ending::Failed(failure), Attempt(0), &self.nobody);
        self.refused.push(Arc::new(outcome));
        None
    }
}

/// The item that an input becomes where it is a batch's only one; `None` where the task does not take it.
pub fn only_item(job: &dyn Job, mut input: Input, max_bytes: usize) -> Option<Item> {
    let is_taken = refusal(job, &mut input, max_bytes).is_none();
    is_taken.then_some(Item { index: ItemIndex(0), input: input.json, name: input.name, source: input.source })
}

/// Why an input is none: it could not be read, or the task does not take it.
fn refusal(job: &dyn Job, input: &mut Input, max_bytes: usize) -> Option<Failure> {
    let is_too_large = input.json.get().len() > max_bytes;
    let too_large = is_too_large.then(|| {
        let bytes = input.json.get().len();
        // Its outcome repeats the input, and travels too.
        input.json = RawValue::NULL.to_owned();
        let hint = "put it into a file or behind a URL";
        Failure::permanent(
            "too_large",
            format!("an input of {bytes} bytes is larger than the {max_bytes} that travel in a message; {hint}"),
        )
    });
    input.refused.take().or(too_large).or_else(|| job.check(&input.json).err().map(Failure::from))
}
