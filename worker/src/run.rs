//! Run: a chunk's items on the engine that their task asks for.

#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::value::RawValue;
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::compute::{Pool, message_of};
use tidemill_core::failure::Failure;
use tidemill_core::lock::lock;
use tidemill_core::outcome::{Maker, Status};
use tidemill_core::task::{Engine, Stop, Tools, Waiting, raw};
use tidemill_core::telemetry::events::ChunkFinished;
use tidemill_core::wire;
use tokio_util::sync::CancellationToken;

use crate::decide::{Ran, Stopped, Verdict, decide};
use crate::decode::Work;
use crate::{Tally, Worker};

/// Input and output of an item that fit into a message, with all that stands beside them in an outcome.
const OUTCOME_BYTES: usize = wire::MAX_BYTES - (256 << 10);

/// Runs every item and says what the delivery came to. Dropping the future ends them all.
pub(crate) async fn run(worker: &Worker, work: Work) -> Verdict {
    let maker = Arc::new(Maker { worker: worker.setup.name.clone(), device: work.job.device() });
    let work = Arc::new(work);
    let started = Instant::now();
    let mut ran = match work.job.engine() {
        Engine::Compute => compute(worker, &work).await,
        Engine::Wait(_) => wait(worker, &work).await,
    };
    for (ran, item) in ran.iter_mut().zip(&work.chunk().items) {
        let bytes = ran.result.as_ref().map_or(0, |output| output.get().len());
        let most = match worker.setup.max_output_bytes {
            // Within one process nothing travels.
            usize::MAX => usize::MAX,
            most => most.min(OUTCOME_BYTES.saturating_sub(item.input.get().len())),
        };
        if bytes > most {
            ran.result = Err(Stopped::Failed(too_large(bytes, most)));
        }
    }
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

fn too_large(bytes: usize, most: usize) -> Failure {
    Failure::permanent(
        "too_large",
        format!("its output of {bytes} bytes is larger than the {most} that travel in a message"),
    )
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
    let (timeout, priority) = (work.chunk().batch.timeout, work.chunk().batch.priority);
    let running: FuturesOrdered<_> = work
        .chunk()
        .items
        .iter()
        .map(|item| async move {
            let _hand = work.cancelled.run_until_cancelled(worker.hands.take(work.job.engine(), priority)).await;
            // A panicking item leaves nothing behind: its input was its own, job and tools are read only.
            let notepad = worker.notes.of(&work.chunk().batch.id, item.index);
            let compute = worker.compute().apart();
            let tools = Tools { notepad, priority, compute: compute.clone(), ..worker.tools.clone() };
            let ready = AssertUnwindSafe(|| work.job.wait(&input_of(item), tools));
            let Waiting { room, running } = match std::panic::catch_unwind(ready) {
                Ok(waiting) => waiting,
                Err(panic) => return Ran::failed(Failure::panicked(&message_of(panic.as_ref()))),
            };
            let _room = work.cancelled.run_until_cancelled(worker.room.take(room)).await;
            let started = Instant::now();
            if work.cancelled.is_cancelled() {
                return Ran::cancelled(false);
            }
            if work.is_expired() {
                return Ran::expired();
            }
            let attempt = tokio::time::timeout(timeout, AssertUnwindSafe(running).catch_unwind());
            let result = match work.cancelled.run_until_cancelled(attempt).await {
                Some(Ok(Ok(result))) => result.map_err(Stopped::Failed),
                Some(Ok(Err(panic))) => Err(Stopped::Failed(Failure::panicked(&message_of(panic.as_ref())))),
                // What it computes was asked to stop when the future was dropped.
                Some(Err(_)) => Err(late(worker, compute.left(), timeout).await),
                None => {
                    if compute.left().now_or_never().is_none() {
                        watch(worker, async move { compute.left().await });
                    }
                    Err(Stopped::Cancelled { begun: true })
                }
            };
            Ran { result, queued: started - taken, run: started.elapsed() }
        })
        .collect();
    running.collect().await
}

/// What a go over a chunk's items ended with.
enum Went {
    /// Its batch was cancelled.
    Cancelled,
    /// All ran.
    Through(Result<(), tidemill_core::compute::Panicked>),
    /// One (or all at once) took too long; the results of those before it.
    Overdue(Vec<Ran>),
}

/// Runs the items one after the other on a computing thread, or at once where their task says so.
///
/// A thread cannot be taken away from an item that exceeds its timeout: it is asked to stop, its outcome is written,
/// and its neighbours go on on another thread. Items that run at once exceed it at once. One that does not stop when it
/// is asked is dead, and its thread is lost.
async fn compute(worker: &Worker, work: &Arc<Work>) -> Vec<Ran> {
    let taken = Instant::now();
    let timeout = work.chunk().batch.timeout;
    let items = work.chunk().items.len();
    let at_once = if work.job.runs_together() { items } else { 1 };
    let mut ran: Vec<Ran> = Vec::with_capacity(items);
    while ran.len() < items {
        if work.cancelled.is_cancelled() {
            ran.resize_with(items, || Ran::cancelled(false));
            break;
        }
        let pass = Arc::new(Pass { first: ran.len(), taken, done: Mutex::default(), left: CancellationToken::new() });
        let running = worker.compute().run({
            let (work, pass) = (Arc::clone(work), Arc::clone(&pass));
            move |stop| {
                let _left = pass.left.clone().drop_guard();
                if work.job.runs_together() { pass.run_together(&work, stop) } else { pass.run(&work, stop) }
            }
        });
        // Whatever it ends with, nobody awaits `running` after this: that asks the item to stop.
        let went = tokio::select! {
            biased;
            () = work.cancelled.cancelled() => Went::Cancelled,
            finished = running => Went::Through(finished),
            ended = pass.overdue(timeout) => Went::Overdue(ended),
        };
        match went {
            Went::Cancelled => {
                let (mut ended, was_running) = pass.take();
                ran.append(&mut ended);
                if was_running {
                    watch(worker, async move { pass.left.cancelled().await });
                }
                let begun = if was_running { ran.len() + at_once } else { ran.len() };
                while ran.len() < items {
                    ran.push(Ran::cancelled(ran.len() < begun));
                }
            }
            Went::Through(finished) => {
                ran.append(&mut pass.take().0);
                // Items catch their own panics; one that comes through is in our own few lines, and ends the chunk.
                if let Err(panicked) = finished {
                    let failure = Failure::from(panicked);
                    ran.resize_with(items, || Ran::failed(failure.clone()));
                }
            }
            Went::Overdue(mut ended) => {
                ran.append(&mut ended);
                let stopped = late(worker, pass.left.cancelled(), timeout).await;
                ran.resize_with(ran.len() + at_once, || Ran { run: timeout, ..Ran::stopped(stopped.clone()) });
            }
        }
    }
    ran
}

/// What becomes of an item that exceeded its timeout and was asked to stop. `left`: its thread is free.
async fn late(worker: &Worker, left: impl Future<Output = ()>, timeout: Duration) -> Stopped {
    let patience = worker.setup.stuck_after;
    if leaves(left, patience, worker.compute(), &worker.tally).await {
        return Stopped::Failed(Failure::timed_out(timeout));
    }
    Stopped::Stuck(Failure::permanent(
        "stuck",
        format!("it did not end within {patience:?} after its timeout of {timeout:?}, though it was asked to stop"),
    ))
}

/// Finds out whether an item of a cancelled batch gives its thread back. Its outcome does not wait for that, and it has more
/// time than one that is overdue: a cancel alone is no sign that something is wrong.
fn watch(worker: &Worker, left: impl Future<Output = ()> + Send + 'static) {
    let (patience, pool, tally) = (6 * worker.setup.stuck_after, worker.compute().clone(), Arc::clone(&worker.tally));
    tokio::spawn(async move { leaves(left, patience, &pool, &tally).await });
}

/// Whether the thread leaves an item that was asked to stop; if not, it is lost, and its neighbours get new ones.
async fn leaves(left: impl Future<Output = ()>, patience: Duration, pool: &Pool, tally: &Tally) -> bool {
    if tokio::time::timeout(patience, left).await.is_ok() {
        return true;
    }
    tracing::error!("an item keeps its thread: it goes on {patience:?} after it was asked to stop");
    if let Err(error) = pool.renew() {
        tracing::error!(%error, "its neighbours wait for the threads that are left");
    }
    tally.threads_lost.cancel();
    false
}

/// The input that the task is given: where the worker finds the bytes elsewhere, with that place for the path.
fn input_of(item: &Item) -> Cow<'_, RawValue> {
    let Some(source) = &item.source else { return Cow::Borrowed(&item.input) };
    // A path stands by itself or as the field `path`; the producer names a source for nothing else.
    match serde_json::from_str::<serde_json::Value>(item.input.get()) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.insert("path".into(), (**source).into());
            Cow::Owned(raw(&fields))
        }
        _ => Cow::Owned(raw(&**source)),
    }
}

