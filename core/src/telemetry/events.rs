//! Domain events: what happens to the work, as types that write the log line *and* move the metric.
//!
//! An event that comes once per item of a large batch would cost more than the item; so the plain course of things is
//! told per chunk, and only what is out of the ordinary per item. To add one: a struct with the facts, an `emit`.

mod networks;

use std::time::Duration;

use metrics::{counter, histogram};
use tracing::{debug, error, info};

pub use networks::{ModelLoaded, NetworkRan, PicturePrepared, PicturesAnswered};

/// The target of the lines that tell how far long work has come; they are shown at the level `warn` as well.
pub const PROGRESS: &str = "tidemill_progress";

/// The metrics that events move, in the words of the logs. Names are for life: dashboards are built on them.
pub mod names {
    /// Counter: items that came to their end, by `task` and `status`.
    pub const ITEMS: &str = "tidemill_items_total";
    /// Histogram: seconds that a chunk ran, by `task`.
    pub const CHUNK_SECONDS: &str = "tidemill_chunk_run_seconds";
    /// Counter: further attempts that were ordered, by `task`.
    pub const RETRIES: &str = "tidemill_retries_total";
    /// Counter: epochs that networks were trained for.
    pub const EPOCHS: &str = "tidemill_epochs_total";
    /// Histogram: seconds that such an epoch took.
    pub const EPOCH_SECONDS: &str = "tidemill_epoch_seconds";
    /// Counter: panics, of items and of ourselves.
    pub const PANICS: &str = "tidemill_panics_total";
    /// Counter: models that were loaded, by `model`: more than one is a model that made way for another.
    pub const MODEL_LOADS: &str = "tidemill_model_loads_total";
    /// Counter: pictures that a network answered or failed on, by `model`, `device` and `result` (`ok`, `failed`).
    pub const NETWORK_ITEMS: &str = "tidemill_network_items_total";
    /// Counter: runs of a network, each over a batch of pictures, by `model` and `device`.
    pub const NETWORK_EXECUTIONS: &str = "tidemill_network_executions_total";
    /// Histogram: seconds that a picture waited for its batch, by `model` and `device`.
    pub const NETWORK_QUEUE_SECONDS: &str = "tidemill_network_queue_seconds";
    /// Histogram: seconds that a picture's decoding and resizing took, by `model`.
    pub const NETWORK_INPUT_SECONDS: &str = "tidemill_network_input_seconds";
    /// Histogram: seconds from a batch's pixels to what the network gives, by `model` and `device`.
    pub const NETWORK_COMPUTE_SECONDS: &str = "tidemill_network_compute_seconds";
    /// Histogram: seconds from what it gives to the batch's answers, by `model` and `device`.
    pub const NETWORK_OUTPUT_SECONDS: &str = "tidemill_network_output_seconds";
}

/// A chunk has run: every item in it has its outcome or waits for another attempt.
#[derive(Clone, Copy, Debug)]
pub struct ChunkFinished<'a> {
    /// The batch it belongs to.
    pub batch: &'a str,
    /// The task that ran.
    pub task: &'a str,
    /// The index of its first item.
    pub first: u64,
    /// How many items ended in each status; those with none may be left out.
    pub statuses: &'a [(&'static str, u64)],
    /// From its first item's start to its last item's end.
    pub run: Duration,
}

impl ChunkFinished<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { batch, task, first, statuses, run } = self;
        let items: u64 = statuses.iter().map(|(_, count)| count).sum();
        debug!(batch, task, first, items, run_ms = millis(run), "chunk finished");
        for (status, count) in statuses {
            counter!(names::ITEMS, "task" => task.to_owned(), "status" => *status).increment(*count);
        }
        histogram!(names::CHUNK_SECONDS, "task" => task.to_owned()).record(run);
    }
}

/// An attempt failed in a way that may pass; the item is tried again later.
#[derive(Clone, Copy, Debug)]
pub struct ItemRetried<'a> {
    /// The batch it belongs to.
    pub batch: &'a str,
    /// The task that failed.
    pub task: &'a str,
    /// The item.
    pub index: u64,
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// How long the next one waits.
    pub delay: Duration,
    /// Why it failed.
    pub error: &'a str,
}

impl ItemRetried<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { batch, task, index, attempt, delay, error } = self;
        info!(batch, task, index, attempt, delay_ms = millis(delay), error, "item will be retried");
        counter!(names::RETRIES, "task" => task.to_owned()).increment(1);
    }
}

/// A training begins, or goes on.
#[derive(Clone, Copy, Debug)]
pub struct TrainingStarted<'a> {
    /// The model that comes of it.
    pub model: &'a str,
    /// The network.
    pub architecture: &'a str,
    /// What it runs on.
    pub device: &'a str,
    /// Pictures that it learns from.
    pub pictures: usize,
    /// Pictures that it is tried on.
    pub validation: usize,
    /// How many classes there are.
    pub classes: usize,
    /// The size that pictures are brought to.
    pub size: &'a str,
    /// The first epoch that is still to be done, from 1.
    pub epoch: u32,
    /// How many there are in all.
    pub epochs: u32,
}

impl TrainingStarted<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { model, architecture, device, pictures, validation, classes, size, epoch, epochs } = self;
        info!(
            target: PROGRESS,
            model, architecture, device, pictures, validation, classes, size, epoch, epochs, "training starts"
        );
    }
}

/// Part of an epoch is done.
#[derive(Clone, Copy, Debug)]
pub struct BatchesLearned<'a> {
    /// The model that is trained.
    pub model: &'a str,
    /// The epoch, from 1.
    pub epoch: u32,
    /// How many batches of it are done.
    pub batch: usize,
    /// How many it has.
    pub batches: usize,
}

impl BatchesLearned<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { model, epoch, batch, batches } = self;
        info!(target: PROGRESS, model, epoch, batch, batches, "learning");
    }
}

/// A network was trained for one more epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochFinished<'a> {
    /// The model that is trained.
    pub model: &'a str,
    /// The epoch, from 1.
    pub epoch: u32,
    /// How many there are in all.
    pub epochs: u32,
    /// Loss, accuracy and, to segment, intersection over union on the pictures that it learned from.
    pub training: (f64, f64, Option<f64>),
    /// The same on those for validation.
    pub validation: (f64, f64, Option<f64>),
    /// How long it took.
    pub took: Duration,
}

impl EpochFinished<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { model, epoch, epochs, training, validation, took } = self;
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let rounded = |(loss, accuracy, iou): (f64, f64, Option<f64>)| (round(loss), round(accuracy), iou.map(round));
        let (loss, accuracy, iou) = rounded(training);
        let (validation_loss, validation_accuracy, validation_iou) = rounded(validation);
        info!(
            target: PROGRESS,
            model, epoch, epochs, loss, accuracy, iou, validation_loss, validation_accuracy, validation_iou,
            took_ms = millis(took), "epoch finished"
        );
        counter!(names::EPOCHS).increment(1);
        histogram!(names::EPOCH_SECONDS).record(took);
    }
}

/// Something panicked: an item, which becomes its outcome, or we ourselves.
#[derive(Clone, Copy, Debug)]
pub struct Panicked<'a> {
    /// The thread's name.
    pub thread: &'a str,
    /// File, line and column.
    pub location: &'a str,
    /// What it said.
    pub message: &'a str,
}

impl Panicked<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { thread, location, message } = self;
        error!(thread, location, error = message, "panicked");
        counter!(names::PANICS).increment(1);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
