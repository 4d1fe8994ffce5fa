//! What outcomes that are read become: values, or lines of text.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::outcome::{Line, Maker, Outcome, Status};
use crate::segment::{Entry, Head};

/// Where outcomes are put as they are found, which need not be in order.
pub(super) trait Sink: Send {
    fn put(&mut self, head: &Head, entry: &Entry<'_>, id: u64);
    /// Leaves the outcomes of the items from `from` on, up to `upto` or the first gap, in order of their index; of two
    /// of the same item the later. Gives how many.
    fn arrange(&mut self, from: u64, upto: u64) -> u64;
}

/// An outcome's item, the entry that it is from, and what a sink keeps of it.
type Found<T> = (u64, u64, T);

/// Sorts what was found and cuts it; whether it had to be sorted.
fn arrange<T>(found: &mut Vec<Found<T>>, from: u64, upto: u64) -> bool {
    let was_sorted = found.is_sorted_by(|one, next| one.0 < next.0);
    if !was_sorted {
        // The later first, which is the one that `dedup` leaves.
        found.sort_unstable_by_key(|(index, id, _)| (*index, std::cmp::Reverse(*id)));
        found.dedup_by_key(|(index, ..)| *index);
    }
    let run = found.iter().zip(from..upto).take_while(|((index, ..), expected)| index == expected).count();
    found.truncate(run);
    !was_sorted
}

/// Outcomes as values.
#[derive(Default)]
pub(super) struct Values {
    maker: Arc<Maker>,
    found: Vec<Found<Arc<Outcome>>>,
}

impl Values {
    pub(super) fn into_outcomes(self) -> Vec<Arc<Outcome>> {
        self.found.into_iter().map(|(.., outcome)| outcome).collect()
    }
}

impl Sink for Values {
    fn put(&mut self, head: &Head, entry: &Entry<'_>, id: u64) {
        if *self.maker != head.maker {
            self.maker = Arc::new(head.maker.clone());
        }
        self.found.push((entry.index, id, Arc::new(entry.to_outcome(&self.maker))));
    }

    fn arrange(&mut self, from: u64, upto: u64) -> u64 {
        arrange(&mut self.found, from, upto);
        self.found.len() as u64
    }
}

/// Outcomes as lines, behind what the text had in it.
pub(super) struct Text<'a> {
    text: &'a mut Vec<u8>,
    start: usize,
    found: Vec<Found<Range<usize>>>,
}

impl<'a> Text<'a> {
    pub(super) fn behind(text: &'a mut Vec<u8>) -> Self {
        Self { start: text.len(), text, found: Vec::new() }
    }
}

impl Sink for Text<'_> {
    fn put(&mut self, head: &Head, entry: &Entry<'_>, id: u64) {
        let start = self.text.len();
        let line = Line {
            index: entry.index,
            input: entry.input,
            status: entry.status,
            value: matches!(entry.status, Status::Ok | Status::Failed | Status::Dead).then_some(entry.value),
            attempts: entry.attempts,
            maker: &head.maker,
            queued: Duration::from_micros(entry.queued),
            run: Duration::from_micros(entry.run),
        };
        line.write(self.text);
        self.text.push(b'\n');
        self.found.push((entry.index, id, start..self.text.len()));
    }

    fn arrange(&mut self, from: u64, upto: u64) -> u64 {
        if arrange(&mut self.found, from, upto) {
            let lines = self.text.split_off(self.start);
            for (.., range) in &self.found {
                self.text.extend_from_slice(&lines[range.start - self.start..range.end - self.start]);
            }
        } else {
            self.text.truncate(self.found.last().map_or(self.start, |(.., range)| range.end));
        }
        self.found.len() as u64
    }
}
