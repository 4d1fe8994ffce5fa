//! What every [`Broker`] promises, as tests. An implementation runs them all with `broker_conformance!`.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they are compiled as a feature")]

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Body, Broker, Deliveries, Delivery, Message, Notice, Permits, Queue, Settlement};
use crate::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use crate::chunk::{Chunk, Item};
use crate::outcome::{Ending, Maker, Outcome};
use crate::retry::RetryPolicy;
use crate::segment::Segment;
use crate::task::{Lane, raw};
use crate::wire;

/// Runs the whole suite against brokers made by an expression of type `Fn() -> Future<Output = Arc<dyn Broker>>`.
/// Each test gets a broker of its own, with empty queues. The expression may give an `Option`: with `None`, where the
/// broker is not installed, the test is skipped.
#[macro_export]
macro_rules! broker_conformance {
    ($make:expr) => {
        $crate::broker_conformance!(@tests $make;
            a_message_arrives_as_it_was_sent
            equals_arrive_in_the_order_they_were_published
            the_more_urgent_goes_first
            no_more_deliveries_are_held_than_permits
            one_is_taken_and_the_others_stay
            what_is_acked_never_comes_again
            what_is_given_back_comes_again_and_says_so
            what_is_dropped_unsettled_comes_again
            what_is_rejected_lies_among_the_dead_with_its_reason
            a_delayed_message_waits_in_the_broker
            two_consumers_share_a_queue
            a_stopped_consumer_ends
            queues_do_not_mix
            notices_reach_everyone_who_listens
        );
    };
    (@tests $make:expr; $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                if let Some(broker) = ($make)().await.into() {
                    $crate::broker::conformance::$test(broker).await;
                }
            }
        )*
    };
}

/// How long a test waits before it says that something never came.
const PATIENCE: Duration = Duration::from_secs(20);
const JOBS: Queue = Queue::Jobs(Lane::Cpu);

/// A message with one item, whose input is `n`.
pub fn work(n: u64) -> Message {
    let batch = Batch {
        id: BatchId::new(),
        task: "compute.map".into(),
        options: raw(&serde_json::json!({"expr": "x"})),
        retry: RetryPolicy { attempts: 3, base: Duration::from_millis(500), max: Duration::from_secs(60) },
        timeout: Duration::from_secs(60),
        priority: Priority(0),
        expires: None,
    };
    let items = vec![Item { index: ItemIndex(n), input: raw(&n), name: None, source: None }];
    Message::new(Body::Chunk(Chunk { batch: Arc::new(batch), attempt: Attempt::FIRST, items }), Priority(0))
}

/// One outcome of a batch.
pub fn outcome() -> Segment {
    let outcome = Outcome {
        index: ItemIndex(0),
        input: raw(&1),
        name: None,
        source: None,
        ending: Ending::Ok(raw(&2)),
        attempts: Attempt::FIRST,
        maker: Arc::new(Maker { worker: "w".into(), device: "cpu".into() }),
        queued: Duration::ZERO,
        run: Duration::ZERO,
    };
    Segment::encode(&BatchId::new(), &[Arc::new(outcome)]).remove(0)
}

fn number(delivery: &Delivery) -> u64 {
    match &delivery.message.body {
        Body::Chunk(chunk) => chunk.items[0].index.0,
        other => panic!("a chunk was sent, {other:?} arrived"),
    }
}

async fn consume(broker: &dyn Broker, permits: usize) -> Deliveries {
    broker.consume(JOBS, Permits(permits), CancellationToken::new()).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("a delivery comes").expect("the consumer goes on")
}

async fn publish(broker: &dyn Broker, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        broker.publish(JOBS, work(n)).await.unwrap();
    }
}

macro_rules! promise {
    ($(#[$doc:meta])* $name:ident, $broker:ident, $body:block) => {
        $(#[$doc])*
        pub async fn $name($broker: Arc<dyn Broker>) $body
    };
}

promise!(/// Nothing of a message is lost or changed.
a_message_arrives_as_it_was_sent, broker, {
    let sent = work(7);
    broker.publish(JOBS, sent.clone()).await.unwrap();

    let delivery = next(&mut consume(&*broker, 1).await).await;

    let (sent, arrived) = (wire::encode(&sent.body), wire::encode(&delivery.message.body));
    assert_eq!(arrived, sent);
    assert_eq!(delivery.redelivered, 0);
    delivery.settle(Settlement::Ack).await.unwrap();
});

promise!(/// Whoever takes one has one, however many wait; given back, it is the first again and says so.
one_is_taken_and_the_others_stay, broker, {
    assert!(broker.take_one(JOBS).await.unwrap().is_none());
    publish(&*broker, 0..3).await;

    let first = broker.take_one(JOBS).await.unwrap().unwrap();
    assert_eq!((number(&first), first.redelivered, broker.depth(JOBS).await.unwrap()), (0, 0, 2));
    let second = broker.take_one(JOBS).await.unwrap().unwrap();
    assert_eq!(number(&second), 1);
    first.settle(Settlement::Requeue).await.unwrap();
    second.settle(Settlement::Ack).await.unwrap();

    let mut deliveries = consume(&*broker, 2).await;
    let again = next(&mut deliveries).await;
    assert_eq!((number(&again), again.redelivered), (0, 1));
    assert_eq!(number(&next(&mut deliveries).await), 2);
});

promise!(/// First in, first out.
equals_arrive_in_the_order_they_were_published, broker, {
    publish(&*broker, 0..100).await;

    let mut deliveries = consume(&*broker, 1).await;
    for n in 0..100 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(number(&delivery), n);
        delivery.settle(Settlement::Ack).await.unwrap();
    }
});

promise!(/// Priority counts before age.
the_more_urgent_goes_first, broker, {
    publish(&*broker, 0..2).await;
    broker.publish(JOBS, Message { priority: Priority(5), ..work(9) }).await.unwrap();

    let mut deliveries = consume(&*broker, 1).await;
    let mut order = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut deliveries).await;
        order.push(number(&delivery));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!(order, [9, 0, 1]);
});

