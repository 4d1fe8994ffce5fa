//! The whole way of items through producer, worker, collector and store, with the embedded broker.
//!
//! ```text
//!  inputs ─▶ Producer ─▶ Embedded broker ─▶ 1..n Workers ─▶ Embedded broker ─▶ collect ─▶ Embedded store ─▶ Stream
//! ```
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use proptest::prelude::*;
use tidemill_core::batch::{Batch, BatchId, Priority};
use tidemill_core::broker::{self, Broker, NetworkWork, Notice, Queue};
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::task::{Lane, raw};
use tidemill_producer::inputs::{Input, Inputs, Source};
use tidemill_producer::{Cut, NotReady, Producer, Ready, Span};
use tidemill_results_api::collect;
use tidemill_worker::{Ended, Networks, OwnNetworks};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::world::{COMPUTE, Deed, PATIENCE, WAIT, sandbox};

const ONE_BY_ONE: Cut = Cut { first_items: 1, max_items: 1, max_bytes: u64::MAX, ramp: 1 };
const TOGETHER: Cut = Cut { first_items: 1000, max_items: 1000, ..ONE_BY_ONE };

fn statuses(outcomes: &[Arc<Outcome>]) -> Vec<Status> {
    outcomes.iter().map(|outcome| outcome.status()).collect()
}

/// What an outcome says, timings and worker names aside.
fn told(outcome: &Outcome) -> (u64, String, serde_json::Value) {
    let mut line = outcome.to_value();
    for varying in ["timing", "worker"] {
        line.as_object_mut().unwrap().remove(varying);
    }
    (outcome.index.0, outcome.status().to_string(), line)
}

