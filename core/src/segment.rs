//! Segments: outcomes of one batch by one maker, in the form in which they travel and are kept.
//!
//! A segment is JSON, written once by the worker and then passed on as it is: the collector, the store and the results
//! API look into it without making values of it. `docs/wire.md` has its form.

mod visit;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::visit::{Entry, Head, visit};
use crate::batch::BatchId;
use crate::outcome::{Ending, Maker, Outcome, Status};
use crate::wire::Malformed;

/// Encoded outcomes of one batch, checked. Cheap to clone.
#[derive(Clone)]
pub struct Segment {
    batch: BatchId,
    maker: Arc<Maker>,
    bytes: Bytes,
    indices: Arc<[Range<u64>]>,
    counts: [u64; Status::ALL.len()],
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, indices, counts, .. } = self;
        f.debug_struct("Segment")
            .field("batch", batch)
            .field("indices", indices)
            .field("counts", counts)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Writes outcomes: one segment for each run of outcomes by the same maker, or several where one would be too large
    /// for a message. They need not be in order.
    pub fn encode(batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Vec<Self> {
        let mut outcomes: Vec<&Outcome> = outcomes.iter().map(AsRef::as_ref).collect();
        // Stable and, in the usual case, done already. Of two outcomes of one item the first counts.
        outcomes.sort_by(|one, next| one.maker.cmp(&next.maker).then(one.index.cmp(&next.index)));
        outcomes.dedup_by(|next, one| one.index == next.index && one.maker == next.maker);
        let by_maker = outcomes.chunk_by(|one, next| one.maker == next.maker);
        by_maker.flat_map(|run| parts(run).map(|part| Self::write(batch, part))).collect()
    }

    fn write(batch: &BatchId, outcomes: &[&Outcome]) -> Self {
        let mut text = Vec::with_capacity(128 + outcomes.len() * 48);
        let maker = outcomes.first().map(|first| Arc::clone(&first.maker)).unwrap_or_default();
        let mut books = Books::default();
        text.extend_from_slice(b"{\"v\":1,\"batch\":");
        json(batch, &mut text);
        text.extend_from_slice(b",\"worker\":");
        json(&maker.worker, &mut text);
        text.extend_from_slice(b",\"device\":");
        json(&maker.device, &mut text);
        text.extend_from_slice(b",\"outcomes\":[");
        for outcome in outcomes {
            books.enter(outcome.index.0, outcome.status());
            write_outcome(outcome, &mut text);
            text.push(b',');
        }
        if !outcomes.is_empty() {
            text.pop();
        }
        text.extend_from_slice(b"]}");
        Self { batch: batch.clone(), maker, bytes: text.into(), indices: books.ranges.into(), counts: books.counts }
    }

    /// Reads a segment and checks it whole.
    ///
    /// # Errors
    /// [`Malformed`], saying what is wrong with it.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut books = Books::default();
        let head = visit(&bytes, |_, outcome| {
            outcome.check()?;
            books.check(outcome.index, outcome.status)
        })?;
        if books.ranges.is_empty() {
            return Err(Malformed::new("a segment holds one outcome or more"));
        }
        let Head { batch, maker } = head;
        if maker.worker.len().max(maker.device.len()) > MAX_NAME_BYTES {
            // It stands in every line that is made of it.
            return Err(Malformed::new(format!("worker and device have at most {MAX_NAME_BYTES} bytes each")));
        }
        Ok(Self { batch, maker: Arc::new(maker), bytes, indices: books.ranges.into(), counts: books.counts })
    }

    /// The batch of all its outcomes.
    pub fn batch(&self) -> &BatchId {
        &self.batch
    }

    /// Who made all its outcomes.
    pub fn maker(&self) -> &Arc<Maker> {
        &self.maker
    }

    /// Its JSON.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Which items it has outcomes of: ascending, disjoint, not touching.
    pub fn indices(&self) -> &[Range<u64>] {
        &self.indices
    }

    /// Its outcomes by status, in the order of [`Status::ALL`].
    pub fn counts(&self) -> [u64; Status::ALL.len()] {
        self.counts
    }

    /// How many outcomes it has.
    pub fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether it has none; never so for one that was parsed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its outcomes as values.
    pub fn outcomes(&self) -> Vec<Arc<Outcome>> {
        let mut outcomes = Vec::with_capacity(usize::try_from(self.len()).unwrap_or(0));
        // It was checked when it was made.
        drop(visit(&self.bytes, |_, outcome| {
            outcomes.push(Arc::new(outcome.to_outcome(&self.maker)));
            Ok(())
        }));
        outcomes
    }

    /// The segment of those outcomes whose index passes; `None` if there are none.
    pub fn filtered(&self, keep: impl Fn(u64) -> bool) -> Option<Self> {
        let outcomes = self.outcomes();
        let kept: Vec<&Outcome> = outcomes.iter().map(AsRef::as_ref).filter(|o: &&Outcome| keep(o.index.0)).collect();
        (!kept.is_empty()).then(|| Self::write(&self.batch, &kept))
    }
}

