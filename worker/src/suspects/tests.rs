use async_trait::async_trait;
use tidemill_core::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{
    Body, Broker, BrokerError, Deliveries, Heartbeat, Message, Notice, Notices, Permits, Settlement,
};
use tidemill_core::chunk::Item;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::task::{About, Cost, Invalid, Register, Task, Tools, Wait, raw};

use super::*;
use crate::Ended;
use crate::run::tests::{LONG, Options, about, sandbox_of};

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

async fn outcome(results: &mut Deliveries) -> usize {
    let delivery = results.next().await.unwrap();
    let Body::Outcomes { outcomes, .. } = &delivery.message.body else { panic!("{delivery:?}") };
    let count = outcomes.len();
    delivery.settle(Settlement::Ack).await.unwrap();
    count
}

#[tokio::test(start_paused = true)]
async fn other_work_goes_on_while_a_suspect_waits_for_a_long_item() {
    let (worker, broker) = sandbox(LONG);
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    broker.publish(JOBS, sleep(300)).await.unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    while broker.depth(JOBS).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
async fn a_suspect_that_runs_when_its_worker_is_told_to_stop_has_the_grace_period_and_goes_back_as_it_was() {
    let (worker, broker) = sandbox(Duration::from_secs(2));
    let stop = CancellationToken::new();
    broker.publish(SUSPECTS, sleep(1000)).await.unwrap();
    let running = tokio::spawn(worker.run(stop.clone()));
    while broker.depth(SUSPECTS).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

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
    while broker.depth(JOBS).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    broker.gone.cancel();
    // By then a heartbeat waits for the broker, and so do the outcomes.
    tokio::time::sleep(Duration::from_secs(30)).await;

    let told = Instant::now();
    stop.cancel();

    assert_eq!(running.await.unwrap().unwrap(), Ended::Stopped);
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}
