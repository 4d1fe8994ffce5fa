use async_trait::async_trait;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tidemill_core::batch::{Attempt, Batch, BatchId, Priority};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{
    Body, Broker, BrokerError, Deliveries, Heartbeat, Message, Notice, Notices, Permits, Settle, Settlement,
};
use tidemill_core::outcome::Status;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::task::{About, Cost, Invalid, Register, Task, Tools, Wait, raw};

use super::*;
use crate::run::tests::{LONG, Options, about, sandbox_of};
use crate::{Ended, Setup};

const JOBS: Queue = Queue::Jobs(Lane::Cpu);
const SUSPECTS: Queue = Queue::Suspects(Lane::Cpu);

/// Sleeps for so many seconds.
struct Sleep;

impl Task for Sleep {
    type Input = u64;
    type Options = Options;
    type Output = u64;
    type Plan = ();

    fn about(&self) -> About {
        about("test.sleep")
    }

    fn plan(&self, _options: Options) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Wait for Sleep {
    async fn run(self: Arc<Self>, _plan: Arc<()>, seconds: u64, _tools: Tools) -> Result<u64, Failure> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(seconds)
    }
}

/// A broker that can go away: then nothing that is published is ever accepted.
#[derive(Debug)]
struct Leaving {
    inner: Embedded,
    gone: CancellationToken,
}

#[async_trait]
impl Broker for Leaving {
    async fn publish(&self, queue: Queue, message: Message) -> Result<(), BrokerError> {
        if self.gone.is_cancelled() {
            return std::future::pending().await;
        }
        self.inner.publish(queue, message).await
    }

    async fn consume(
        &self,
        queue: Queue,
        permits: Permits,
        stop: CancellationToken,
    ) -> Result<Deliveries, BrokerError> {
        self.inner.consume(queue, permits, stop).await
    }

    async fn take_one(&self, queue: Queue) -> Result<Option<Delivery>, BrokerError> {
        self.inner.take_one(queue).await
    }

    async fn depth(&self, queue: Queue) -> Result<u64, BrokerError> {
        self.inner.depth(queue).await
    }

    async fn announce(&self, notice: Notice) -> Result<(), BrokerError> {
        if self.gone.is_cancelled() {
            return std::future::pending().await;
        }
        self.inner.announce(notice).await
    }

    async fn notices(&self) -> Result<Notices, BrokerError> {
        self.inner.notices().await
    }
}

/// A worker that isolates suspects, its broker, and what takes the broker away.
fn sandbox(grace: Duration) -> (Worker, Arc<Leaving>) {
    let (worker, _) = sandbox_of(Register::default().wait(Sleep), &["0"], LONG);
    let gone = CancellationToken::new();
    let broker = Arc::new(Leaving { inner: Embedded::new(1 << 20), gone });
    let mut setup = (*worker.setup).clone();
    setup.permits = |_, _| 8;
    setup.grace = grace;
    setup.isolation = Some(Isolation { suspect_after: 2, crash_limit: 3 });
    setup.heartbeat = Some(Heartbeat { every: 5000, ..Heartbeat::default() });
    let (register, tools) = (Arc::clone(&worker.register), worker.tools.clone());
    (Worker::new(setup, Arc::<Leaving>::clone(&broker), register, tools), broker)
}

/// Another worker like it, with the same broker.
fn beside(worker: &Worker) -> Worker {
    let (register, tools) = (Arc::clone(&worker.register), worker.tools.clone());
    Worker::new((*worker.setup).clone(), Arc::clone(&worker.broker), register, tools)
}

/// A chunk of one item.
fn sleep(seconds: u64) -> Message {
    let batch = Batch {
        id: BatchId::new(),
        task: "test.sleep".into(),
        options: raw(&serde_json::json!({})),
        retry: RetryPolicy { attempts: 1, base: Duration::ZERO, max: Duration::ZERO },
        timeout: Duration::from_secs(3600),
        priority: Priority(0),
        expires: None,
    };
    let item = Item { index: ItemIndex(0), input: raw(&seconds), name: None, source: None };
    let chunk = Chunk { batch: Arc::new(batch), attempt: Attempt::FIRST, items: vec![item] };
    Message::new(Body::Chunk(chunk), Priority(0))
}