impl Ran {
    fn cancelled(begun: bool) -> Self {
        Self { result: Err(Stopped::Cancelled { begun }), queued: Duration::ZERO, run: Duration::ZERO }
    }

    fn failed(failure: Failure) -> Self {
        Self::stopped(Stopped::Failed(failure))
    }

    fn expired() -> Self {
        Self::stopped(Stopped::Expired)
    }

    fn stopped(stopped: Stopped) -> Self {
        Self { result: Err(stopped), queued: Duration::ZERO, run: Duration::ZERO }
    }
}

/// One go over a chunk's items, from `first` on. Its results are shared, so that they are there when it hangs.
struct Pass {
    first: usize,
    taken: Instant,
    done: Mutex<Done>,
    /// Cancelled when the computing thread has left it.
    left: CancellationToken,
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
        let Some(mut started) = self.begin() else { return };
        while let Some(item) = items.next() {
            let result = if work.is_expired() {
                Err(Stopped::Expired)
            } else {
                work.job.compute(&input_of(item), &Stop(stop)).map_err(Stopped::Failed)
            };
            let ended = Instant::now();
            let mut done = lock(&self.done);
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
        let items = &work.chunk().items[self.first..];
        let inputs: Vec<_> = items.iter().map(input_of).collect();
        let inputs: Vec<&RawValue> = inputs.iter().map(AsRef::as_ref).collect();
        let Some(started) = self.begin() else { return };
        let results = if work.is_expired() {
            inputs.iter().map(|_| Err(Stopped::Expired)).collect()
        } else {
            let results = work.job.compute_together(&inputs, &Stop(stop)).into_iter();
            results.map(|result| result.map_err(Stopped::Failed)).collect::<Vec<_>>()
        };
        let share = started.elapsed() / u32::try_from(inputs.len()).unwrap_or(u32::MAX).max(1);
        let queued = started - self.taken;
        let mut done = lock(&self.done);
        if !done.is_taken {
            done.ran.extend(results.into_iter().map(|result| Ran { result, queued, run: share }));
            done.running_since = None;
        }
    }

    /// When its first item begins, which is now; `None` if nobody waits for it any more.
    fn begin(&self) -> Option<Instant> {
        let mut done = lock(&self.done);
        if !done.is_taken {
            done.running_since = Some(Instant::now());
        }
        done.running_since
    }

    /// The results, and whether one more item is running (or all of them); whatever ends from now on is late.
    fn take(&self) -> (Vec<Ran>, bool) {
        let mut done = lock(&self.done);
        done.is_taken = true;
        (std::mem::take(&mut done.ran), done.running_since.is_some())
    }

    /// Resolves when an item has been running for longer than `timeout`, with the results of those before it.
    async fn overdue(&self, timeout: Duration) -> Vec<Ran> {
        let mut wake = timeout;
        loop {
            tokio::time::sleep(wake).await;
            let mut done = lock(&self.done);
            wake = done.running_since.map_or(timeout, |since| timeout.saturating_sub(since.elapsed()));
            if wake.is_zero() {
                done.is_taken = true;
                return std::mem::take(&mut done.ran);
            }
        }
    }
}
