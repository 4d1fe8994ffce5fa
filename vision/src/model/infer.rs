//! The second stage: batches run through the network. A batch that fails is halved until the guilty picture stands alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{TchError, Tensor};

use super::answer::{Answer, Given, Said};
use super::counts::Tally;
use super::gather::Gatherer;
use super::{ModelError, Request};
use crate::lost::Lost;
use crate::network::Network;
use crate::{sys, torch};

/// What runs batches: a network where it is; in tests whatever fails as devices do.
pub(super) trait Forward: Send {
    /// What the network gives for `count` pictures whose pixels lie one after the other. A GPU may still be at it.
    fn forward(&self, pixels: &[u8], count: i64) -> Result<Tensor, TchError>;

    /// Asks the device for next to nothing: whether it answers at all.
    fn probe(&self) -> Result<(), TchError>;
}

impl Forward for Network {
    fn forward(&self, pixels: &[u8], count: i64) -> Result<Tensor, TchError> {
        torch::alive()?;
        let [height, width] = self.size();
        sys::with_pixels(pixels, [count, height, width], |batch| Network::forward(self, batch))
    }

    fn probe(&self) -> Result<(), TchError> {
        torch::probe(self.device())
    }
}

/// One instance of a network, on a thread of its own.
pub(super) struct Instance {
    pub(super) network: Box<dyn Forward>,
    /// The number of its device among the model's.
    pub(super) device: usize,
    /// The device's name.
    pub(super) on: String,
    pub(super) tally: Arc<Tally>,
    pub(super) lost: Lost,
}

/// Why a batch did not come through.
enum Trouble {
    /// One picture, or the network.
    Failed(String),
    /// The device has no memory for so many.
    NoRoom(String),
    /// The device answers nothing any more.
    Lost(String),
}

impl Instance {
    /// Runs batches until there are no more, or the device is lost.
    pub(super) fn run(self, gatherer: &Gatherer, threads: usize) {
        // Both belong to the thread that calls them: every thread that runs a network has a pool and a gradient mode of
        // its own.
        torch::use_threads(threads);
        let _no_grad = tch::no_grad_guard();
        let mut pixels = Vec::new();
        while let Some(batch) = gatherer.next(self.device) {
            if self.lost.is_told() {
                return;
            }
            let now = Instant::now();
            let waited = |request: &Request| now.saturating_duration_since(request.arrived);
            let queue: Vec<Duration> = batch.requests.iter().map(waited).collect();
            let run = |batch: &[Request]| {
                self.attempt(batch, &mut pixels).inspect_err(|trouble| {
                    if let Trouble::NoRoom(_) = trouble {
                        gatherer.shrink(self.device, batch.len() / 2);
                    }
                })
            };
            let answered = isolating(batch.requests, run);
            let failed = answered.iter().filter(|(_, answer)| answer.is_err()).count();
            // Before anybody hears of them: who asks then finds them counted.
            self.tally.answered(&self.on, &queue, failed as u64);
            for (request, answer) in answered {
                if let Err(ModelError::Lost(reason)) = &answer {
                    self.lost.tell(&format!("{}: {reason}", self.on));
                }
                let answer = answer.map(|said| said.at_most(request.top));
                if request.answer.send((answer, request.place)).is_err() {
                    tracing::trace!("nobody waits for a picture any more");
                }
            }
        }
    }

    /// Runs one batch and says what kind of trouble there was.
    fn attempt(&self, batch: &[Request], pixels: &mut Vec<u8>) -> Result<Vec<Answer>, Trouble> {
        let reason = match self.compute(batch, pixels) {
            Ok(answers) => return Ok(answers),
            Err(reason) => reason,
        };
        if torch::is_about_memory(&reason) {
            return Err(Trouble::NoRoom(reason));
        }
        match caught(|| self.network.probe()) {
            Err(probed) if !torch::is_about_memory(&probed) => Err(Trouble::Lost(reason)),
            _ => Err(Trouble::Failed(reason)),
        }
    }

    /// Runs one batch, or says what went wrong.
    fn compute(&self, batch: &[Request], pixels: &mut Vec<u8>) -> Result<Vec<Answer>, String> {
        let began = Instant::now();
        pixels.clear();
        batch.iter().for_each(|request| pixels.extend_from_slice(&request.pixels));
        let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
        let top = batch.iter().map(|request| request.top).max().unwrap_or(1);
        // That it is here is what says that it is computed. To wait for the device instead would be to wait for the other
        // instance's batch as well.
        let given = caught(|| Given::fetch(&self.network.forward(pixels, count)?, top));
        let computed = Instant::now();
        let answers = given.and_then(|given| caught(|| given.answers()));
        self.tally.ran(&self.on, batch.len(), computed - began, computed.elapsed());
        match answers? {
            answers if answers.len() == batch.len() => Ok(answers),
            answers => Err(format!("{} answers for {} pictures", answers.len(), batch.len())),
        }
    }
}

impl Said {
    /// The batch was asked for as many classes as any of its pictures wants.
    fn at_most(mut self, top: usize) -> Self {
        if let Self::Classes(classes) = &mut self {
            classes.truncate(top);
        }
        self
    }
}

/// Runs a batch; if it fails as a whole, its halves, and so on, so that only those pay that fail alone. Where a device has
/// no memory for it, halves need half of it. What is left when the device is lost is not tried.
fn isolating<I, O>(
    mut batch: Vec<I>,
    mut run: impl FnMut(&[I]) -> Result<Vec<Result<O, ModelError>>, Trouble>,
) -> Vec<(I, Result<O, ModelError>)> {
    let mut done = Vec::with_capacity(batch.len());
    let mut later = Vec::new();
    loop {
        match run(&batch) {
            Ok(answers) => done.extend(batch.into_iter().zip(answers)),
            Err(Trouble::Lost(reason)) => {
                let left = std::iter::once(batch).chain(later.into_iter().rev()).flatten();
                done.extend(left.map(|item| (item, Err(ModelError::Lost(reason.clone())))));
                return done;
            }
            Err(Trouble::Failed(reason) | Trouble::NoRoom(reason)) if batch.len() == 1 => {
                done.extend(batch.into_iter().map(|item| (item, Err(ModelError::Failed(reason.clone())))));
            }
            Err(Trouble::Failed(reason) | Trouble::NoRoom(reason)) => {
                tracing::warn!(pictures = batch.len(), %reason, "a batch failed; its halves are run by themselves");
                later.push(batch.split_off(batch.len() / 2));
                later.push(batch);
            }
        }
        match later.pop() {
            Some(next) => batch = next,
            None => return done,
        }
    }
}

/// What went wrong, in one line. A panic is a failure.
fn caught<T>(run: impl FnOnce() -> Result<T, TchError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(ran) => ran.map_err(|error| torch::reason(&error)),
        Err(panic) => Err(torch::panicked(&*panic)),
    }
}
