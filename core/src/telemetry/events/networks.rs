//! What happens to models, and to pictures on their way through one.

use std::time::Duration;

use metrics::{counter, histogram};
use tracing::{info, trace};

use super::{millis, names};

/// A picture was made ready for a network.
#[derive(Clone, Copy, Debug)]
pub struct PicturePrepared<'a> {
    /// The model it is for.
    pub model: &'a str,
    /// How long decoding and resizing took.
    pub input: Duration,
}

impl PicturePrepared<'_> {
    /// Tells it. The log is silent: it would be a line for each picture.
    pub fn emit(self) {
        let Self { model, input } = self;
        histogram!(names::NETWORK_INPUT_SECONDS, "model" => model.to_owned()).record(input);
    }
}

/// A network ran over a batch of pictures, well or not.
#[derive(Clone, Copy, Debug)]
pub struct NetworkRan<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What it ran on.
    pub device: &'a str,
    /// How many pictures were in the batch.
    pub items: u64,
    /// From pixels to what the network gave.
    pub compute: Duration,
    /// From that to answers.
    pub output: Duration,
}

impl NetworkRan<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { model, device, items, compute, output } = self;
        trace!(model, device, items, compute_ms = millis(compute), output_ms = millis(output), "network ran");
        let labels = [("model", model.to_owned()), ("device", device.to_owned())];
        counter!(names::NETWORK_EXECUTIONS, &labels).increment(1);
        histogram!(names::NETWORK_COMPUTE_SECONDS, &labels).record(compute);
        histogram!(names::NETWORK_OUTPUT_SECONDS, &labels).record(output);
    }
}

/// The pictures of a batch have left a network, each with its answer or its failure.
#[derive(Clone, Copy, Debug)]
pub struct PicturesAnswered<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What it runs on.
    pub device: &'a str,
    /// How long each had waited for the batch to begin.
    pub queue: &'a [Duration],
    /// On how many of them the network failed.
    pub failed: u64,
}

impl PicturesAnswered<'_> {
    /// Tells it. The network's own failures have lines of their own.
    pub fn emit(self) {
        let Self { model, device, queue, failed } = self;
        let labels = [("model", model.to_owned()), ("device", device.to_owned())];
        let waited = histogram!(names::NETWORK_QUEUE_SECONDS, &labels);
        queue.iter().for_each(|queue| waited.record(*queue));
        for (result, count) in [("ok", queue.len() as u64 - failed), ("failed", failed)] {
            counter!(names::NETWORK_ITEMS, "model" => model.to_owned(), "device" => device.to_owned(), "result" => result)
                .increment(count);
        }
    }
}

/// A model is ready: loaded, checked and run once.
#[derive(Clone, Copy, Debug)]
pub struct ModelLoaded<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What it runs on.
    pub device: &'a str,
    /// What it computes with.
    pub precision: &'a str,
    /// How many threads run it.
    pub instances: usize,
    /// How long it took.
    pub took: Duration,
}

impl ModelLoaded<'_> {
    /// Tells it.
    pub fn emit(self) {
        let Self { model, device, precision, instances, took } = self;
        info!(model, device, precision, instances, took_ms = millis(took), "model loaded");
        counter!(names::MODEL_LOADS, "model" => model.to_owned()).increment(1);
    }
}
