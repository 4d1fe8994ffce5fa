//! Settling: what became of a channel's deliveries, told to the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::{Live, why};

/// How long an acknowledgement may wait for others to go with it.
const HOLD_ACKS: Duration = Duration::from_millis(5);
/// How long it may wait for those of deliveries that came before its own.
const HOLD_GAPS: Duration = Duration::from_millis(100);

/// What is to be told to the broker about a delivery.
#[derive(Debug)]
pub(super) enum Settled {
    Ack(u64),
    GiveBack(u64),
}

/// The one task that acknowledges on a channel: as many at once as have come together, with `multiple` where all below
/// are done. It holds them for a moment, for each time it tells costs a quorum queue a write to its log, which what is
/// published meanwhile waits for; but never so many that the prefetch would starve.
pub(super) async fn settle_all(
    channel: Channel,
    mut settled: mpsc::Receiver<Settled>,
    live: Arc<Live>,
    prefetch: Arc<AtomicU16>,
) {
    let mut acks = Acks::default();
    let mut batch = Vec::new();
    loop {
        let more = settled.recv_many(&mut batch, 256);
        let is_over = match acks.until() {
            Some(until) => tokio::time::timeout_at(until, more).await.is_ok_and(|count| count == 0),
            None => more.await == 0,
        };
        let most = usize::from(prefetch.load(Ordering::Relaxed) / 2);
        let until = Instant::now() + HOLD_ACKS;
        while !is_over && batch.len() < most && batch.iter().all(|settled| matches!(settled, Settled::Ack(_))) {
            match tokio::time::timeout_at(until, settled.recv_many(&mut batch, 256)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        let mut told = Ok(());
        for settled in batch.drain(..) {
            match settled {
                Settled::Ack(tag) => acks.done(tag),
                Settled::GiveBack(tag) => {
                    acks.gone(tag);
                    let options = BasicNackOptions { requeue: true, ..Default::default() };
                    told = told.and(channel.basic_nack(tag, options).await);
                }
            }
        }
        for (tag, multiple) in acks.take(if is_over { 0 } else { most }, Instant::now()) {
            told = told.and(channel.basic_ack(tag, BasicAckOptions { multiple }).await);
        }
        if let Err(error) = told {
            // All of it will be delivered again.
            tracing::debug!(error = why(&error), generation = live.generation, "cannot acknowledge");
            return;
        }
        if is_over {
            break;
        }
    }
    // Nobody holds a delivery of this channel or waits for one.
    drop(channel.close(200, "done".into()).await);
}

/// Which tags of a channel are done.
#[derive(Debug, Default)]
struct Acks {
    /// All tags up to here are settled.
    settled: u64,
    /// Done, and not told yet.
    done: BTreeSet<u64>,
    /// Since when some of them wait for one below.
    waiting_since: Option<Instant>,
    /// Settled in another way, above `settled`.
    others: Runs,
}

/// Tags as runs of neighbours, the first of each with its last: behind a delivery that stays open for long there are any
/// number of tags, and hardly more runs than open ones.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn insert(&mut self, tag: u64) {
        let before = self.0.range(..tag).next_back().filter(|(_, last)| **last + 1 == tag).map(|(first, _)| *first);
        let last = self.0.remove(&(tag + 1)).unwrap_or(tag);
        self.0.insert(before.unwrap_or(tag), last);
    }

    /// Takes out the run that begins there; gives its last tag.
    fn take(&mut self, first: u64) -> Option<u64> {
        self.0.remove(&first)
    }
}

impl Acks {
    fn done(&mut self, tag: u64) {
        self.done.insert(tag);
    }

    fn gone(&mut self, tag: u64) {
        self.others.insert(tag);
    }

    /// When to look again though nothing has come.
    fn until(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + HOLD_GAPS)
    }

    /// What to tell the broker: tags, and whether all below go with them. What is done beyond a gap waits for the gap to
    /// close, which saves telling it one by one, unless that takes too long or more than `most` wait.
    fn take(&mut self, most: usize, now: Instant) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        let mut upto = None;
        loop {
            let next = self.settled + 1;
            if self.done.remove(&next) {
                upto = Some(next);
                self.settled = next;
            } else if let Some(last) = self.others.take(next) {
                self.settled = last;
            } else {
                break;
            }
        }
        told.extend(upto.map(|upto| (upto, true)));
        if self.done.len() > most || self.until().is_some_and(|until| now >= until) {
            let beyond = std::mem::take(&mut self.done);
            for tag in beyond {
                told.push((tag, false));
                self.others.insert(tag);
            }
        }
        self.waiting_since = if self.done.is_empty() { None } else { self.waiting_since.or(Some(now)) };
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_go_out_together_where_nothing_is_open_below() {
        let (mut acks, now) = (Acks::default(), Instant::now());
        for tag in [1, 2, 4] {
            acks.done(tag);
        }
        assert_eq!(acks.take(8, now), [(2, true)]);
        acks.gone(3);
        assert_eq!(acks.take(8, now), [(4, true)]);
        acks.done(5);
        assert_eq!(acks.take(8, now), [(5, true)]);
        assert_eq!(acks.until(), None);
    }

    #[test]
    fn what_waits_too_long_for_one_below_goes_out_alone() {
        let (mut acks, now) = (Acks::default(), Instant::now());
        acks.done(2);
        assert_eq!(acks.take(8, now), []);
        acks.done(3);
        assert_eq!(acks.take(8, now + HOLD_GAPS / 2), []);
        assert_eq!(acks.until(), Some(now + HOLD_GAPS), "counted from the first");
        assert_eq!(acks.take(8, now + HOLD_GAPS), [(2, false), (3, false)]);
        acks.done(1);
        acks.done(4);
        assert_eq!(acks.take(8, now + HOLD_GAPS), [(4, true)]);
    }

    #[test]
    fn what_is_settled_behind_an_open_one_takes_no_room() {
        let (mut acks, now) = (Acks::default(), Instant::now());
        // Those that are given back come in any order.
        for tag in (2..1000).step_by(2).chain((0..499).map(|n| 999 - 2 * n)) {
            acks.gone(tag);
        }
        for tag in 1000..2000 {
            acks.done(tag);
            assert_eq!(acks.take(0, now), [(tag, false)]);
        }
        acks.gone(3000);
        assert_eq!(acks.others.0, BTreeMap::from([(2, 1999), (3000, 3000)]));

        acks.done(1);
        acks.done(2000);

        assert_eq!(acks.take(8, now), [(2000, true)]);
        assert_eq!(acks.settled, 2000);
    }

    #[test]
    fn what_waits_for_one_below_goes_out_alone_before_the_prefetch_starves() {
        let (mut acks, now) = (Acks::default(), Instant::now());
        for tag in [2, 3] {
            acks.done(tag);
        }
        assert_eq!(acks.take(2, now), []);
        acks.done(5);
        assert_eq!(acks.take(2, now), [(2, false), (3, false), (5, false)]);
    }
}