promise!(/// A consumer is handed only what it has hands for.
no_more_deliveries_are_held_than_permits, broker, {
    publish(&*broker, 0..3).await;

    let mut deliveries = consume(&*broker, 2).await;
    let first = next(&mut deliveries).await;
    let second = next(&mut deliveries).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), deliveries.next()).await.is_err(),
        "both permits are in use"
    );
    assert_eq!(broker.depth(JOBS).await.unwrap(), 1);
    first.settle(Settlement::Ack).await.unwrap();
    next(&mut deliveries).await.settle(Settlement::Ack).await.unwrap();
    second.settle(Settlement::Ack).await.unwrap();
});

promise!(/// An ack is for good.
what_is_acked_never_comes_again, broker, {
    publish(&*broker, 0..1).await;
    next(&mut consume(&*broker, 1).await).await.settle(Settlement::Ack).await.unwrap();

    assert_eq!(broker.depth(JOBS).await.unwrap(), 0);
    publish(&*broker, 1..2).await;
    let delivery = next(&mut consume(&*broker, 1).await).await;
    assert_eq!(number(&delivery), 1, "only the new one is left");
    delivery.settle(Settlement::Ack).await.unwrap();
});

promise!(/// A requeued message is next again, marked as redelivered.
what_is_given_back_comes_again_and_says_so, broker, {
    publish(&*broker, 0..2).await;
    let mut deliveries = consume(&*broker, 1).await;
    next(&mut deliveries).await.settle(Settlement::Requeue).await.unwrap();

    let again = next(&mut deliveries).await;
    assert_eq!(number(&again), 0, "it is next again");
    assert!(again.redelivered > 0);
    again.settle(Settlement::Ack).await.unwrap();
});

promise!(/// Whoever ends without a word loses nothing.
what_is_dropped_unsettled_comes_again, broker, {
    publish(&*broker, 0..1).await;
    let mut deliveries = consume(&*broker, 1).await;
    drop(next(&mut deliveries).await);
    drop(deliveries);

    let again = next(&mut consume(&*broker, 1).await).await;
    assert_eq!(number(&again), 0);
    assert!(again.redelivered > 0);
    again.settle(Settlement::Ack).await.unwrap();
});

promise!(/// Nothing is thrown away silently.
what_is_rejected_lies_among_the_dead_with_its_reason, broker, {
    publish(&*broker, 0..1).await;
    next(&mut consume(&*broker, 1).await).await.settle(Settlement::Reject("no such task".into())).await.unwrap();

    let mut dead = broker.consume(Queue::Dead, Permits(1), CancellationToken::new()).await.unwrap();
    let corpse = next(&mut dead).await;
    assert_eq!(number(&corpse), 0);
    assert_eq!(corpse.message.refusal.as_deref(), Some("no such task"));
    corpse.settle(Settlement::Ack).await.unwrap();
});

promise!(/// A delay is kept by the broker, and others overtake.
a_delayed_message_waits_in_the_broker, broker, {
    // Long enough that a busy machine does all the rest within it.
    let delay = Duration::from_secs(2);
    let published = tokio::time::Instant::now();
    broker.publish(JOBS, Message { delay, ..work(0) }).await.unwrap();
    publish(&*broker, 1..2).await;

    let mut deliveries = consume(&*broker, 1).await;
    for n in [1, 0] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(number(&delivery), n);
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    assert!(published.elapsed() >= delay);
});

promise!(/// Each message goes to one consumer only.
two_consumers_share_a_queue, broker, {
    publish(&*broker, 0..2).await;
    let (mut one, mut two) = (consume(&*broker, 1).await, consume(&*broker, 1).await);

    let (first, second) = (next(&mut one).await, next(&mut two).await);
    let mut numbers = [number(&first), number(&second)];
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1]);
    first.settle(Settlement::Ack).await.unwrap();
    second.settle(Settlement::Ack).await.unwrap();
});

promise!(/// A consumer ends when it is told to, and what it was not handed stays.
a_stopped_consumer_ends, broker, {
    let stop = CancellationToken::new();
    let mut deliveries = broker.consume(JOBS, Permits(1), stop.clone()).await.unwrap();
    stop.cancel();
    assert!(tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("it ends").is_none());

    publish(&*broker, 0..1).await;
    assert!(deliveries.next().await.is_none());
    next(&mut consume(&*broker, 1).await).await.settle(Settlement::Ack).await.unwrap();
});

promise!(/// A queue is a queue.
queues_do_not_mix, broker, {
    broker.publish(Queue::Jobs(Lane::Vision), work(0)).await.unwrap();
    publish(&*broker, 1..2).await;
    let delivery = next(&mut consume(&*broker, 1).await).await;
    assert_eq!(number(&delivery), 1);
    delivery.settle(Settlement::Ack).await.unwrap();
    assert_eq!(broker.depth(JOBS).await.unwrap(), 0);
    assert_eq!(broker.depth(Queue::Jobs(Lane::Vision)).await.unwrap(), 1);
});

promise!(/// A notice goes to all.
notices_reach_everyone_who_listens, broker, {
    let mut listeners = [broker.notices().await.unwrap(), broker.notices().await.unwrap()];
    let notice = Notice::Cancel(BatchId::new());
    broker.announce(notice.clone()).await.unwrap();
    for listener in &mut listeners {
        let heard = tokio::time::timeout(PATIENCE, listener.next()).await.expect("it is heard");
        assert_eq!(heard, Some(notice.clone()));
    }
});
