//! Run: a chunk's items on the engine that their task asks for.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use futures::stream::FuturesOrdered;
use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::Maker;
use tidemill_core::task::{Engine, Stop};
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::decide::{Ran, Stopped, Verdict, decide};
use crate::decode::Work;

/// Runs every item and says what the delivery came to. Dropping the future ends them all.
pub(crate) async fn run(worker: &Worker, work: Work) -> Verdict {
    let maker = Arc::new(Maker { worker: worker.setup.name.clone(), device: work.job.device() });
    let work = Arc::new(work);
    let ran = match work.job.engine() {
        Engine::Compute => compute(worker, &work).await,
        Engine::Wait(_) => wait(worker, &work).await,
    };
    decide(work.chunk(), work.job.lane(), ran, &maker, fastrand::f64())
}

/// Runs the items side by side on tokio.
async fn wait(worker: &Worker, work: &Arc<Work>) -> Vec<Ran> {
    let taken = Instant::now();
    let timeout = work.chunk().batch.timeout;
    let running: FuturesOrdered<_> = work
        .chunk()
        .items
        .iter()
        .map(|item| async move {
            let started = Instant::now();
            let running = async { work.job.wait(&item.input, worker.tools.clone()).await };
            // A panicking item leaves nothing behind: its input was its own, job and tools are read only.
            let running = AssertUnwindSafe(running).catch_unwind();
            let attempt = tokio::time::timeout(timeout, running);
            let result = match work.cancelled.run_until_cancelled(attempt).await {
                Some(Ok(Ok(result))) => result.map_err(Stopped::Failed),
                Some(Ok(Err(panic))) => Err(Stopped::Failed(Failure::panicked(&message_of(panic.as_ref())))),
                Some(Err(_)) => Err(Stopped::Failed(Failure::timed_out(timeout))),
                None => Err(Stopped::Cancelled),
            };
            Ran { result, queued: started - taken, run: started.elapsed() }
        })
        .collect();
    running.collect().await
}

/// Runs the items one after the other on a computing thread.
///
/// A thread cannot be taken away from an item that exceeds its timeout: it is asked to stop, its outcome is written,
/// and its neighbours go on on another thread.
async fn compute(worker: &Worker, work: &Arc<Work>) -> Vec<Ran> {
    let taken = Instant::now();
    let timeout = work.chunk().batch.timeout;
    let items = work.chunk().items.len();
    let mut ran: Vec<Ran> = Vec::with_capacity(items);
    while ran.len() < items {
        let pass = Arc::new(Pass { first: ran.len(), taken, done: Mutex::default() });
        let running = worker.compute().run({
            let (work, pass) = (Arc::clone(work), Arc::clone(&pass));
            move |stop| pass.run(&work, stop)
        });
        tokio::select! {
            finished = running => {
                ran.append(&mut pass.take());
                // Items catch their own panics; one that comes through is in our own few lines, and ends the chunk.
                if let Err(panicked) = finished {
                    ran.resize_with(items, || Ran::failed(Failure::panicked(&panicked.0)));
                }
            }
            mut ended = pass.overdue(timeout) => {
                ran.append(&mut ended);
                ran.push(Ran { run: timeout, ..Ran::failed(Failure::timed_out(timeout)) });
            }
        }
    }
    ran
}

impl Ran {
    fn failed(failure: Failure) -> Self {
        Self { result: Err(Stopped::Failed(failure)), queued: Duration::ZERO, run: Duration::ZERO }
    }
}

/// One go over a chunk's items, from `first` on. Its results are shared, so that they are there when it hangs.
struct Pass {
    first: usize,
    taken: Instant,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    ran: Vec<Ran>,
    /// When the item that is running was begun.
    running_since: Option<Instant>,
    /// The results were taken: whoever is still running is late, and nobody listens.
    is_taken: bool,
}

impl Pass {
    /// On the computing thread: runs items until there are none, or nobody waits for them.
    fn run(&self, work: &Work, stop: &CancellationToken) {
        let mut items = work.chunk().items[self.first..].iter().peekable();
        let mut started = Instant::now();
        self.lock().running_since = Some(started);
        while let Some(item) = items.next() {
            let result = if work.cancelled.is_cancelled() {
                Err(Stopped::Cancelled)
            } else {
                work.job.compute(&item.input, &Stop(stop)).map_err(Stopped::Failed)
            };
            let ended = Instant::now();
            let mut done = self.lock();
            if done.is_taken {
                return;
            }
            done.ran.push(Ran { result, queued: started - self.taken, run: ended - started });
            done.running_since = items.peek().map(|_| ended);
            started = ended;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Ran> {
        let mut done = self.lock();
        done.is_taken = true;
        std::mem::take(&mut done.ran)
    }

    /// Resolves when an item has been running for longer than `timeout`, with the results of those before it.
    async fn overdue(&self, timeout: Duration) -> Vec<Ran> {
        let mut wake = timeout;
        loop {
            tokio::time::sleep(wake).await;
            let mut done = self.lock();
            wake = done.running_since.map_or(timeout, |since| timeout.saturating_sub(since.elapsed()));
            if wake.is_zero() {
                done.is_taken = true;
                return std::mem::take(&mut done.ran);
            }
        }
    }
}
