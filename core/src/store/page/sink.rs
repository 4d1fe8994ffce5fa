//! What outcomes that are read become: values, or lines of text.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::outcome::{Line, Maker, Outcome, Status};
use crate::segment::{Entry, Head};

/// Where outcomes are put as they are found, which need not be in order.
pub(super) trait Sink: Send {
    /// Makes room for so many, of so many bytes each where they lie.
    fn reserve(&mut self, count: usize, bytes: usize);
    fn put(&mut self, head: &Head, entry: &Entry<'_>, at: Place);
    /// Leaves the outcomes of these places, up to the first gap, in their order; of two of the same place the later.
    /// Gives how many.
    fn arrange(&mut self, places: Range<u64>) -> u64;
}

/// Where an outcome is: its place in the order that was asked for, and the entry that it is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) place: u64,
    pub(super) id: u64,
}

/// Sorts what was found and cuts it; whether it had to be sorted.
fn arrange<T>(found: &mut Vec<(Place, T)>, places: Range<u64>) -> bool {
    let was_sorted = found.is_sorted_by(|one, next| one.0.place < next.0.place);
    if !was_sorted {
        // The later first, which is the one that `dedup` leaves.
        found.sort_unstable_by_key(|(at, _)| (at.place, std::cmp::Reverse(at.id)));
        found.dedup_by_key(|(at, _)| at.place);
    }
    let run = found.iter().zip(places).take_while(|((at, _), expected)| at.place == *expected).count();
    found.truncate(run);
    !was_sorted
}

/// Outcomes as values.
#[derive(Default)]
pub(super) struct Values {
    maker: Arc<Maker>,
    found: Vec<(Place, Arc<Outcome>)>,
}

impl Values {
    pub(super) fn into_outcomes(self) -> Vec<Arc<Outcome>> {
        self.found.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

impl Sink for Values {
    fn reserve(&mut self, count: usize, _bytes: usize) {
        self.found.reserve(count);
    }

    fn put(&mut self, head: &Head, entry: &Entry<'_>, at: Place) {
        if *self.maker != head.maker {
            self.maker = Arc::new(head.maker.clone());
        }
        self.found.push((at, Arc::new(entry.to_outcome(&self.maker))));
    }

    fn arrange(&mut self, places: Range<u64>) -> u64 {
        arrange(&mut self.found, places);
        self.found.len() as u64
    }
}

/// What a line has more than the outcome in a segment: the names of its fields, and who made it.
const LINE_BYTES: usize = 128;

/// Outcomes as lines, behind what stands in the text.
pub(super) struct Text<'a> {
    start: usize,
    lines: &'a mut Vec<u8>,
    found: Vec<(Place, Range<usize>)>,
    /// Who made the last one, and what the lines say of that: all of a segment have one maker.
    maker: Maker,
    made: Vec<u8>,
}

impl<'a> Text<'a> {
    pub(super) fn behind(lines: &'a mut Vec<u8>) -> Self {
        let (maker, mut made) = (Maker::default(), Vec::new());
        maker.write(&mut made);
        Self { start: lines.len(), lines, found: Vec::new(), maker, made }
    }
}

impl Sink for Text<'_> {
    fn reserve(&mut self, count: usize, bytes: usize) {
        self.found.reserve(count);
        self.lines.reserve(count * (bytes + LINE_BYTES));
    }

    fn put(&mut self, head: &Head, entry: &Entry<'_>, at: Place) {
        let start = self.lines.len();
        if self.maker != head.maker {
            self.maker.clone_from(&head.maker);
            self.made.clear();
            self.maker.write(&mut self.made);
        }
        let line = Line {
            index: entry.index,
            input: entry.input,
            status: entry.status,
            value: matches!(entry.status, Status::Ok | Status::Failed | Status::Dead).then_some(entry.value),
            attempts: entry.attempts,
            queued: Duration::from_micros(entry.queued),
            run: Duration::from_micros(entry.run),
        };
        line.write(self.lines, |text| text.extend_from_slice(&self.made));
        self.lines.push(b'\n');
        self.found.push((at, start..self.lines.len()));
    }

    fn arrange(&mut self, places: Range<u64>) -> u64 {
        if arrange(&mut self.found, places) {
            let lines = self.lines.split_off(self.start);
            for (_, Range { start, end }) in &self.found {
                self.lines.extend_from_slice(&lines[start - self.start..end - self.start]);
            }
        } else {
            self.lines.truncate(self.found.last().map_or(self.start, |(_, range)| range.end));
        }
        self.found.len() as u64
    }
}
