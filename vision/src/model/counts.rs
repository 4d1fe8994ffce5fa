//! What a model did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a model did since it started. `pictures / executions` is the mean size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many times the network ran, the tries to single out a bad picture among them.
    pub executions: u64,
    /// How many pictures were answered with classes.
    pub pictures: u64,
    /// How many were answered with an error.
    pub failures: u64,
    /// How long pictures waited for their batch to begin, added up over the pictures.
    pub queued: Duration,
    /// How long the network ran, added up over the executions.
    pub computed: Duration,
}

/// The same, shared by the instances.
#[derive(Debug, Default)]
pub(super) struct Counters {
    executions: AtomicU64,
    pictures: AtomicU64,
    failures: AtomicU64,
    queued_micros: AtomicU64,
    computed_micros: AtomicU64,
}

impl Counters {
    /// Counts a picture that leaves the queue.
    pub(super) fn left_queue(&self, waited: Duration) {
        add(&self.queued_micros, waited.as_micros());
    }

    /// Counts a run of the network.
    pub(super) fn executed(&self, took: Duration) {
        add(&self.executions, 1);
        add(&self.computed_micros, took.as_micros());
    }

    /// Counts an answer.
    pub(super) fn answered(&self, well: bool) {
        add(if well { &self.pictures } else { &self.failures }, 1);
    }

    /// Reads them all.
    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            executions: read(&self.executions),
            pictures: read(&self.pictures),
            failures: read(&self.failures),
            queued: Duration::from_micros(read(&self.queued_micros)),
            computed: Duration::from_micros(read(&self.computed_micros)),
        }
    }
}

fn add(counter: &AtomicU64, amount: u128) {
    counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Ordering::Relaxed);
}
