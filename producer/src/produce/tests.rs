//! What is made ready, and when it goes out. The clock is paused: what takes a minute takes no time.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::value::RawValue;
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Permits, Settlement};
use tidemill_core::failure::Failure;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::task::{About, Arguments, Compute, Cost, Invalid, Lane, Register, Stop, Task, raw};
use tokio::time::Instant;

use super::*;

/// How long it takes to make a `slow` file ready.
const SLOW: Duration = Duration::from_secs(10);
/// How long it takes to give a file up that is neither `quick` nor `slow` nor `bad`.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes files ready by their names; counts those that are.
#[derive(Debug, Default)]
struct ByName(AtomicUsize);

#[async_trait]
impl Ready for ByName {
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady> {
        match input.json.get() {
            "\"quick\"" => {}
            "\"slow\"" => tokio::time::sleep(SLOW).await,
            "\"bad\"" => input.refused = Some(Failure::invalid_input("it is bad")),
            _ => {
                tokio::time::sleep(PATIENCE).await;
                return Err(NotReady("nobody takes it".into()));
            }
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A task that takes any string.
struct Any;

impl Task for Any {
    type Input = String;
    type Options = ();
    type Output = String;
    type Plan = ();

    fn about(&self) -> About {
        About {
            name: "test.any",
            summary: "Takes any string",
            details: "",
            examples: &[],
            arguments: Arguments::Files,
            makes_files: false,
        }
    }

    fn plan(&self, _options: ()) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, _plan: &()) -> Cost {
        Cost::millis(1)
    }
}

impl Compute for Any {
    fn run(&self, _plan: &(), input: String, _stop: &Stop<'_>) -> Result<String, Failure> {
        Ok(input)
    }
}

/// Produces one bundle of files, an item a chunk, with at most so many messages under way.
async fn produce(
    broker: &Embedded,
    ready: &ByName,
    messages: usize,
    files: &[&str],
    accepted: watch::Sender<u64>,
) -> Result<Produced, ProduceError> {
    let (send, inputs) = Inputs::channel();
    send.send(files.iter().map(|file| Input::value(raw(file))).collect()).await.unwrap();
    drop(send);
    let under_way = UnderWay { messages, bytes: u64::MAX };
    produce_from(broker, Some(ready), Cut::fixed(1, u64::MAX), under_way, inputs, accepted).await
}

async fn produce_from(
    broker: &Embedded,
    ready: Option<&dyn Ready>,
    cut: Cut,
    under_way: UnderWay,
    inputs: Inputs,
    accepted: watch::Sender<u64>,
) -> Result<Produced, ProduceError> {
    let job = Register::default().compute(Any).find("test.any").unwrap().prepare(RawValue::NULL).unwrap();
    let batch = Batch {
        id: BatchId::new(),
        task: "test.any".into(),
        options: RawValue::NULL.to_owned(),
        retry: RetryPolicy { attempts: 1, base: Duration::ZERO, max: Duration::ZERO },
        timeout: Duration::from_secs(1),
        priority: Priority::default(),
        expires: None,
    };
    let producer =
        Producer { broker, store: None, cut, window: None, under_way, max_input_bytes: usize::MAX, ready, accepted };
    let span = Span { from: 0, seal_when_stopped: true };
    producer.produce(Arc::new(batch), &*job, inputs, span, &CancellationToken::new()).await
}

#[tokio::test(start_paused = true)]
async fn the_first_file_that_nobody_takes_ends_it_whatever_many_follow() {
    let (broker, ready, started) = (Embedded::new(u64::MAX), ByName::default(), Instant::now());

    let produced = produce(&broker, &ready, 8, &["lost"; 512], watch::Sender::new(0)).await;

    assert!(matches!(produced, Err(ProduceError::NotReady(_))), "{produced:?}");
    assert!(started.elapsed() < PATIENCE + SLOW, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_first_files_go_out_while_later_ones_are_made_ready() {
    let (broker, ready, started) = (Embedded::new(u64::MAX), ByName::default(), Instant::now());
    let accepted = watch::Sender::new(0);
    let mut seen = accepted.subscribe();
    let first = async {
        seen.wait_for(|accepted| *accepted >= 1).await.unwrap();
        started.elapsed()
    };

    let producing = produce(&broker, &ready, 8, &["quick", "slow", "quick"], accepted);
    let (produced, first) = tokio::join!(producing, first);

    assert_eq!(produced.unwrap(), Produced { total: 3, is_whole: true });
    assert!(first < SLOW && started.elapsed() >= SLOW, "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn files_are_made_ready_while_the_broker_takes_nothing() {
    let (broker, ready) = (Embedded::new(1), ByName::default());
    let files = ["quick", "quick", "quick", "slow"];
    let taking = async {
        tokio::time::sleep(2 * SLOW).await;
        let readied = ready.0.load(Ordering::Relaxed);
        let stop = CancellationToken::new();
        let mut chunks = broker.consume(Queue::Jobs(Lane::Cpu), Permits(1), stop).await.unwrap();
        for _ in files {
            chunks.next().await.unwrap().settle(Settlement::Ack).await.unwrap();
        }
        readied
    };

    let producing = produce(&broker, &ready, 1, &files, watch::Sender::new(0));
    let (produced, readied) = tokio::join!(producing, taking);

    assert_eq!((produced.unwrap().total, readied), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn whatever_is_ready_first_each_has_its_place() {
    let (broker, ready) = (Embedded::new(u64::MAX), ByName::default());

    let files = ["slow", "bad", "quick", "slow", "quick"];
    let produced = produce(&broker, &ready, 8, &files, watch::Sender::new(0)).await.unwrap();

    let mut sent = Vec::new();
    while let Some(delivery) = broker.take_one(Queue::Jobs(Lane::Cpu)).await.unwrap() {
        let message = Arc::clone(&delivery.message);
        delivery.settle(Settlement::Ack).await.unwrap();
        let Body::Chunk(chunk) = &message.body else { panic!("{message:?}") };
        sent.extend(chunk.items.iter().map(|item| item.index.0));
    }
    assert_eq!((produced.total, sent), (5, vec![0, 2, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn an_item_waits_for_the_others_of_its_chunk_no_longer_because_they_keep_coming() {
    let (broker, started) = (Embedded::new(u64::MAX), Instant::now());
    let (send, inputs) = Inputs::channel();
    let accepted = watch::Sender::new(0);
    let mut seen = accepted.subscribe();
    let feeding = async {
        for _ in 0..100 {
            send.send(vec![Input::value(raw("x"))]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        drop(send);
    };
    let first = async {
        seen.wait_for(|accepted| *accepted >= 1).await.unwrap();
        started.elapsed()
    };

    let under_way = UnderWay { messages: 8, bytes: u64::MAX };
    let producing = produce_from(&broker, None, Cut::fixed(1000, u64::MAX), under_way, inputs, accepted);
    let (produced, first, ()) = tokio::join!(producing, first, feeding);

    assert_eq!(produced.unwrap(), Produced { total: 100, is_whole: true });
    assert!(first < Duration::from_millis(30), "{first:?}");
}
