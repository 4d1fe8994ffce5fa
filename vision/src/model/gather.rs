//! The first stage: requests become batches.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Request, lock};

/// Gathers batches for whichever instance is free.
#[derive(Debug)]
pub(super) struct Gatherer {
    /// One instance gathers at a time, the others compute or wait for their turn.
    requests: Mutex<Receiver<Request>>,
    max_batch: usize,
    max_delay: Duration,
}

impl Gatherer {
    /// Gathers from `requests`, whose sender is held by the model.
    pub(super) fn new(requests: Receiver<Request>, max_batch: usize, max_delay: Duration) -> Self {
        Self { requests: Mutex::new(requests), max_batch, max_delay }
    }

    /// Waits for a request and returns it with those that have come as well, or that come before `max_delay` is over.
    /// `None` once the model is gone and nothing is left.
    ///
    /// Requests whose answer nobody waits for any more are passed over.
    pub(super) fn next(&self) -> Option<Vec<Request>> {
        let requests = lock(&self.requests);
        loop {
            let first = requests.recv().ok()?;
            let until = first.arrived + self.max_delay;
            let mut batch = vec![first];
            while batch.len() < self.max_batch {
                match requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(request) => batch.push(request),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            batch.retain(|request| !request.answer.is_closed());
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }
}
