//! What a model did, in numbers: for this process, and as metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill_core::telemetry::events::{NetworkRan, PicturePrepared, PicturesAnswered};

/// What a model did since the process started. `pictures / executions` is the mean size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many times the network ran, the tries to single out a bad picture among them.
    pub executions: u64,
    /// How many pictures were answered.
    pub pictures: u64,
    /// How many were answered with an error.
    pub failures: u64,
    /// How long pictures waited for their batch to begin, added up over the pictures.
    pub queue: Duration,
    /// How long they took to be decoded and resized, added up over the pictures.
    pub input: Duration,
    /// From pixels to what the network gave, once that is in this machine's memory; added up over the executions.
    pub compute: Duration,
    /// From that to answers, added up over the executions.
    pub output: Duration,
}

/// Counts for one model, whatever instance runs it; outlives its being unloaded.
#[derive(Debug)]
pub(crate) struct Tally {
    model: String,
    executions: AtomicU64,
    pictures: AtomicU64,
    failures: AtomicU64,
    queue_micros: AtomicU64,
    input_micros: AtomicU64,
    compute_micros: AtomicU64,
    output_micros: AtomicU64,
}

impl Tally {
    /// Counts for the model of a name.
    pub(crate) fn new(model: &str) -> Self {
        let zero = AtomicU64::default;
        Self {
            model: model.to_owned(),
            executions: zero(),
            pictures: zero(),
            failures: zero(),
            queue_micros: zero(),
            input_micros: zero(),
            compute_micros: zero(),
            output_micros: zero(),
        }
    }

    /// A picture was decoded and resized.
    pub(crate) fn prepared(&self, input: Duration) {
        add_time(&self.input_micros, input);
        PicturePrepared { model: &self.model, input }.emit();
    }

    /// The network ran over a batch on a device, well or not.
    pub(super) fn ran(&self, device: &str, items: usize, compute: Duration, output: Duration) {
        add(&self.executions, 1);
        add_time(&self.compute_micros, compute);
        add_time(&self.output_micros, output);
        NetworkRan { model: &self.model, device, items: items as u64, compute, output }.emit();
    }

    /// The pictures of a batch have their answers. `queue`: how long each had waited for it.
    pub(super) fn answered(&self, device: &str, queue: &[Duration], failed: u64) {
        add(&self.pictures, queue.len() as u64 - failed);
        add(&self.failures, failed);
        add_time(&self.queue_micros, queue.iter().sum());
        PicturesAnswered { model: &self.model, device, queue, failed }.emit();
    }

    /// Reads them all.
    pub(crate) fn read(&self) -> Counts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let time = |counter: &AtomicU64| Duration::from_micros(number(counter));
        Counts {
            executions: number(&self.executions),
            pictures: number(&self.pictures),
            failures: number(&self.failures),
            queue: time(&self.queue_micros),
            input: time(&self.input_micros),
            compute: time(&self.compute_micros),
            output: time(&self.output_micros),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn add_time(counter: &AtomicU64, time: Duration) {
    add(counter, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}