/// A segment grows to so many bytes, as far as can be told before it is written.
const FULL_BYTES: u64 = 4 << 20;

/// Cuts outcomes where a segment is full; one outcome may be larger.
fn parts<'o>(mut outcomes: &'o [&'o Outcome]) -> impl Iterator<Item = &'o [&'o Outcome]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |outcome: &&&Outcome| {
            bytes += outcome.weight_bytes() + outcome.output_bytes();
            bytes <= FULL_BYTES
        };
        let count = outcomes.iter().take_while(fits).count().max(1).min(outcomes.len());
        let part;
        (part, outcomes) = outcomes.split_at(count);
        (!part.is_empty()).then_some(part)
    })
}

/// What a walk over outcomes finds.
#[derive(Default)]
struct Books {
    ranges: Vec<Range<u64>>,
    counts: [u64; Status::ALL.len()],
}

impl Books {
    fn enter(&mut self, index: u64, status: Status) {
        self.counts[status as usize] += 1;
        match self.ranges.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => self.ranges.push(index..index + 1),
        }
    }

    fn check(&mut self, index: u64, status: Status) -> Result<(), Malformed> {
        if index > MAX_INDEX {
            return Err(Malformed::new(format!("index {index} is above the largest, {MAX_INDEX}")));
        }
        if self.ranges.last().is_some_and(|last| index < last.end) {
            return Err(Malformed::new(format!("the indices of a segment ascend, {index} does not")));
        }
        self.enter(index, status);
        Ok(())
    }
}

/// The largest index: whole numbers are exact up to here in JSON and in Redis's scripts.
pub const MAX_INDEX: u64 = (1 << 53) - 2;

/// The longest name of a worker or a device.
const MAX_NAME_BYTES: usize = 200;

fn write_outcome(outcome: &Outcome, text: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    text.push(b'[');
    text.extend_from_slice(number.format(outcome.index.0).as_bytes());
    text.extend_from_slice(b",\"");
    text.extend_from_slice(outcome.status().as_str().as_bytes());
    text.extend_from_slice(b"\",");
    text.extend_from_slice(outcome.input.get().as_bytes());
    text.push(b',');
    match &outcome.ending {
        Ending::Ok(output) => text.extend_from_slice(output.get().as_bytes()),
        Ending::Failed(failure) | Ending::Dead(failure) => json(failure, text),
        Ending::Cancelled | Ending::Expired => text.extend_from_slice(b"null"),
    }
    for count in [u64::from(outcome.attempts.0), micros(outcome.queued), micros(outcome.run)] {
        text.push(b',');
        text.extend_from_slice(number.format(count).as_bytes());
    }
    let further = [&outcome.name, &outcome.source];
    let some = further.iter().rposition(|text| text.is_some()).map_or(0, |last| last + 1);
    for part in &further[..some] {
        text.push(b',');
        json(part, text);
    }
    text.push(b']');
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn json(value: &(impl serde::Serialize + ?Sized), text: &mut Vec<u8>) {
    // Strings and plain structs, to memory: it cannot fail.
    serde_json::to_writer(text, value).unwrap_or_default();
}
