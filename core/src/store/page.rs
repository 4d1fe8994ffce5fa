//! Pages: outcomes that can be read now, as they are kept, as values, and as text.

mod sink;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use self::sink::{Place, Sink, Text, Values};
use super::{Order, StoreError};
use crate::batch::BatchId;
use crate::outcome::Outcome;
use crate::segment::{self, Head, Segment};

/// Outcomes that a page has at most, whatever is asked for.
pub(super) const MOST: u64 = 65_536;

/// No outcome in a segment is shorter: `[0,"ok",0,0,1,0,0]` and a comma.
const SHORTEST_BYTES: u64 = 19;

/// Outcomes that can be read now.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The outcomes, in the order that was asked for.
    pub outcomes: Vec<Arc<Outcome>>,
    /// Where to go on reading.
    pub next: u64,
    /// Whether nothing will ever come after this page.
    pub is_last: bool,
}

/// A page that has been fetched, and is neither text nor values yet: to make it so is computing and nothing else, done
/// when and where one likes.
#[derive(Debug)]
pub struct Fetched {
    pub(super) order: Order,
    /// Where its outcomes stand in that order.
    pub(super) places: Range<u64>,
    pub(super) is_last: bool,
    pub(super) content: Content,
}

/// What has been fetched.
#[derive(Debug)]
pub(super) enum Content {
    /// The outcomes, in order.
    Values(Vec<Arc<Outcome>>),
    /// Segments that hold them, and perhaps others.
    Entries(Vec<Entry>),
}

/// A recorded segment.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The place after its last outcome, in the order of completion.
    pub(super) end: u64,
    /// How many outcomes it has.
    pub(super) count: u64,
    /// The segment.
    pub(super) json: Bytes,
}

impl Fetched {
    /// A page that was read from place `from` on.
    pub fn of(order: Order, from: u64, page: Page) -> Self {
        let Page { outcomes, next, is_last } = page;
        Self { order, places: from..next, is_last, content: Content::Values(outcomes) }
    }

    /// How many outcomes are on it.
    pub fn len(&self) -> u64 {
        self.places.end - self.places.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether it begins there, in that order.
    pub fn is_from(&self, order: Order, place: u64) -> bool {
        (self.order, self.places.start) == (order, place)
    }

    /// Where to go on reading.
    pub fn next(&self) -> u64 {
        self.places.end
    }

    /// Whether nothing will ever come after this page.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Appends its lines, an outcome each; see [`Outcome::write_line`]. After an error it may have appended some.
    ///
    /// # Errors
    /// [`StoreErrorKind::Broken`](super::StoreErrorKind::Broken)
    pub fn write_lines(self, lines: &mut Vec<u8>) -> Result<(), StoreError> {
        let Content::Values(outcomes) = &self.content else { return self.pour(Text::behind(lines)).map(drop) };
        for outcome in outcomes {
            outcome.write_line(lines);
            lines.push(b'\n');
        }
        Ok(())
    }

    /// Its lines alone.
    ///
    /// # Errors
    /// As [`Fetched::write_lines`]
    pub fn into_lines(self) -> Result<Vec<u8>, StoreError> {
        let mut lines = Vec::new();
        self.write_lines(&mut lines)?;
        Ok(lines)
    }

    /// Its outcomes, in order.
    ///
    /// # Errors
    /// [`StoreErrorKind::Broken`](super::StoreErrorKind::Broken)
    pub fn into_outcomes(self) -> Result<Vec<Arc<Outcome>>, StoreError> {
        match self.content {
            Content::Values(outcomes) => Ok(outcomes),
            Content::Entries(_) => self.pour(Values::default()).map(Values::into_outcomes),
        }
    }

    /// The same page, of no more than so many bytes, as they count when memory is budgeted, but of one outcome at least.
    pub(super) fn cut(mut self, bytes: u64) -> Self {
        let Content::Values(outcomes) = &mut self.content else { return self };
        let mut sum = 0;
        let fits = |outcome: &&Arc<Outcome>| {
            sum += outcome.weight_bytes() + outcome.output_bytes();
            sum <= bytes
        };
        let fitting = outcomes.iter().take_while(fits).count().max(1);
        if fitting < outcomes.len() {
            outcomes.truncate(fitting);
            self.places.end = self.places.start + fitting as u64;
            self.is_last = false;
        }
        self
    }

    /// The segments that hold its outcomes.
    pub(super) fn into_entries(self, batch: &BatchId) -> Vec<Entry> {
        let outcomes = match self.content {
            Content::Entries(entries) => return entries,
            Content::Values(outcomes) => outcomes,
        };
        let mut end = self.places.start;
        // A segment is by one maker and in the order of its indices, as this need not be.
        let runs = outcomes.chunk_by(|one, next| one.maker == next.maker && one.index < next.index);
        let segments = runs.flat_map(|run| Segment::encode(batch, run));
        let entry = |segment: Segment| {
            end += segment.len();
            Entry { end, count: segment.len(), json: segment.bytes().clone() }
        };
        segments.map(entry).collect()
    }

    /// Gives the sink the page's outcomes.
    fn pour<S: Sink>(self, mut sink: S) -> Result<S, StoreError> {
        let wanted = self.len();
        let Self { order, places, content: Content::Entries(entries), .. } = self else { return Ok(sink) };
        let bytes: u64 = entries.iter().map(|entry| entry.json.len() as u64).sum();
        let count = entries.iter().fold(0_u64, |count, entry| count.saturating_add(entry.count));
        // Never more than can be there, whatever count is told.
        let count = count.min(bytes / SHORTEST_BYTES).max(1);
        sink.reserve(wanted.min(count) as usize, (bytes / count) as usize);
        for entry in entries {
            let mut landed = entry.end.saturating_sub(entry.count);
            visit(&entry.json, |head, outcome| {
                let place = match order {
                    Order::Input => outcome.index,
                    Order::Completion => landed,
                };
                if places.contains(&place) {
                    sink.put(head, outcome, Place { place, id: entry.end });
                }
                landed += 1;
            })?;
        }
        let found = sink.arrange(places);
        if found < wanted {
            return Err(StoreError::broken(&format_args!("{found} outcomes are where {wanted} were recorded")));
        }
        Ok(sink)
    }
}

/// Walks over a recorded segment's outcomes.
pub(super) fn visit(json: &[u8], mut each: impl FnMut(&Head, &segment::Entry<'_>)) -> Result<(), StoreError> {
    let walked = segment::visit(json, |head, entry| {
        each(head, &entry);
        Ok(())
    });
    walked.map(drop).map_err(|error| StoreError::broken(&error))
}
