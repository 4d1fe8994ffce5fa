//! Run: a chunk's items on the engine that their task asks for.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::value::RawValue;
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Maker, Status};
use tidemill_core::task::{Engine, Stop, Waiting, raw};
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
    for ran in &mut ran {
        let bytes = ran.result.as_ref().map_or(0, |output| output.get().len());
        if bytes > worker.setup.max_output_bytes {
            ran.result = Err(Stopped::Failed(too_large(bytes, worker.setup.max_output_bytes)));
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
    let timeout = work.chunk().batch.timeout;
    let running: FuturesOrdered<_> = work
        .chunk()
        .items
        .iter()
        .map(|item| async move {
            // A panicking item leaves nothing behind: its input was its own, job and tools are read only.
            let ready = AssertUnwindSafe(|| work.job.wait(&input_of(item), worker.tools.clone()));
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
                Some(Err(_)) => Err(Stopped::Failed(Failure::timed_out(timeout))),
                None => Err(Stopped::Cancelled { begun: true }),
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
                let begun = if was_running { ran.len() + at_once } else { ran.len() };
                while ran.len() < items {
                    ran.push(Ran::cancelled(ran.len() < begun));
                }
            }
            Went::Through(finished) => {
                ran.append(&mut pass.take().0);
                // Items catch their own panics; one that comes through is in our own few lines, and ends the chunk.
                if let Err(panicked) = finished {
                    ran.resize_with(items, || Ran::failed(Failure::panicked(&panicked.0)));
                }
            }
            Went::Overdue(mut ended) => {
                ran.append(&mut ended);
                let stopped = late(worker, &pass, timeout).await;
                ran.resize_with(ran.len() + at_once, || Ran { run: timeout, ..Ran::stopped(stopped.clone()) });
            }
        }
    }
    ran
}