fn batch_of(message: &Message) -> BatchId {
    message.body.batch().unwrap().clone()
}

/// Resolves when nothing waits there any more.
async fn until_taken(broker: &Leaving, queue: Queue) {
    while broker.depth(queue).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Puts a chunk among the suspects, where it is handed out so often without an end.
async fn handed_out(broker: &Leaving, message: Message, times: u32) {
    broker.publish(SUSPECTS, message).await.unwrap();
    for _ in 0..times {
        let delivery = broker.take_one(SUSPECTS).await.unwrap().unwrap();
        delivery.settle(Settlement::Requeue).await.unwrap();
    }
}

/// The next outcomes: of which batch they are, and how its items ended.
async fn ended(results: &mut Deliveries) -> (BatchId, Vec<Status>) {
    let delivery = results.next().await.unwrap();
    let Body::Outcomes { batch, outcomes } = &delivery.message.body else { panic!("{delivery:?}") };
    let ended = (batch.clone(), outcomes.iter().map(|outcome| outcome.status()).collect());
    delivery.settle(Settlement::Ack).await.unwrap();
    ended
}

async fn outcome(results: &mut Deliveries) -> usize {
    ended(results).await.1.len()
}

#[tokio::test(start_paused = true)]
async fn other_work_goes_on_while_a_suspect_waits_for_a_long_item() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    broker.publish(JOBS, sleep(300)).await.unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    until_taken(&broker, JOBS).await;
    broker.publish(SUSPECTS, sleep(0)).await.unwrap();

    let begun = Instant::now();
    for _ in 0..100 {
        // One a second, also in the midst of what the suspect has for itself.
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.publish(JOBS, sleep(0)).await.unwrap();
    }
    for _ in 0..100 {
        assert_eq!(outcome(&mut results).await, 1);
    }
    assert!(begun.elapsed() < Duration::from_secs(130), "{:?}", begun.elapsed());

    assert_eq!(outcome(&mut results).await + outcome(&mut results).await, 2, "the long one, and then the suspect");
    assert!(begun.elapsed() < Duration::from_secs(600), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_suspect_begins_other_work_again_once_the_suspect_is_taken_elsewhere() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    // So long that the worker waits ten minutes or more to be alone in the end.
    broker.publish(JOBS, sleep(4000)).await.unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    until_taken(&broker, JOBS).await;
    broker.publish(SUSPECTS, sleep(0)).await.unwrap();
    // Its patience is 512 s then, from 2555 s on at the latest: it has waited for 1 + 2 + 4 … seconds, with pauses of four
    // times that.
    tokio::time::sleep(Duration::from_secs(2700)).await;

    let taken = broker.take_one(SUSPECTS).await.unwrap().expect("it waits");
    let begun = Instant::now();
    broker.publish(JOBS, sleep(0)).await.unwrap();

    assert_eq!(outcome(&mut results).await, 1);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    taken.settle(Settlement::Ack).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_runs_when_its_worker_is_told_to_stop_has_the_grace_period_and_goes_back_as_it_was() {
    let (worker, broker) = sandbox(Duration::from_secs(2));
    let stop = CancellationToken::new();
    broker.publish(SUSPECTS, sleep(1000)).await.unwrap();
    let running = tokio::spawn(worker.run(stop.clone()));
    until_taken(&broker, SUSPECTS).await;

    let told = Instant::now();
    stop.cancel();

    assert_eq!(running.await.unwrap().unwrap(), Ended::Stopped);
    assert!((2000..3000).contains(&told.elapsed().as_millis()), "{:?}", told.elapsed());
    let mut suspects = broker.consume(SUSPECTS, Permits(1), CancellationToken::new()).await.unwrap();
    let delivery = tokio::time::timeout(LONG, suspects.next()).await.unwrap().expect("it is there again");
    assert_eq!(delivery.redelivered, 0, "that is no evidence");
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_broker_has_gone_ends_all_the_same() {
    let (worker, broker) = sandbox(Duration::from_secs(2));
    let stop = CancellationToken::new();
    broker.publish(JOBS, sleep(20)).await.unwrap();
    let running = tokio::spawn(worker.run(stop.clone()));
    until_taken(&broker, JOBS).await;
    broker.gone.cancel();
    // By then a heartbeat waits for the broker, and so do the outcomes.
    tokio::time::sleep(Duration::from_secs(30)).await;

    let told = Instant::now();
    stop.cancel();

    assert_eq!(running.await.unwrap().unwrap(), Ended::Stopped);
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

/// A delivery with which nothing is done.
struct Untouched;

#[async_trait]
impl Settle for Untouched {
    async fn settle(self: Box<Self>, _settlement: Settlement) -> Result<(), BrokerError> {
        Ok(())
    }

    fn abandon(self: Box<Self>) {}
}

/// A worker that isolates, and the work of a chunk of so many items on its second attempt.
fn suspect(items: usize) -> (Worker, Work) {
    let (mut worker, mut work) = sandbox_of(Register::default().wait(Sleep), &vec!["0"; items], LONG);
    let isolation = Some(Isolation { suspect_after: 2, crash_limit: 3 });
    worker.setup = Arc::new(Setup { isolation, ..(*worker.setup).clone() });
    let chunk = Chunk { attempt: Attempt(2), ..work.chunk().clone() };
    work.message = Arc::new(Message::new(Body::Chunk(chunk), Priority(0)));
    (worker, work)
}

/// The verdict over a suspect that has ended its worker so often.
fn judged(worker: &Worker, work: &Work, crashes: u32) -> Option<Verdict> {
    judge(worker, &Delivery::new(Arc::clone(&work.message), crashes, Box::new(Untouched)), work)
}

#[tokio::test]
async fn an_item_by_itself_runs_until_it_has_ended_too_many_workers_and_is_dead_then() {
    let (worker, work) = suspect(1);

    for crashes in 0..3 {
        assert!(judged(&worker, &work, crashes).is_none(), "after {crashes} it runs");
    }
    for crashes in [3, 4, 100] {
        let Some(Verdict::Done { batch, outcomes, again: None }) = judged(&worker, &work, crashes) else {
            panic!("after {crashes} it is over");
        };
        let [outcome] = &outcomes[..] else { panic!("{outcomes:?}") };
        let Ending::Dead(failure) = &outcome.ending else { panic!("{outcome:?}") };
        assert_eq!((&batch, outcome.index, outcome.attempts), (&work.chunk().batch.id, ItemIndex(0), Attempt(2)));
        assert_eq!((&*failure.kind, failure.retryable), ("crash", false));
        assert!(failure.message.starts_with(&format!("it ended its worker {crashes} times")), "{failure:?}");
        assert_eq!((&*outcome.maker.worker, outcome.input.get()), ("w", "0"));
    }
}

#[tokio::test]
async fn nobody_is_judged_by_a_worker_that_does_not_isolate() {
    let (mut worker, work) = suspect(1);
    worker.setup = Arc::new(Setup { isolation: None, ..(*worker.setup).clone() });

    assert!(judged(&worker, &work, 100).is_none());
}

#[tokio::test]
async fn a_chunk_that_has_ended_its_worker_comes_apart_in_halves_that_have_all_of_it() {
    let most = 40;
    let (worker, whole) = suspect(most);
    let items = &whole.chunk().items;

    let property = |(count, crashes): (usize, u32)| {
        let chunk = Chunk { items: items[..count].to_vec(), ..whole.chunk().clone() };
        let message = Arc::new(Message::new(Body::Chunk(chunk), Priority(0)));
        let work = Work { message, job: Arc::clone(&whole.job), cancelled: Arc::default() };
        let verdict = judged(&worker, &work, crashes);
        if crashes == 0 {
            prop_assert!(verdict.is_none(), "without evidence it runs whole");
            return Ok(());
        }
        let Some(Verdict::Suspect(Suspected { chunks, lane })) = verdict else {
            return Err(TestCaseError::fail(format!("{verdict:?}")));
        };
        prop_assert_eq!(lane, work.job.lane());
        let [one, other] = &chunks[..] else { return Err(TestCaseError::fail(format!("{chunks:?}"))) };
        prop_assert!(!one.items.is_empty() && one.items.len().abs_diff(other.items.len()) <= 1);
        let indices: Vec<u64> = chunks.iter().flat_map(|half| &half.items).map(|item| item.index.0).collect();
        prop_assert_eq!(indices, (0..count as u64).collect::<Vec<_>>());
        for half in &chunks {
            prop_assert_eq!((&half.batch.id, half.attempt), (&whole.chunk().batch.id, Attempt(2)));
        }
        Ok(())
    };
    TestRunner::default().run(&(2..=most, 0u32..6), property).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_suspect_has_its_turn_though_something_long_always_runs() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    broker.publish(JOBS, sleep(200)).await.unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    until_taken(&broker, JOBS).await;
    let waiting = sleep(0);
    let batch = batch_of(&waiting);
    broker.publish(SUSPECTS, waiting).await.unwrap();
    let begun = Instant::now();
    tokio::spawn({
        let broker = Arc::clone(&broker);
        async move {
            for _ in 0..300 {
                tokio::time::sleep(Duration::from_secs(100)).await;
                broker.publish(JOBS, sleep(200)).await.unwrap();
            }
        }
    });

    while ended(&mut results).await.0 != batch {}

    assert!(begun.elapsed() < Duration::from_secs(3600), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_suspect_whose_worker_has_nothing_else_to_do_does_not_wait() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    broker.publish(JOBS, sleep(400)).await.unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    until_taken(&broker, JOBS).await;
    broker.publish(SUSPECTS, sleep(0)).await.unwrap();
    // By then other work would have its time for minutes.
    assert_eq!(outcome(&mut results).await, 1);

    let begun = Instant::now();
    assert_eq!(outcome(&mut results).await, 1);

    assert!(begun.elapsed() < 2 * LOOK, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_does_not_wait_for_a_suspect_that_runs_alone() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    broker.publish(SUSPECTS, sleep(1000)).await.unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    until_taken(&broker, SUSPECTS).await;
    let waiting = sleep(0);
    let batch = batch_of(&waiting);
    broker.publish(JOBS, waiting).await.unwrap();
    until_taken(&broker, JOBS).await;

    let cancelled = Instant::now();
    broker.announce(Notice::Cancel(batch.clone())).await.unwrap();

    assert_eq!(ended(&mut results).await, (batch, vec![Status::Cancelled]));
    assert!(cancelled.elapsed() < Duration::from_secs(1), "{:?}", cancelled.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_item_that_ended_its_workers_is_dead_when_none_that_lives_has_it() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    let killer = sleep(0);
    let batch = batch_of(&killer);
    handed_out(&broker, killer, 3).await;
    let begun = Instant::now();
    tokio::spawn(worker.run(CancellationToken::new()));

    assert_eq!(ended(&mut results).await, (batch, vec![Status::Dead]));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_item_that_a_worker_has_is_not_dead_however_many_connections_were_lost_meanwhile() {
    let (first, broker) = sandbox(LONG);
    let second = beside(&first);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    let long = sleep(300);
    let batch = batch_of(&long);
    broker.publish(JOBS, long.clone()).await.unwrap();
    tokio::spawn(first.run(CancellationToken::new()));
    until_taken(&broker, JOBS).await;

    handed_out(&broker, long, 3).await;
    tokio::spawn(second.run(CancellationToken::new()));

    assert_eq!(ended(&mut results).await, (batch.clone(), vec![Status::Ok]));
    assert_eq!(ended(&mut results).await, (batch, vec![Status::Dead]), "nobody has it now; the first write has won");
}

#[tokio::test(start_paused = true)]
async fn an_item_is_not_taken_for_dead_while_nobody_can_be_asked() {
    let (worker, broker) = sandbox(LONG);
    let (batch, index) = (BatchId::new(), ItemIndex(7));
    assert!(in_hand::nobody_has(&worker, &batch, index).await, "all were asked, and none has it");

    broker.gone.cancel();

    assert!(!in_hand::nobody_has(&worker, &batch, index).await);
}
