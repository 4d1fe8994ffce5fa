use std::sync::atomic::{AtomicU32, Ordering};

use schemars::JsonSchema;
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority, unix_millis};
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Body, Heartbeat, Message, Permits, Queue, Settlement};
use tidemill_core::compute::Pool;
use tidemill_core::notes::Note;
use tidemill_core::outcome::Outcome;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::task::{About, Arguments, Compute, Cost, Hands, Invalid, Lane, Register, Task, Wait};
use tokio::sync::Notify;

use super::*;
use crate::{OwnNetworks, Setup};

/// A task that only tests know.
pub(crate) fn about(name: &'static str) -> About {
    About { name, summary: "", details: "", examples: &[], arguments: Arguments::Values, makes_files: false }
}

/// Gives back the numbers of a chunk, all at once; 13 is bad luck, and 0 keeps the whole chunk waiting.
#[derive(Default)]
struct Together {
    runs: AtomicU32,
    begun: Notify,
}

/// The task, shared with its test.
struct Shared(Arc<Together>);

#[derive(serde::Deserialize, JsonSchema)]
pub(crate) struct Options {}

impl Task for Shared {
    type Input = u64;
    type Options = Options;
    type Output = u64;
    type Plan = ();

    fn about(&self) -> About {
        about("test.together")
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

/// A worker with nothing to do.
pub(crate) fn idle() -> Worker {
    sandbox(&["1"], LONG).0
}

/// A worker with one task, and a chunk of it.
pub(crate) fn sandbox_of(register: Register, inputs: &[&str], timeout: Duration) -> (Worker, Work) {
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
    let tools = Tools::new(Pool::new(1).unwrap(), Blobs::without_store(limits));
    let worker = Worker::new(setup, Arc::new(Embedded::new(1 << 20)), Arc::new(register), tools);
    (worker, Work { message, job, cancelled: Arc::default() })
}

pub(crate) const LONG: Duration = Duration::from_secs(60);

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
async fn a_batch_whose_time_is_over_does_not_run_together() {
    let (worker, mut work, task) = sandbox(&["1", "2"], LONG);
    let chunk = work.chunk().clone();
    let batch = Batch { expires: Some(unix_millis()), ..(*chunk.batch).clone() };
    work.message = Arc::new(Message::new(Body::Chunk(Chunk { batch: Arc::new(batch), ..chunk }), Priority(0)));

    let outcomes = outcomes(&worker, work).await;

    assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Expired && outcome.attempts.0 == 0));
    assert_eq!(task.runs.load(Ordering::SeqCst), 0);
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

/// Keeps its thread until the other side of a channel is dropped, whatever it is asked.
struct Obstinate {
    begun: Arc<Notify>,
    held: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Task for Obstinate {
    type Input = u64;
    type Options = Options;
    type Output = u64;
    type Plan = ();

    fn about(&self) -> About {
        about("test.obstinate")
    }

    fn plan(&self, _options: Options) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Compute for Obstinate {
    fn run(&self, (): &(), number: u64, _stop: &Stop<'_>) -> Result<u64, Failure> {
        self.begun.notify_one();
        self.held.lock().unwrap().recv().unwrap_or_default();
        Ok(number)
    }
}

#[tokio::test]
async fn an_item_of_a_cancelled_batch_that_keeps_its_thread_is_found_out() {
    let (let_go, held) = std::sync::mpsc::channel();
    let begun = Arc::new(Notify::new());
    let task = Obstinate { begun: Arc::clone(&begun), held: Mutex::new(held) };
    let (mut worker, work) = sandbox_of(Register::default().compute(task), &["1", "2"], LONG);
    worker.setup = Arc::new(Setup { stuck_after: Duration::from_millis(5), ..(*worker.setup).clone() });
    let cancelled = work.cancelled.clone();

    let (outcomes, ()) = tokio::join!(outcomes(&worker, work), async {
        begun.notified().await;
        cancelled.cancel();
    });

    assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Cancelled), "nobody waits for the thread");
    worker.tally.threads_lost.cancelled().await;
    assert_eq!(worker.compute().run(|_| 7).await, Ok(7), "there is another thread");
    drop(let_go);
}

/// The same of a task that waits: it is the thread that computes for it which is kept.
struct Stubborn(Obstinate);

impl Task for Stubborn {
    type Input = u64;
    type Options = Options;
    type Output = u64;
    type Plan = ();

    fn about(&self) -> About {
        about("test.stubborn")
    }