#[tokio::test]
async fn inputs_that_are_refused_behind_items_that_wait_for_their_chunk_do_not_fill_the_window_for_ever() {
    let world = sandbox();
    tokio::spawn(world.worker("w", 1).run(world.stop.clone()));
    let good = (0..9).map(|number| raw(&Deed::Echo(number)));
    let bad = std::iter::repeat_with(|| raw(&"x".repeat(10_000))).take(500);
    let batch = world.batch(COMPUTE, PATIENCE);
    world.store.open(&batch).await.unwrap();

    let values = good.clone().chain(bad).chain(good).collect();
    let (outcomes, ()) = tokio::join!(world.read(&batch), world.produce_values(&batch, values, TOGETHER));

    assert_eq!(outcomes.len(), 518);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.status() == Status::Ok).count(), 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_item_harms_only_itself() {
    for task in [COMPUTE, WAIT] {
        let world = sandbox();
        tokio::spawn(world.worker("w", 1).run(world.stop.clone()));
        let deeds = [Deed::Echo(0), Deed::Fail(1), Deed::Echo(2), Deed::FailTimes { id: 3, times: 99 }, Deed::Echo(4)];

        let outcomes = world.grind(task, &deeds, TOGETHER).await;

        use Status::{Failed, Ok};
        assert_eq!(statuses(&outcomes), [Ok, Failed, Ok, Failed, Ok], "{task}");
        assert_eq!(outcomes[3].attempts.0, 3, "a passing failure was tried as often as allowed");
        assert_eq!(outcomes[1].attempts.0, 1, "a lasting one was not");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_the_failure_of_its_item() {
    for task in [COMPUTE, WAIT] {
        let world = sandbox();
        tokio::spawn(world.worker("w", 1).run(world.stop.clone()));

        let outcomes = world.grind(task, &[Deed::Echo(0), Deed::Panic, Deed::Echo(2)], TOGETHER).await;

        assert_eq!(statuses(&outcomes), [Status::Ok, Status::Failed, Status::Ok], "{task}");
        let failure = outcomes[1].failure().unwrap();
        assert_eq!(failure.kind, "panic");
        assert_eq!(failure.message, "the task panicked on this item: as told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_fails_for_a_passing_reason_runs_again_alone() {
    let world = sandbox();
    tokio::spawn(world.worker("w", 1).run(world.stop.clone()));

    let deeds = [Deed::Echo(0), Deed::FailTimes { id: 1, times: 2 }, Deed::Echo(2)];
    let outcomes = world.grind(COMPUTE, &deeds, TOGETHER).await;

    assert_eq!(statuses(&outcomes), [Status::Ok; 3]);
    assert_eq!(outcomes.iter().map(|outcome| outcome.attempts.0).collect::<Vec<_>>(), [1, 3, 1]);
    assert_eq!(world.shared.runs.load(Ordering::SeqCst), 5, "its neighbours ran once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_over_its_timeout_fails_and_its_neighbours_do_not() {
    for task in [COMPUTE, WAIT] {
        let world = sandbox();
        tokio::spawn(world.worker("w", 2).run(world.stop.clone()));
        let batch = world.batch(task, Duration::from_millis(50));
        world.store.open(&batch).await.unwrap();

        world.produce(&batch, &[Deed::Echo(0), Deed::Hang, Deed::Echo(2)], TOGETHER).await;
        let outcomes = world.read(&batch).await;

        assert_eq!(statuses(&outcomes), [Status::Ok, Status::Failed, Status::Ok], "{task}");
        assert_eq!(outcomes[1].failure().unwrap().kind, "timeout");
        if task == COMPUTE {
            assert!(world.shared.was_asked_to_stop.load(Ordering::SeqCst), "the thread was asked to stop");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_gives_every_item_its_outcome() {
    let world = sandbox();
    tokio::spawn(world.worker("w", 1).run(world.stop.clone()));
    let batch = world.batch(WAIT, PATIENCE);
    world.store.open(&batch).await.unwrap();
    let deeds: Vec<Deed> = std::iter::once(Deed::Echo(0)).chain((0..50).map(|_| Deed::Hang)).collect();
    world.produce(&batch, &deeds, ONE_BY_ONE).await;
    world.shared.begun.notified().await;

    world.broker.announce(Notice::Cancel(batch.id.clone())).await.unwrap();
    let outcomes = world.read(&batch).await;

    assert_eq!(outcomes[0].status(), Status::Ok);
    assert!(outcomes[1..].iter().all(|outcome| outcome.status() == Status::Cancelled));
    assert_eq!(outcomes.len(), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_gone_without_a_word_loses_nothing() {
    let world = sandbox();
    let batch = world.batch(WAIT, PATIENCE);
    world.store.open(&batch).await.unwrap();
    let first = tokio::spawn(world.worker("first", 1).run(world.stop.clone()));
    world.produce(&batch, &[Deed::Hang, Deed::Echo(1), Deed::Echo(2), Deed::Echo(3)], ONE_BY_ONE).await;
    world.shared.begun.notified().await;

    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn(world.worker("second", 1).run(world.stop.clone()));
    world.shared.begun.notified().await;
    world.broker.announce(Notice::Cancel(batch.id.clone())).await.unwrap();

    let outcomes = world.read(&batch).await;
    assert_eq!(outcomes.len(), 4);
    assert_eq!(outcomes[0].status(), Status::Cancelled);
    assert_eq!(world.store.progress(&batch.id).await.unwrap().recorded(), 4);
    second.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_gives_back_what_it_cannot_finish_and_it_costs_no_attempt() {
    let world = sandbox();
    let batch = world.batch(WAIT, PATIENCE);
    world.store.open(&batch).await.unwrap();
    let stop = CancellationToken::new();
    let leaving = tokio::spawn(world.worker_with_grace("leaving", 1, Duration::from_millis(20)).run(stop.clone()));
    world.produce(&batch, &[Deed::Hang], ONE_BY_ONE).await;
    world.shared.begun.notified().await;

    stop.cancel();
    tokio::time::timeout(PATIENCE, leaving).await.expect("it ends within its grace").unwrap().unwrap();

    assert_eq!(world.broker.depth(Queue::Jobs(Lane::Wait)).await.unwrap(), 1, "the delivery is back in its queue");
    tokio::spawn(world.worker("staying", 1).run(world.stop.clone()));
    world.shared.begun.notified().await;
    world.broker.announce(Notice::Cancel(batch.id.clone())).await.unwrap();
    assert_eq!(world.read(&batch).await[0].attempts.0, 1, "the next worker's attempt is still the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_drain_finishes_what_it_holds_and_ends_and_no_other_does() {
    let world = sandbox();
    let mut told = tokio::spawn(world.worker("told", 1).run(CancellationToken::new()));
    let batch = world.batch(WAIT, PATIENCE);
    world.store.open(&batch).await.unwrap();
    world.produce(&batch, &[Deed::Hang], ONE_BY_ONE).await;
    world.shared.begun.notified().await;
    world.broker.announce(Notice::Drain(Some("other".into()))).await.unwrap();
    let beside = world.grind(WAIT, &[Deed::Echo(1)], ONE_BY_ONE).await;
    assert_eq!((statuses(&beside), &*beside[0].maker.worker), (vec![Status::Ok], "told"), "it is not meant");

    // Heard in this order: what it holds is still its own when its item ends.
    world.broker.announce(Notice::Drain(Some("told".into()))).await.unwrap();
    world.broker.announce(Notice::Cancel(batch.id.clone())).await.unwrap();

    let ended = tokio::time::timeout(PATIENCE, &mut told).await.expect("it ends");
    assert_eq!(ended.unwrap().unwrap(), Ended::Stopped);
    assert_eq!(statuses(&world.read(&batch).await), [Status::Cancelled]);
    assert_eq!(world.broker.depth(Queue::Jobs(Lane::Wait)).await.unwrap(), 0, "it has given nothing back");

    let everybody = tokio::spawn(world.worker("staying", 1).run(CancellationToken::new()));
    let after = world.grind(WAIT, &[Deed::Echo(2)], ONE_BY_ONE).await;
    assert_eq!((statuses(&after), &*after[0].maker.worker), (vec![Status::Ok], "staying"));
    world.broker.announce(Notice::Drain(None)).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, everybody).await.expect("everybody is meant");
    assert_eq!(ended.unwrap().unwrap(), Ended::Stopped);
}

/// A broker that is away: whoever asks for something waits. It may have gone when somebody was listening.
#[derive(Debug)]
struct Away {
    heard: Option<broker::embedded::Embedded>,
}

#[async_trait::async_trait]
impl Broker for Away {
    async fn publish(&self, _queue: Queue, _message: broker::Message) -> Result<(), broker::BrokerError> {
        std::future::pending().await
    }

    async fn consume(
        &self,
        _queue: Queue,
        _permits: broker::Permits,
        _stop: CancellationToken,
    ) -> Result<broker::Deliveries, broker::BrokerError> {
        std::future::pending().await
    }

    async fn take_one(&self, _queue: Queue) -> Result<Option<broker::Delivery>, broker::BrokerError> {
        std::future::pending().await
    }

    async fn depth(&self, _queue: Queue) -> Result<u64, broker::BrokerError> {
        std::future::pending().await
    }

    async fn announce(&self, _notice: Notice) -> Result<(), broker::BrokerError> {
        std::future::pending().await
    }

    async fn notices(&self) -> Result<broker::Notices, broker::BrokerError> {
        match &self.heard {
            Some(heard) => heard.notices().await,
            None => std::future::pending().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_for_its_broker_ends_when_it_is_told_to() {
    for heard in [None, Some(broker::embedded::Embedded::new(1 << 20))] {
        let mut world = sandbox();
        world.broker = Arc::new(Away { heard });
        let stop = CancellationToken::new();
        let waiting = tokio::spawn(world.worker("waiting", 1).run(stop.clone()));
        assert!(tokio::time::timeout(PATIENCE, world.broker.depth(Queue::Results)).await.is_err(), "it is away");
        assert!(!waiting.is_finished());

        stop.cancel();

        let ended = tokio::time::timeout(PATIENCE / 2, waiting).await.expect("it waits for nobody");
        assert_eq!(ended.unwrap().unwrap(), Ended::Stopped);
    }
}

/// Networks whose device is lost when the test says so.
struct Fragile(Notify);

impl Networks for Fragile {
    fn work(&self) -> Vec<NetworkWork> {
        Vec::new()
    }

    fn lost(&self) -> BoxFuture<'_, String> {
        Box::pin(async {
            self.0.notified().await;
            "cuda:0: an illegal memory access".to_owned()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_device_is_lost_gives_back_all_at_once_and_it_costs_no_attempt() {
    let world = sandbox();
    let batch = world.batch(WAIT, PATIENCE);
    world.store.open(&batch).await.unwrap();
    let fragile = Arc::new(Fragile(Notify::new()));
    let networks = OwnNetworks(Some(Arc::clone(&fragile) as _));
    let unlucky = tokio::spawn(world.worker_with("unlucky", 1, PATIENCE, networks).run(world.stop.clone()));

    world.produce(&batch, &[Deed::HangOnce(0), Deed::Echo(1)], TOGETHER).await;
    world.shared.begun.notified().await;
    fragile.0.notify_one();

    let ended = tokio::time::timeout(PATIENCE / 2, unlucky).await.expect("it does not wait for the grace period");
    assert_eq!(ended.unwrap().unwrap(), Ended::DeviceLost("cuda:0: an illegal memory access".to_owned()));
    tokio::spawn(world.worker("lucky", 1).run(world.stop.clone()));
    let outcomes = world.read(&batch).await;
    assert_eq!(statuses(&outcomes), [Status::Ok, Status::Ok]);
    assert!(outcomes.iter().all(|outcome| outcome.attempts.0 == 1), "giving back spends no attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_an_unknown_task_is_refused_with_its_reason() {
    let world = sandbox();
    let stop = CancellationToken::new();
    tokio::spawn(world.worker("w", 1).run(world.stop.clone()));
    world.broker.publish(Queue::Jobs(Lane::Cpu), broker_work()).await.unwrap();

    let mut dead = world.broker.consume(Queue::Dead, broker::Permits(1), stop).await.unwrap();
    let corpse = tokio::time::timeout(PATIENCE, dead.next()).await.expect("it is dead-lettered").unwrap();
    assert_eq!(corpse.message.refusal.as_deref(), Some("no task is called \"no.such\""));
}

fn broker_work() -> broker::Message {
    let batch = Batch {
        id: BatchId::new(),
        task: "no.such".into(),
        options: raw(&serde_json::json!({})),
        retry: RetryPolicy { attempts: 1, base: Duration::ZERO, max: Duration::ZERO },
        timeout: PATIENCE,
        priority: Priority(0),
        expires: None,
    };
    let item = tidemill_core::chunk::Item {
        index: tidemill_core::batch::ItemIndex(0),
        input: raw(&1),
        name: None,
        source: None,
    };
    let chunk = tidemill_core::chunk::Chunk {
        batch: Arc::new(batch),
        attempt: tidemill_core::batch::Attempt::FIRST,
        items: vec![item],
    };
    broker::Message::new(broker::Body::Chunk(chunk), Priority(0))
}

/// A broker that takes nothing in before it is asked a second time, and refuses outcomes so often; or never confirms one.
#[derive(Debug)]
struct Grudging {
    broker: broker::embedded::Embedded,
    refusals: Option<AtomicU32>,
}

impl Grudging {
    fn new(refusals: Option<u32>) -> Arc<Self> {
        Arc::new(Self { broker: broker::embedded::Embedded::new(1 << 20), refusals: refusals.map(AtomicU32::new) })
    }
}

#[async_trait::async_trait]
impl Broker for Grudging {
    async fn publish(&self, queue: Queue, message: broker::Message) -> Result<(), broker::BrokerError> {
        if matches!(message.body, broker::Body::Outcomes { .. }) {
            let Some(refusals) = &self.refusals else { return std::future::pending().await };
            let fewer = |left: u32| left.checked_sub(1);
            if refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
                return Err(broker::BrokerError {
                    kind: broker::BrokerErrorKind::Refused,
                    action: "publish".into(),
                    reason: "the queue is full".into(),
                });
            }
        }
        tokio::task::yield_now().await;
        self.broker.publish(queue, message).await
    }

    async fn consume(
        &self,
        queue: Queue,
        permits: broker::Permits,
        stop: CancellationToken,
    ) -> Result<broker::Deliveries, broker::BrokerError> {
        self.broker.consume(queue, permits, stop).await
    }

    async fn take_one(&self, queue: Queue) -> Result<Option<broker::Delivery>, broker::BrokerError> {
        self.broker.take_one(queue).await
    }

    async fn depth(&self, queue: Queue) -> Result<u64, broker::BrokerError> {
        self.broker.depth(queue).await
    }

    async fn announce(&self, notice: Notice) -> Result<(), broker::BrokerError> {
        self.broker.announce(notice).await
    }

    async fn notices(&self) -> Result<broker::Notices, broker::BrokerError> {
        self.broker.notices().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_refused_is_accepted_only_when_its_outcome_is_confirmed() {
    let broker = Grudging::new(None);
    let mut world = sandbox();
    world.broker = Arc::<Grudging>::clone(&broker);
    let batch = world.batch(COMPUTE, PATIENCE);
    let job = world.register.find(&batch.task).unwrap().prepare(&batch.options).unwrap();
    let producer = world.producer(Cut::fixed(2, u64::MAX));
    let values = vec![raw(&Deed::Echo(0)), raw(&"no deed"), raw(&Deed::Echo(2)), raw(&"no deed"), raw(&Deed::Echo(4))];
    let (inputs, never) = (Inputs::walk(vec![Source::Values(values)]), CancellationToken::new());
    let span = Span { from: 0, seal_when_stopped: true };

    let producing = producer.produce(Arc::clone(&batch), &*job, inputs, span, &never);
    assert!(tokio::time::timeout(PATIENCE, producing).await.is_err(), "the outcomes are never confirmed");

    assert_eq!(broker.depth(Queue::Jobs(Lane::Cpu)).await.unwrap(), 2, "the chunks are");
    assert_eq!(*producer.accepted.borrow(), 0, "whoever goes on from there would pass over what was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_the_broker_refuses_wait_until_it_takes_them_and_no_item_runs_again() {
    let mut world = sandbox();
    world.broker = Grudging::new(Some(2));
    let (broker, store, stop) = (Arc::clone(&world.broker), Arc::clone(&world.store), world.stop.clone());
    tokio::spawn(async move { collect(&*broker, &*store, |_| {}, stop).await });
    tokio::spawn(world.worker("w", 1).run(world.stop.clone()));

    let outcomes = world.grind(COMPUTE, &[Deed::Echo(1), Deed::Echo(2)], ONE_BY_ONE).await;

    assert_eq!(outcomes.len(), 2);
    assert_eq!(world.shared.runs.load(Ordering::SeqCst), 2);
}

/// Makes each input ready when the one before it is accepted.
#[derive(Debug)]
struct OneAfterTheOther(watch::Receiver<u64>);

#[async_trait::async_trait]
impl Ready for OneAfterTheOther {
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady> {
        let before: u64 = input.name.as_deref().unwrap().parse().unwrap();
        self.0.clone().wait_for(|accepted| *accepted >= before).await.unwrap();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_published_is_confirmed_while_files_are_made_ready() {
    let mut world = sandbox();
    world.broker = Grudging::new(None);
    let batch = world.batch(COMPUTE, PATIENCE);
    let job = world.register.find(&batch.task).unwrap().prepare(&batch.options).unwrap();
    let accepted = watch::Sender::new(0);
    let ready = OneAfterTheOther(accepted.subscribe());
    let producer = Producer { ready: Some(&ready), accepted, ..world.producer(ONE_BY_ONE) };
    let (bundles, inputs) = Inputs::channel();
    for index in 0..3 {
        let input = Input { name: Some(index.to_string().into()), ..Input::value(raw(&Deed::Echo(index))) };
        bundles.send(vec![input]).await.unwrap();
    }
    drop(bundles);
    let span = Span { from: 0, seal_when_stopped: true };

    let never = CancellationToken::new();
    let producing = producer.produce(batch, &*job, inputs, span, &never);
    let produced = tokio::time::timeout(PATIENCE, producing).await.expect("each waits for the one before").unwrap();

    assert_eq!(produced.total, 3);
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        6 => any::<u32>().prop_map(|number| Deed::Echo(number.into())),
        1 => any::<u32>().prop_map(|number| Deed::Fail(number.into())),
        1 => (0u32..4).prop_map(|times| Deed::FailTimes { id: 0, times }),
        1 => Just(Deed::Panic),
    ];
    proptest::collection::vec(deed, 0..120).prop_map(|mut deeds| {
        for (deed, number) in deeds.iter_mut().zip(0..) {
            if let Deed::FailTimes { id, .. } = deed {
                *id = number;
            }
        }
        deeds
    })
}

/// An outcome's place, its status, its output where it has one, and how many attempts it took.
type Came = (u64, String, Option<u64>, u32);

/// What must come out, computed without any of the machinery.
fn expected(deeds: &[Deed]) -> Vec<Came> {
    let ended = |deed: &Deed| match deed {
        Deed::Echo(number) => ("ok", Some(*number), 1),
        Deed::FailTimes { id, times } if *times < 3 => ("ok", Some(*id), times + 1),
        Deed::FailTimes { .. } => ("failed", None, 3),
        Deed::Fail(_) | Deed::Panic | Deed::Hang | Deed::HangOnce(_) => ("failed", None, 1),
    };
    let came = |(deed, index)| {
        let (status, output, attempts) = ended(deed);
        (index, status.to_owned(), output, attempts)
    };
    deeds.iter().zip(0..).map(came).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_ordered_stream_is_the_same_whatever_the_chunks_the_workers_and_the_failures(
        deeds in deeds(), max_items in 1usize..40, ramp in 1usize..4, workers in 1usize..4, computes in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let outcomes = runtime.block_on(async {
            let world = sandbox();
            for number in 0..workers {
                tokio::spawn(world.worker(&format!("w{number}"), 1).run(world.stop.clone()));
            }
            let task = if computes { COMPUTE } else { WAIT };
            world.grind(task, &deeds, Cut { first_items: max_items.min(ramp), max_items, max_bytes: 3000, ramp }).await
        });
        let came = |outcome: &Arc<Outcome>| {
            let (index, status, line) = told(outcome);
            (index, status, line["output"].as_u64(), outcome.attempts.0)
        };
        let seen: Vec<Came> = outcomes.iter().map(came).collect();
        prop_assert_eq!(seen, expected(&deeds));
    }
}
