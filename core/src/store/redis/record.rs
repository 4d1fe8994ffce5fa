//! Recording: one script for many segments of a batch, the batches side by side.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt as _;
use redis::{FromRedisValue, ParsingError, Value};

use super::plan::{Known, Span, bands, pack, spans};
use super::{Redis, meta, millis, script};
use crate::batch::{Batch, BatchId};
use crate::outcome::{Outcome, Status};
use crate::segment::{self, Segment};
use crate::store::StoreError;

const ACTION: &str = "record outcomes";

/// How much one script is given at most: nothing else runs in Redis meanwhile.
const SCRIPT_BYTES: usize = 4 << 20;
const SCRIPT_SEGMENTS: usize = 1024;

/// Batches at a time.
const ABREAST: usize = 16;

/// A segment on its way, which may have been cut on it.
struct Pending {
    /// Its place among those that the caller gave.
    place: usize,
    segment: Segment,
    /// Outcomes that were taken out of it for being known, and are not counted yet.
    dropped: u64,
}

/// What the script did with a segment.
enum Fate {
    Recorded,
    Known,
    /// Some of it is at or beyond this end of its batch.
    Beyond(u64),
    /// Some of it is recorded: the bitmap's bytes under each of its spans.
    InPart(Vec<Vec<u8>>),
}

impl FromRedisValue for Fate {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        match value {
            Value::Int(0) => Ok(Self::Recorded),
            Value::Int(1) => Ok(Self::Known),
            Value::Int(end @ ..0) => Ok(Self::Beyond(end.unsigned_abs() - 1)),
            other => Vec::<Vec<u8>>::from_redis_value(other).map(Self::InPart),
        }
    }
}

impl Redis {
    pub(super) async fn record_outcomes(&self, batch: &BatchId, outcomes: &[Arc<Outcome>]) -> Result<(), StoreError> {
        let segments = Segment::encode(batch, outcomes);
        let written: u64 = segments.iter().map(Segment::len).sum();
        let mut pending: Vec<_> =
            segments.into_iter().enumerate().map(|(place, segment)| Pending { place, segment, dropped: 0 }).collect();
        if let Some(first) = pending.first_mut() {
            // Two of one item in the same call.
            first.dropped = (outcomes.len() as u64).saturating_sub(written);
        }
        self.record_batch(batch, pending).await.into_iter().try_for_each(|(_, result)| result)
    }

    pub(super) async fn record_all(&self, segments: &[Segment]) -> Vec<Result<(), StoreError>> {
        let mut by_batch: HashMap<BatchId, Vec<Pending>> = HashMap::new();
        for (place, segment) in segments.iter().enumerate() {
            let pending = Pending { place, segment: segment.clone(), dropped: 0 };
            by_batch.entry(segment.batch().clone()).or_default().push(pending);
        }
        let mut results: Vec<Result<(), StoreError>> = segments.iter().map(|_| Ok(())).collect();
        let recording =
            by_batch.into_iter().map(|(batch, pending)| async move { self.record_batch(&batch, pending).await });
        let mut recording = futures::stream::iter(recording).buffer_unordered(ABREAST);
        while let Some(done) = recording.next().await {
            for (place, result) in done {
                results[place] = result;
            }
        }
        results
    }

    /// Makes a batch known with all that there is of it, unless something of it is known; whether it did.
    pub(super) async fn record_whole(&self, batch: &Batch, only: &Segment) -> Result<bool, StoreError> {
        if let Some(status) = alone(only) {
            // A third of the commands, and somebody waits.
            let call = self.call_on(&script::ALONE, &batch.id, [0]).arg(meta(ACTION, batch)?);
            let call = call.arg(millis(self.ttl)).arg(status.as_str()).arg(&only.bytes()[..]);
            if self.run_and_list(ACTION, &batch.id, &call).await? {
                return Ok(true);
            }
        }
        self.make_known(ACTION, batch).await?;
        let pending = [Pending { place: 0, segment: only.clone(), dropped: 0 }];
        let fates = self.write(&batch.id, &pending, Some(only.len())).await?;
        Ok(matches!(fates[..], [(Fate::Recorded, _)]))
    }

    async fn record_batch(&self, batch: &BatchId, mut pending: Vec<Pending>) -> Vec<(usize, Result<(), StoreError>)> {
        let mut results = Vec::with_capacity(pending.len());
        if pending.is_empty() {
            // Nothing to record, and still an error where the batch is unknown.
            results.push((0, self.record_some(batch, Vec::new()).await.map(drop)));
        }
        while !pending.is_empty() {
            let some: Vec<_> = pending.drain(..how_many(&pending)).collect();
            let places: Vec<_> = some.iter().map(|one| one.place).collect();
            match self.record_some(batch, some).await {
                // What was known in part, or goes too far, comes again at once and before the rest.
                Ok(again) => {
                    let left: Vec<_> = again.iter().map(|one| one.place).collect();
                    results
                        .extend(places.into_iter().filter(|place| !left.contains(place)).map(|place| (place, Ok(()))));
                    pending.splice(0..0, again);
                }
                Err(error) => results.extend(places.into_iter().map(|place| (place, Err(error.clone())))),
            }
        }
        results
    }