/// What becomes of an item that exceeded its timeout and was asked to stop.
async fn late(worker: &Worker, pass: &Pass, timeout: Duration) -> Stopped {
    let patience = worker.setup.stuck_after;
    if tokio::time::timeout(patience, pass.left.cancelled()).await.is_ok() {
        return Stopped::Failed(Failure::timed_out(timeout));
    }
    tracing::error!(
        "an item keeps its thread: it goes on {patience:?} after its timeout of {timeout:?} and after it was asked to stop"
    );
    if let Err(error) = worker.compute().renew() {
        tracing::error!(%error, "its neighbours wait for the threads that are left");
    }
    worker.tally.threads_lost.cancel();
    Stopped::Stuck(Failure::permanent(
        "stuck",
        format!("it did not end within {patience:?} after its timeout of {timeout:?}, though it was asked to stop"),
    ))
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
        let mut started = Instant::now();
        self.lock().running_since = Some(started);
        while let Some(item) = items.next() {
            let result = if work.is_expired() {
                Err(Stopped::Expired)
            } else {
                work.job.compute(&input_of(item), &Stop(stop)).map_err(Stopped::Failed)
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

    /// On the computing thread: runs all items at once. Each took its share of the time.
    fn run_together(&self, work: &Work, stop: &CancellationToken) {
        let items = &work.chunk().items[self.first..];
        let inputs: Vec<_> = items.iter().map(input_of).collect();
        let inputs: Vec<&RawValue> = inputs.iter().map(AsRef::as_ref).collect();
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

    /// The results, and whether one more item is running (or all of them); whatever ends from now on is late.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use schemars::JsonSchema;
    use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
    use tidemill_core::blobs::{Blobs, FetchLimits};
    use tidemill_core::broker::embedded::Embedded;
    use tidemill_core::broker::{Body, Message};
    use tidemill_core::compute::Pool;
    use tidemill_core::outcome::Outcome;
    use tidemill_core::retry::RetryPolicy;
    use tidemill_core::task::{About, Arguments, Compute, Cost, Invalid, Lane, Register, Task, Tools, Wait};
    use tokio::sync::Notify;

    use super::*;
    use crate::{OwnNetworks, Setup};

    /// Gives back the numbers of a chunk, all at once; 13 is bad luck, and 0 keeps the whole chunk waiting.
    #[derive(Default)]
    struct Together {
        runs: AtomicU32,
        begun: Notify,
    }

    /// The task, shared with its test.
    struct Shared(Arc<Together>);

    #[derive(serde::Deserialize, JsonSchema)]
    struct Options {}

    impl Task for Shared {
        type Input = u64;
        type Options = Options;
        type Output = u64;
        type Plan = ();

        fn about(&self) -> About {
            About {
                name: "test.together",
                summary: "",
                details: "",
                examples: &[],
                arguments: Arguments::Values,
                makes_files: false,
            }
        }

        fn plan(&self, _options: Options) -> Result<(), Invalid> {
            Ok(())
        }

        fn cost(&self, (): &()) -> Cost {
            Cost::micros(1)
        }
    }

    impl Compute for Shared {
        fn run(&self, (): &(), number: u64, _stop: &Stop<'_>) -> Result<u64, Failure> {
            panic!("{number} runs alone")
        }

        fn runs_together(&self, (): &()) -> bool {
            true
        }

        fn run_together(&self, (): &(), numbers: Vec<u64>, stop: &Stop<'_>) -> Vec<Result<u64, Failure>> {
            let Self(task) = self;
            task.runs.fetch_add(1, Ordering::SeqCst);
            task.begun.notify_one();
            while numbers.contains(&0) && !stop.is_asked() {
                std::thread::yield_now();
            }
            assert!(!numbers.contains(&666), "a number of the beast");
            let bad = || Failure::permanent("luck", "bad luck");
            numbers.into_iter().map(|number| if number == 13 { Err(bad()) } else { Ok(number) }).collect()
        }

        fn device(&self, (): &()) -> String {
            "cuda:7".into()
        }
    }

    fn sandbox(inputs: &[&str], timeout: Duration) -> (Worker, Work, Arc<Together>) {
        let task = Arc::new(Together::default());
        let (worker, work) = sandbox_of(Register::default().compute(Shared(Arc::clone(&task))), inputs, timeout);
        (worker, work, task)
    }

    /// A worker with one task, and a chunk of it.
    fn sandbox_of(register: Register, inputs: &[&str], timeout: Duration) -> (Worker, Work) {
        let kind = register.iter().next().unwrap();
        let job = kind.prepare(&raw(&serde_json::json!({}))).unwrap();
        let batch = Batch {
            id: BatchId::new(),
            task: kind.about().name.into(),
            options: raw(&serde_json::json!({})),
            retry: RetryPolicy { attempts: 1, base: Duration::ZERO, max: Duration::ZERO },
            timeout,
            priority: Priority(0),
            expires: None,
        };
        let item = |(index, input): (u64, &&str)| Item {
            index: ItemIndex(index),
            input: RawValue::from_string((*input).to_owned()).unwrap(),
            name: None,
            source: None,
        };
        let items = (0..).zip(inputs).map(item).collect();
        let chunk = Chunk { batch: Arc::new(batch), attempt: Attempt::FIRST, items };
        let message = Arc::new(Message::new(Body::Chunk(chunk), Priority(0)));
        let setup = Setup {
            name: "w".into(),
            lanes: vec![Lane::Cpu],
            permits: |_, _| 1,
            threads: 1,
            waiting: 1,
            grace: Duration::ZERO,
            stuck_after: LONG,
            max_output_bytes: usize::MAX,
            isolation: None,
            heartbeat: None,
            networks: OwnNetworks::default(),
        };
        let limits = FetchLimits { max_bytes: 1, timeout };
        let tools = Tools { compute: Pool::new(1).unwrap(), blobs: Blobs::without_store(limits) };
        let worker = Worker::new(setup, Arc::new(Embedded::new(1 << 20)), Arc::new(register), tools);
        (worker, Work { message, job, cancelled: CancellationToken::new() })
    }

    const LONG: Duration = Duration::from_secs(60);

    async fn outcomes(worker: &Worker, work: Work) -> Vec<Arc<Outcome>> {
        match run(worker, work).await {
            Verdict::Done { outcomes, again: None, .. } => outcomes,
            other => panic!("{other:?}"),
        }
    }

    fn kinds(outcomes: &[Arc<Outcome>]) -> Vec<&str> {
        outcomes.iter().map(|outcome| outcome.failure().map_or("", |failure| &failure.kind)).collect()
    }

    #[tokio::test]
    async fn items_that_run_together_run_once_and_a_bad_one_harms_only_itself() {
        let (worker, work, task) = sandbox(&["1", "\"two\"", "13", "4"], LONG);

        let outcomes = outcomes(&worker, work).await;

        assert_eq!(kinds(&outcomes), ["", "invalid_input", "luck", ""]);
        let last = outcomes[3].to_value();
        assert_eq!((&last["output"], &last["device"]), (&serde_json::json!(4), &serde_json::json!("cuda:7")));
        assert_eq!(task.runs.load(Ordering::SeqCst), 1);
        assert!(outcomes.iter().all(|outcome| outcome.run == outcomes[0].run), "each took its share");
    }

    #[tokio::test]
    async fn a_panic_among_items_that_run_together_ends_those_that_ran() {
        let (worker, work, _task) = sandbox(&["1", "666", "null"], LONG);

        assert_eq!(kinds(&outcomes(&worker, work).await), ["panic", "panic", "invalid_input"]);
    }

    #[tokio::test]
    async fn items_that_run_together_time_out_together() {
        let (worker, work, task) = sandbox(&["1", "0", "2"], Duration::from_millis(5));

        assert_eq!(kinds(&outcomes(&worker, work).await), ["timeout"; 3]);
        assert_eq!(task.runs.load(Ordering::SeqCst), 1, "nobody tried again");
    }

    #[tokio::test]
    async fn a_cancelled_batch_does_not_run_together() {
        let (worker, work, task) = sandbox(&["1", "2"], LONG);
        work.cancelled.cancel();

        let outcomes = outcomes(&worker, work).await;

        assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Cancelled));
        assert_eq!(task.runs.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn cancelling_ends_items_that_run_together() {
        let (worker, work, task) = sandbox(&["1", "0"], LONG);
        let cancelled = work.cancelled.clone();

        let (outcomes, ()) = tokio::join!(outcomes(&worker, work), async {
            task.begun.notified().await;
            cancelled.cancel();
        });

        assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Cancelled));
        assert!(outcomes.iter().all(|outcome| outcome.attempts == outcomes[0].attempts), "all had begun");
    }

    /// Takes room for as many as an input says, for ten seconds.
    #[derive(Default)]
    struct Roomy {
        inside: AtomicU32,
        most: AtomicU32,
        begun: Notify,
    }

    struct Guests(Arc<Roomy>);

    impl Task for Guests {
        type Input = u32;
        type Options = Options;
        type Output = u32;
        type Plan = ();

        fn about(&self) -> About {
            About {
                name: "test.roomy",
                summary: "",
                details: "",
                examples: &[],
                arguments: Arguments::Values,
                makes_files: false,
            }
        }

        fn plan(&self, _options: Options) -> Result<(), Invalid> {
            Ok(())
        }

        fn cost(&self, (): &()) -> Cost {
            Cost::micros(1)
        }
    }

    impl Wait for Guests {
        async fn run(self: Arc<Self>, _plan: Arc<()>, guests: u32, _tools: Tools) -> Result<u32, Failure> {
            let Self(house) = &*self;
            let inside = house.inside.fetch_add(guests, Ordering::SeqCst) + guests;
            house.most.fetch_max(inside, Ordering::SeqCst);
            house.begun.notify_one();
            tokio::time::sleep(Duration::from_secs(10)).await;
            house.inside.fetch_sub(guests, Ordering::SeqCst);
            Ok(guests)
        }

        fn room(&self, (): &(), guests: &u32) -> usize {
            *guests as usize
        }
    }

    #[tokio::test(start_paused = true)]
    async fn items_for_which_there_is_no_room_have_not_begun_and_their_timeout_neither() {
        let house = Arc::new(Roomy::default());
        let register = Register::default().wait(Guests(Arc::clone(&house)));
        let inputs = ["300", "300", "300", "1", "512", "200", "200", "0"];
        let (worker, work) = sandbox_of(register, &inputs, Duration::from_secs(15));

        let outcomes = outcomes(&worker, work).await;

        assert_eq!(kinds(&outcomes), [""; 8], "one after another they take longer than the timeout");
        assert_eq!(house.most.load(Ordering::SeqCst), 512);
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_that_needs_more_room_than_there_is_has_all_of_it() {
        let house = Arc::new(Roomy::default());
        let register = Register::default().wait(Guests(Arc::clone(&house)));
        let (worker, work) = sandbox_of(register, &["100000", "1"], LONG);

        assert_eq!(kinds(&outcomes(&worker, work).await), ["", ""]);
        assert_eq!(house.most.load(Ordering::SeqCst), 100_000, "the other came after it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_item_that_waited_for_room_has_not_begun() {
        let house = Arc::new(Roomy::default());
        let register = Register::default().wait(Guests(Arc::clone(&house)));
        let (worker, work) = sandbox_of(register, &["512", "512"], LONG);
        let cancelled = work.cancelled.clone();

        let (outcomes, ()) = tokio::join!(outcomes(&worker, work), async {
            house.begun.notified().await;
            cancelled.cancel();
        });

        assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Cancelled));
        assert_eq!(outcomes.iter().map(|outcome| outcome.attempts.0).collect::<Vec<_>>(), [1, 0]);
    }
}
