//! Run: a chunk's items on the engine that their task asks for.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::value::RawValue;
use tidemill_core::chunk::Chunk;
use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Maker, Status};
use tidemill_core::task::{Engine, Stop};
use tidemill_core::telemetry::events::ChunkFinished;
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::decide::{Ran, Stopped, Verdict, decide};
use crate::decode::Work;

/// Runs every item and says what the delivery came to. Dropping the future ends them all.
pub(crate) async fn run(worker: &Worker, work: Work) -> Verdict {
    let maker = Arc::new(Maker { worker: worker.setup.name.clone(), device: work.job.device() });
    let work = Arc::new(work);
    let started = Instant::now();
    let mut ran = match work.job.engine() {
        Engine::Compute => compute(worker, &work).await,
        Engine::Wait(_) => wait(worker, &work).await,
    };
    if work.cancelled.is_cancelled() {
        // Nobody waits for another attempt.
        for ran in &mut ran {
            if matches!(&ran.result, Err(Stopped::Failed(failure)) if failure.retryable) {
                ran.result = Err(Stopped::Cancelled { begun: true });
            }
        }
    }
    let verdict = decide(work.chunk(), work.job.lane(), ran, &maker, fastrand::f64());
    tell(work.chunk(), &verdict, started.elapsed());
    verdict
}

/// Tells log and metrics what a chunk came to.
fn tell(chunk: &Chunk, verdict: &Verdict, run: Duration) {
    let Verdict::Done { outcomes, .. } = verdict else { return };
    let count = |status: Status| outcomes.iter().filter(|outcome| outcome.status() == status).count() as u64;
    let statuses = Status::ALL.map(|status| (status.as_str(), count(status)));
    let first = chunk.items.first().map_or(0, |item| item.index.0);
    ChunkFinished { batch: chunk.batch.id.as_str(), task: &chunk.batch.task, first, statuses: &statuses, run }.emit();
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
            if work.cancelled.is_cancelled() {
                return Ran::cancelled(false);
            }
            let running = async { work.job.wait(&item.input, worker.tools.clone()).await };
            // A panicking item leaves nothing behind: its input was its own, job and tools are read only.
            let running = AssertUnwindSafe(running).catch_unwind();
            let attempt = tokio::time::timeout(timeout, running);
            let result = match work.cancelled.run_until_cancelled(attempt).await {
                Some(Ok(Ok(result))) => result.map_err(Stopped::Failed),
                Some(Ok(Err(panic))) => Err(Stopped::Failed(Failure::panicked(&message_of(panic.as_ref())))),
                Some(Err(_)) => Err(Stopped::Failed(Failure::timed_out(timeout))),
                None => Err(Stopped::Cancelled { begun: true }),
            };
            Ran { result, queued: started - taken, run: started.elapsed() }
        })
        .collect();
    running.collect().await
}

/// Runs the items one after the other on a computing thread, or at once where their task says so.
///
/// A thread cannot be taken away from an item that exceeds its timeout: it is asked to stop, its outcome is written,
/// and its neighbours go on on another thread. Items that run at once exceed it at once.
async fn compute(worker: &Worker, work: &Arc<Work>) -> Vec<Ran> {
    let taken = Instant::now();
    let timeout = work.chunk().batch.timeout;
    let items = work.chunk().items.len();
    let mut ran: Vec<Ran> = Vec::with_capacity(items);
    while ran.len() < items {
        let pass = Arc::new(Pass { first: ran.len(), taken, done: Mutex::default() });
        let running = worker.compute().run({
            let (work, pass) = (Arc::clone(work), Arc::clone(&pass));
            move |stop| if work.job.runs_together() { pass.run_together(&work, stop) } else { pass.run(&work, stop) }
        });
        tokio::select! {
            biased;
            // The item that is running ends when it next asks whether it should; nobody waits for it.
            () = work.cancelled.cancelled() => {
                let (mut ended, was_running) = pass.take();
                ran.append(&mut ended);
                let begun = ran.len() + usize::from(was_running);
                while ran.len() < items {
                    ran.push(Ran::cancelled(ran.len() < begun));
                }
            }
            finished = running => {
                ran.append(&mut pass.take().0);
                // Items catch their own panics; one that comes through is in our own few lines, and ends the chunk.
                if let Err(panicked) = finished {
                    ran.resize_with(items, || Ran::failed(Failure::panicked(&panicked.0)));
                }
            }
            mut ended = pass.overdue(timeout) => {
                ran.append(&mut ended);
                let ended = if work.job.runs_together() { items } else { ran.len() + 1 };
                ran.resize_with(ended, || Ran { run: timeout, ..Ran::failed(Failure::timed_out(timeout)) });
            }
        }
    }
    ran
}

impl Ran {
    fn cancelled(begun: bool) -> Self {
        Self { result: Err(Stopped::Cancelled { begun }), queued: Duration::ZERO, run: Duration::ZERO }
    }

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
            let result = work.job.compute(&item.input, &Stop(stop)).map_err(Stopped::Failed);
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

    /// On the computing thread: runs all items at once. Each took its share of the time.
    fn run_together(&self, work: &Work, stop: &CancellationToken) {
        let inputs: Vec<&RawValue> = work.chunk().items[self.first..].iter().map(|item| &*item.input).collect();
        let started = Instant::now();
        self.lock().running_since = Some(started);
        let results = work.job.compute_together(&inputs, &Stop(stop));
        let share = started.elapsed() / u32::try_from(inputs.len()).unwrap_or(u32::MAX).max(1);
        let queued = started - self.taken;
        let mut done = self.lock();
        if !done.is_taken {
            let results = results.into_iter().map(|result| result.map_err(Stopped::Failed));
            done.ran.extend(results.map(|result| Ran { result, queued, run: share }));
            done.running_since = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The results, and whether one more item is running; whatever ends from now on is late.
    fn take(&self) -> (Vec<Ran>, bool) {
        let mut done = self.lock();
        done.is_taken = true;
        (std::mem::take(&mut done.ran), done.running_since.is_some())
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