    /// Records them in one round trip; gives those of which some was not to be recorded, with the rest of them.
    async fn record_some(&self, batch: &BatchId, pending: Vec<Pending>) -> Result<Vec<Pending>, StoreError> {
        let fates = self.write(batch, &pending, None).await?;
        let in_part = pending.into_iter().zip(fates).filter_map(|(one, (fate, spans))| match fate {
            Fate::Recorded | Fate::Known => None,
            Fate::Beyond(end) => {
                tracing::debug!(%batch, end, "outcomes of items beyond the end of their batch are dropped");
                one.segment.filtered(|index| index < end).map(|segment| Pending { segment, ..one })
            }
            Fate::InPart(bytes) => cut(one, &Known::new(spans, bytes)),
        });
        Ok(in_part.collect())
    }

    /// Calls the script, which seals the batch too, where a total is given; gives for each what became of it, and its spans.
    async fn write(
        &self,
        batch: &BatchId,
        pending: &[Pending],
        seals: Option<u64>,
    ) -> Result<Vec<(Fate, Vec<Span>)>, StoreError> {
        let places: Vec<_> = pending.iter().map(|one| spans(&one.segment)).collect();
        let pages: BTreeSet<u64> = places.iter().flatten().map(|span| span.page).collect();
        let mut call = self.call_on(&script::RECORD, batch, pages).arg(millis(self.ttl));
        call.push(seals.map_or_else(String::new, |total| total.to_string()));
        call.push(pending.len());
        let mut has_dead = false;
        for (Pending { segment, dropped, .. }, spans) in pending.iter().zip(&places) {
            let dead = dead(segment);
            has_dead |= !dead.is_empty();
            call.push(&segment.bytes()[..]);
            call.push(pack(spans));
            call.push(segment.len());
            call.push(by_status(segment));
            call.push(dropped);
            call.push(bands(segment));
            call.push(joined(dead));
        }
        if has_dead {
            // Before: a batch that is named there and has no dead is harmless.
            let mut command = redis::cmd("SADD");
            command.arg(self.index.dead()).arg(batch.as_str());
            self.send(ACTION, &command).await?;
        }
        let fates: Vec<Fate> = self.run(ACTION, batch, &call).await?;
        Ok(fates.into_iter().zip(places).collect())
    }
}

/// The status of the only item of a batch of one, where it is not dead: those are listed too.
fn alone(only: &Segment) -> Option<Status> {
    let is_first = matches!(only.indices(), [one] if *one == (0..1));
    let status = Status::ALL.into_iter().find(|status| only.counts()[*status as usize] > 0);
    status.filter(|status| is_first && *status != Status::Dead)
}

/// What of a segment is not known. All of it never is, for then the script would have said so.
fn cut(pending: Pending, known: &Known) -> Option<Pending> {
    let Pending { place, segment, dropped } = pending;
    let rest = segment.filtered(|index| !known.has(index))?;
    let dropped = dropped + segment.len() - rest.len();
    Some(Pending { place, segment: rest, dropped })
}

/// How many of the first go into one script.
fn how_many(pending: &[Pending]) -> usize {
    let mut bytes = 0;
    let fit = pending.iter().take(SCRIPT_SEGMENTS).take_while(|one| {
        bytes += one.segment.bytes().len();
        bytes <= SCRIPT_BYTES
    });
    fit.count().max(1)
}

/// The items of a segment that are dead.
fn dead(segment: &Segment) -> Vec<u64> {
    let mut dead = Vec::new();
    if segment.counts()[Status::Dead as usize] > 0 {
        // It was checked when it was made.
        drop(segment::visit(segment.bytes(), |_, entry| {
            if entry.status == Status::Dead {
                dead.push(entry.index);
            }
            Ok(())
        }));
    }
    dead
}

/// As the script reads it; most segments have one status.
fn by_status(segment: &Segment) -> String {
    let counts = Status::ALL.map(|status| (status as usize, segment.counts()[status as usize]));
    let some = counts.into_iter().filter(|(_, count)| *count > 0);
    some.map(|(status, count)| format!("{status}={count};")).collect()
}

fn joined(numbers: impl IntoIterator<Item = u64>) -> String {
    let numbers: Vec<_> = numbers.into_iter().map(|number| number.to_string()).collect();
    numbers.join(",")
}