    fn plan(&self, _options: Options) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Wait for Stubborn {
    async fn run(self: Arc<Self>, _plan: Arc<()>, number: u64, tools: Tools) -> Result<u64, Failure> {
        let computing = tools.compute.run(move |stop| self.0.run(&(), number, &Stop(stop)));
        computing.await?
    }
}

#[tokio::test]
async fn what_a_waiting_item_computes_and_does_not_end_is_found_out() {
    for (timeout, is_cancelled, kind) in [(Duration::from_millis(5), false, "stuck"), (LONG, true, "")] {
        let (let_go, held) = std::sync::mpsc::channel();
        let begun = Arc::new(Notify::new());
        let task = Stubborn(Obstinate { begun: Arc::clone(&begun), held: Mutex::new(held) });
        let (mut worker, work) = sandbox_of(Register::default().wait(task), &["1"], timeout);
        worker.setup = Arc::new(Setup { stuck_after: Duration::from_millis(5), ..(*worker.setup).clone() });
        let cancelled = work.cancelled.clone();

        let (outcomes, ()) = tokio::join!(outcomes(&worker, work), async {
            begun.notified().await;
            if is_cancelled {
                cancelled.cancel();
            }
        });

        let status = if is_cancelled { Status::Cancelled } else { Status::Dead };
        assert_eq!((outcomes[0].status(), kinds(&outcomes)), (status, vec![kind]));
        worker.tally.threads_lost.cancelled().await;
        assert_eq!(worker.compute().run(|_| 7).await, Ok(7), "there is another thread");
        drop(let_go);
    }
}

/// Takes room for as many as an input says, for ten seconds.
#[derive(Default)]
struct Roomy {
    inside: AtomicU32,
    most: AtomicU32,
    begun: Notify,
}

struct Guests(Arc<Roomy>, Hands);

impl Task for Guests {
    type Input = u32;
    type Options = Options;
    type Output = u32;
    type Plan = ();

    fn about(&self) -> About {
        about("test.roomy")
    }

