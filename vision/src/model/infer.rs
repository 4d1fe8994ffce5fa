//! The second stage: batches run through the network. A batch that fails is halved until the guilty picture stands alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tch::{TchError, Tensor};

use super::answer::Said;
use super::counts::Counters;
use super::gather::Gatherer;
use super::{ModelError, Request, answer};
use crate::network::Network;
use crate::{sys, torch};

/// One instance of a network, on a thread of its own.
#[derive(Debug)]
pub(super) struct Instance {
    network: Network,
    counters: Arc<Counters>,
}

impl Instance {
    /// Makes an instance of a network.
    pub(super) fn new(network: Network, counters: Arc<Counters>) -> Self {
        Self { network, counters }
    }

    /// Runs batches until there are no more.
    pub(super) fn run(self, gatherer: &Gatherer, threads: usize) {
        // Both belong to the thread that calls them: every thread that runs a network has a pool and a gradient mode of
        // its own.
        tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
        let _no_grad = tch::no_grad_guard();
        let mut pixels = Vec::new();
        while let Some(batch) = gatherer.next() {
            let now = Instant::now();
            for request in &batch {
                self.counters.left_queue(now.saturating_duration_since(request.arrived));
            }
            let answer = |batch: &[Request]| {
                let started = Instant::now();
                let answered = self.compute(batch, &mut pixels);
                self.counters.executed(started.elapsed());
                answered
            };
            for (request, outcome) in isolating(batch, answer) {
                let outcome = outcome.map(|said| match said {
                    // The batch was asked for as many as any of its pictures wants.
                    Said::Classes(mut classes) => {
                        classes.truncate(request.top);
                        Said::Classes(classes)
                    }
                    maps @ Said::Maps(_) => maps,
                });
                self.counters.answered(outcome.is_ok());
                if request.answer.send(outcome).is_err() {
                    tracing::trace!("nobody waits for a picture any more");
                }
            }
        }
    }

    /// Runs one batch.
    fn compute(&self, batch: &[Request], pixels: &mut Vec<u8>) -> Result<Vec<answer::Answer>, TchError> {
        pixels.clear();
        batch.iter().for_each(|request| pixels.extend_from_slice(&request.pixels));
        let [height, width] = self.network.size();
        let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
        let output: Tensor = sys::with_pixels(pixels, [count, height, width], |batch| self.network.forward(batch))?;
        let top = batch.iter().map(|request| request.top).max().unwrap_or(1);
        answer::read(&output, top)
    }
}

/// Runs a batch; if it fails as a whole, its halves, and so on, so that only those pay that fail alone. A panic is a failure.
///
/// Out of memory on a device is healed by the same: halves need half of it.
fn isolating<I, O>(
    mut batch: Vec<I>,
    mut run: impl FnMut(&[I]) -> Result<Vec<Result<O, ModelError>>, TchError>,
) -> Vec<(I, Result<O, ModelError>)> {
    let mut done = Vec::with_capacity(batch.len());
    let mut later = Vec::new();
    loop {
        match attempt(&batch, &mut run) {
            Ok(answers) => done.extend(batch.into_iter().zip(answers)),
            Err(reason) if batch.len() == 1 => {
                done.extend(batch.into_iter().map(|item| (item, Err(ModelError::Failed(reason.clone())))));
            }
            Err(reason) => {
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

/// Runs a batch and says in one line what went wrong.
fn attempt<I, O>(
    batch: &[I],
    run: &mut impl FnMut(&[I]) -> Result<Vec<Result<O, ModelError>>, TchError>,
) -> Result<Vec<Result<O, ModelError>>, String> {
    match catch_unwind(AssertUnwindSafe(|| run(batch))) {
        Ok(Ok(answers)) if answers.len() == batch.len() => Ok(answers),
        Ok(Ok(answers)) => Err(format!("{} answers for {} pictures", answers.len(), batch.len())),
        Ok(Err(error)) => Err(torch::reason(&error)),
        Err(panic) => Err(panicked(&*panic)),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", text.unwrap_or("no reason given"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each item with ten times itself; 13 makes the whole batch fail, 7 makes it panic.
    fn times_ten(batch: &[u32]) -> Result<Vec<Result<u32, ModelError>>, TchError> {
        assert!(!batch.contains(&7), "seven is unlucky");
        if batch.contains(&13) {
            return Err(TchError::Torch("thirteen\nat some address in C++".to_owned()));
        }
        Ok(batch.iter().map(|item| Ok(item * 10)).collect())
    }

    #[test]
    fn a_batch_without_fault_is_run_once() {
        let mut runs = 0;

        let answers = isolating(vec![1, 2, 3], |batch| {
            runs += 1;
            times_ten(batch)
        });

        assert_eq!(answers, [(1, Ok(10)), (2, Ok(20)), (3, Ok(30))]);
        assert_eq!(runs, 1);
    }

    #[test]
    fn only_the_items_that_fail_alone_fail() {
        let answers = isolating(vec![1, 13, 3, 4, 7, 6, 8, 9], times_ten);

        let failed = |why: &str| Err(ModelError::Failed(why.to_owned()));
        assert_eq!(answers.iter().map(|(item, _)| *item).collect::<Vec<_>>(), [1, 13, 3, 4, 7, 6, 8, 9]);
        for (item, answer) in answers {
            match item {
                13 => assert_eq!(answer, failed("thirteen")),
                7 => assert_eq!(answer, failed("it panicked: seven is unlucky")),
                _ => assert_eq!(answer, Ok(item * 10)),
            }
        }
    }
}
