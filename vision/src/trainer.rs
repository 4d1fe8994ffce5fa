//! Trainings of an engine: one at a time, on a thread of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;
use tidemill_tasks::vision::train::{Output, Training};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::engine::is_dead;
use crate::lost::Lost;
use crate::threads::{OwnThread, PATIENCE};
use crate::torch;
use crate::train::{Conditions, train};

/// Runs trainings. Dropping it waits until the thread has ended, which is at its next batch, but no longer than
/// [`PATIENCE`]. What it has written by then is whole, as when it is killed.
#[derive(Debug)]
pub(crate) struct Trainer {
    conditions: Arc<Conditions>,
    lost: Lost,
    /// Held by the thread until it has ended: one that was given up still has its folder.
    turn: Arc<tokio::sync::Mutex<()>>,
    thread: Mutex<Option<OwnThread>>,
}

impl Trainer {
    /// Will train under these conditions, and tell where the device is lost.
    pub(crate) fn new(conditions: Conditions, lost: Lost) -> Self {
        Self { conditions: Arc::new(conditions), lost, turn: Arc::default(), thread: Mutex::default() }
    }

    /// Trains, once others have ended. Dropping the future asks it to end at the next batch. Where the device is lost by then,
    /// that is told before the failure.
    pub(crate) async fn train(&self, training: Training) -> Result<Output, Failure> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let stop = CancellationToken::new();
        let _asked_when_dropped = stop.clone().drop_guard();
        let (answer, answered) = oneshot::channel();
        let (conditions, lost) = (Arc::clone(&self.conditions), self.lost.clone());
        let span = tracing::Span::current();
        let work = move || {
            // The library's layers panic where libtorch refuses. Nothing half done is seen again: all is in the closure.
            let run = AssertUnwindSafe(|| span.in_scope(|| train(&training, &conditions, &stop)));
            let outcome = catch_unwind(run).unwrap_or_else(|panic| Err(panicked(&*panic)));
            if let Err(failure) = &outcome
                && is_of_device(failure)
                && is_dead(conditions.device)
            {
                lost.tell(&format!("{}: {}", conditions.device, failure.message));
            }
            drop(turn);
            // Nobody may be listening any more.
            drop(answer.send(outcome));
        };
        let thread = OwnThread::start("train".to_owned(), work);
        let thread = thread.map_err(|error| Failure::no_thread(&error))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        answered.await.unwrap_or_else(|_| Err(Failure::transient("stopped", "the training ended without a word")))
    }
}

/// What a panic comes to: where there was no memory, it may pass.
fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said = torch::panicked(panic);
    if torch::is_about_memory(&said) {
        return Failure::transient("network", said);
    }
    Failure::panicked(&message_of(panic))
}

/// Whether it may be the device's: a data set, an option or a folder is not.
fn is_of_device(failure: &Failure) -> bool {
    matches!(&*failure.kind, "network" | "model" | "panic")
}

impl Drop for Trainer {
    fn drop(&mut self) {
        // It was asked to end when the future of its training was dropped.
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            thread.end_by(Instant::now() + PATIENCE);
        }
    }
}