    fn plan(&self, _options: Options) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Wait for Guests {
    async fn run(self: Arc<Self>, _plan: Arc<()>, guests: u32, tools: Tools) -> Result<u32, Failure> {
        let Self(house, _) = &*self;
        let inside = house.inside.fetch_add(guests, Ordering::SeqCst) + guests;
        house.most.fetch_max(inside, Ordering::SeqCst);
        tools.notepad.write(&format!("{guests} guests"));
        house.begun.notify_one();
        tokio::time::sleep(Duration::from_secs(10)).await;
        house.inside.fetch_sub(guests, Ordering::SeqCst);
        Ok(guests)
    }

    fn hands(&self, (): &()) -> Hands {
        self.1
    }

    fn room(&self, (): &(), guests: &u32) -> usize {
        *guests as usize
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_items_are_in_hand_than_their_task_asks_for_however_many_are_in_a_chunk() {
    for (hands, most) in [(Hands::PerCore(3), 3), (Hands::PerCore(1), 1), (Hands::Many, 8)] {
        let house = Arc::new(Roomy::default());
        let register = Register::default().wait(Guests(Arc::clone(&house), hands));
        let (worker, work) = sandbox_of(register, &["1"; 8], Duration::from_secs(15));

        let outcomes = outcomes(&worker, work).await;

        assert_eq!(kinds(&outcomes), [""; 8], "{hands:?}: those that waited for a hand had not begun");
        assert_eq!(house.most.load(Ordering::SeqCst), most, "{hands:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_of_a_priority_does_not_wait_for_hands_that_others_have() {
    let house = Arc::new(Roomy::default());
    let register = Register::default().wait(Guests(Arc::clone(&house), Hands::PerCore(1)));
    let (worker, usual) = sandbox_of(register, &["1"; 8], LONG);
    let mut chunk = usual.chunk().clone();
    chunk.batch = Arc::new(Batch { id: BatchId::new(), priority: Priority(9), ..Batch::clone(&chunk.batch) });
    chunk.items.truncate(2);
    let message = Arc::new(Message::new(Body::Chunk(chunk), Priority(9)));
    let first = Work { message, job: Arc::clone(&usual.job), cancelled: Arc::default() };
    let began = tokio::time::Instant::now();
    let timed = async |work| (outcomes(&worker, work).await, began.elapsed().as_secs());

    let ((usual, usual_took), (first, first_took)) = tokio::join!(timed(usual), timed(first));

    assert_eq!((kinds(&usual), kinds(&first)), (vec![""; 8], vec![""; 2]));
    assert_eq!((usual_took, first_took), (80, 20), "one after another, of either");
}

#[tokio::test(start_paused = true)]
async fn items_for_which_there_is_no_room_have_not_begun_and_their_timeout_neither() {
    let house = Arc::new(Roomy::default());
    let register = Register::default().wait(Guests(Arc::clone(&house), Hands::Many));
    let inputs = ["300", "300", "300", "1", "512", "200", "200", "0"];
    let (worker, work) = sandbox_of(register, &inputs, Duration::from_secs(15));

    let outcomes = outcomes(&worker, work).await;

    assert_eq!(kinds(&outcomes), [""; 8], "one after another they take longer than the timeout");
    assert_eq!(house.most.load(Ordering::SeqCst), 512);
}

#[tokio::test(start_paused = true)]
async fn how_far_an_item_has_come_goes_along_with_heartbeats_until_it_is_done() {
    let house = Arc::new(Roomy::default());
    let register = Register::default().wait(Guests(Arc::clone(&house), Hands::Many));
    let (worker, work) = sandbox_of(register, &["3"], LONG);
    let batch = work.chunk().batch.id.clone();
    let beats = worker.broker.consume(Queue::Workers, Permits(1), CancellationToken::new()).await.unwrap();
    let beats = tokio::sync::Mutex::new(beats);
    let notes = async || {
        worker.say(&Heartbeat::default(), 0, false).await.unwrap();
        let beat = beats.lock().await.next().await.unwrap();
        let Body::Heartbeat(Heartbeat { notes, .. }) = beat.message.body.clone() else { panic!("{beat:?}") };
        beat.settle(Settlement::Ack).await.unwrap();
        notes
    };

    let (_, within) = tokio::join!(run(&worker, work), async {
        house.begun.notified().await;
        notes().await
    });

    assert_eq!(within, [Note { batch, index: ItemIndex(0), text: "3 guests".to_owned() }]);
    assert_eq!(notes().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_needs_more_room_than_there_is_has_all_of_it() {
    let house = Arc::new(Roomy::default());
    let register = Register::default().wait(Guests(Arc::clone(&house), Hands::Many));
    let (worker, work) = sandbox_of(register, &["100000", "1"], LONG);

    assert_eq!(kinds(&outcomes(&worker, work).await), ["", ""]);
    assert_eq!(house.most.load(Ordering::SeqCst), 100_000, "the other came after it");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_item_that_waited_for_room_has_not_begun() {
    let house = Arc::new(Roomy::default());
    let register = Register::default().wait(Guests(Arc::clone(&house), Hands::Many));
    let (worker, work) = sandbox_of(register, &["512", "512"], LONG);
    let cancelled = work.cancelled.clone();

    let (outcomes, ()) = tokio::join!(outcomes(&worker, work), async {
        house.begun.notified().await;
        cancelled.cancel();
    });

    assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Cancelled));
    assert_eq!(outcomes.iter().map(|outcome| outcome.attempts.0).collect::<Vec<_>>(), [1, 0]);
}

/// Keeps its thread until a moment, in milliseconds since 1970; gives it back, and some text behind it.
struct Until;

#[derive(serde::Deserialize, serde::Serialize, JsonSchema)]
struct Moment {
    at: u64,
    #[serde(default)]
    text: String,
}

impl Task for Until {
    type Input = Moment;
    type Options = Options;
    type Output = Moment;
    type Plan = ();

    fn about(&self) -> About {
        about("test.until")
    }

    fn plan(&self, _options: Options) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Compute for Until {
    fn run(&self, (): &(), moment: Moment, stop: &Stop<'_>) -> Result<Moment, Failure> {
        while unix_millis() < moment.at && !stop.is_asked() {
            std::thread::yield_now();
        }
        Ok(Moment { text: moment.text.repeat(2), ..moment })
    }
}

#[tokio::test]
async fn items_whose_batchs_time_is_over_in_the_middle_of_their_chunk_are_expired_and_those_before_are_not() {
    // Time enough to begin.
    let over = unix_millis() + 1500;
    let first = format!("{{\"at\":{over}}}");
    let inputs = ["{\"at\":0}", &first, "{\"at\":0}", "{\"at\":0}"];
    let (worker, mut work) = sandbox_of(Register::default().compute(Until), &inputs, LONG);
    let chunk = work.chunk().clone();
    let batch = Batch { expires: Some(over), ..(*chunk.batch).clone() };
    let chunk = Chunk { batch: Arc::new(batch), ..chunk };
    work.message = Arc::new(Message::new(Body::Chunk(chunk), Priority(0)));

    let outcomes = outcomes(&worker, work).await;

    let ended: Vec<(Status, u32)> = outcomes.iter().map(|outcome| (outcome.status(), outcome.attempts.0)).collect();
    let (ok, expired) = ((Status::Ok, 1), (Status::Expired, 0));
    assert_eq!(ended, [ok, ok, expired, expired]);
}

#[tokio::test]
async fn an_output_that_does_not_fit_into_a_message_fails_and_its_neighbours_do_not() {
    let input = |bytes: usize| format!("{{\"at\":0,\"text\":\"{}\"}}", "x".repeat(bytes));
    let most = 2 * 1000 + "{\"at\":0,\"text\":\"\"}".len();
    // Beside its input it would not fit, though alone it would.
    let inputs = [input(1000), input(1001), input(OUTCOME_BYTES / 3), input(1)];
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    for (max_output_bytes, kinds_then) in [
        (most, ["", "too_large", "too_large", ""]),
        (OUTCOME_BYTES, ["", "", "too_large", ""]),
        // Nothing travels.
        (usize::MAX, [""; 4]),
    ] {
        let (mut worker, work) = sandbox_of(Register::default().compute(Until), &inputs, LONG);
        worker.setup = Arc::new(Setup { max_output_bytes, ..(*worker.setup).clone() });

        let outcomes = outcomes(&worker, work).await;

        assert_eq!(kinds(&outcomes), kinds_then, "{max_output_bytes}");
        if let Some(failure) = outcomes[1].failure() {
            let why = format!("its output of {} bytes is larger than the {most} that travel", most + 2);
            assert!(failure.message.starts_with(&why) && !failure.retryable, "{failure:?}");
        }
    }
}
