use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::future::join_all;
use tidemill_core::batch::{Attempt, ItemIndex};
use tidemill_core::broker::embedded::Embedded;
use tidemill_core::broker::{Deliveries, Delivery, Notice, Notices, Permits, Settlement};
use tidemill_core::outcome::{Ending, Maker};
use tidemill_core::task::raw;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;

/// A broker that takes nothing before it is let, and counts what waits for it meanwhile.
#[derive(Debug)]
struct Held {
    inner: Embedded,
    gate: Semaphore,
    waiting: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Broker for Held {
    async fn publish(&self, queue: Queue, message: Message) -> Result<(), BrokerError> {
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(waiting, Ordering::SeqCst);
        let let_in = self.gate.acquire().await.unwrap();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(let_in);
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

fn outcome(index: u64, bytes: usize) -> Arc<Outcome> {
    Arc::new(Outcome {
        index: ItemIndex(index),
        input: raw(&index),
        name: None,
        source: None,
        ending: Ending::Ok(raw(&"x".repeat(bytes))),
        attempts: Attempt(1),
        maker: Arc::new(Maker { worker: "w".into(), device: "cpu".into() }),
        queued: Duration::ZERO,
        run: Duration::ZERO,
    })
}

/// A report of these, of which nobody waits to be told.
fn report(batch: &BatchId, indices: std::ops::Range<u64>, bytes: usize) -> Report {
    let outcomes = indices.map(|index| outcome(index, bytes)).collect();
    Report { batch: batch.clone(), outcomes, tell: oneshot::channel().0 }
}

/// How many outcomes of each of two batches come together where these wait, and how many are left for the next time.
fn gathered(reports: Vec<Report>, batches: [&BatchId; 2]) -> ([usize; 2], Option<usize>) {
    let (sender, mut waiting) = mpsc::channel(WAITING);
    let mut reports = reports.into_iter();
    let first = reports.next().unwrap();
    reports.for_each(|report| assert!(sender.try_send(report).is_ok()));
    let mut next = None;
    let together = gather(first, &mut waiting, &mut next);
    let count = |reports: &[Report]| reports.iter().map(|report| report.outcomes.len()).sum::<usize>();
    let counts = batches.map(|batch| together.get(batch).map_or(0, |reports| count(reports)));
    (counts, next.map(|left| count(&[left])))
}

#[test]
fn reports_share_a_message_as_far_as_one_goes_and_each_batch_has_its_own() {
    let (one, other) = (BatchId::new(), BatchId::new());
    // What fills half a message, with all that is counted for an outcome besides.
    let half = MAX_BYTES as usize / 2 - outcome(0, 0).weight_bytes() as usize - outcome(0, 0).output_bytes() as usize;
    for (reports, together) in [
        (vec![report(&one, 0..3, 0)], ([3, 0], None)),
        (vec![report(&one, 0..3, 0), report(&other, 0..2, 0), report(&one, 3..4, 0)], ([4, 2], None)),
        (vec![report(&one, 0..1, half), report(&one, 1..2, half)], ([2, 0], None)),
        (vec![report(&one, 0..1, half), report(&other, 0..1, half)], ([1, 1], None)),
        // What does not fit any more waits, and what has come behind it does too.
        (vec![report(&one, 0..1, half), report(&one, 1..2, half + 1)], ([1, 0], Some(1))),
        (vec![report(&one, 0..1, half), report(&one, 1..2, half + 1), report(&one, 2..3, 0)], ([1, 0], Some(1))),
        // One that is larger goes as it is, alone.
        (vec![report(&one, 0..1, 4 * half), report(&other, 0..2, 0)], ([1, 0], Some(2))),
        (vec![report(&one, 0..5000, 0), report(&one, 5000..5001, 0)], ([5000, 0], Some(1))),
    ] {
        let shape: Vec<usize> = reports.iter().map(|report| report.outcomes.len()).collect();
        assert_eq!(gathered(reports, [&one, &other]), together, "{shape:?}");
    }
}

#[tokio::test]
async fn while_the_broker_is_busy_reports_come_together_and_each_outcome_arrives_once() {
    const REPORTS: u64 = 400;
    const EACH: u64 = 50;
    let (gate, waiting, most) = (Semaphore::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let broker = Arc::new(Held { inner: Embedded::new(1 << 20), gate, waiting, most });
    let reporter = Reporter::start(Arc::<Held>::clone(&broker));
    let batch = BatchId::new();
    // The last come first: within a message they are in order all the same.
    let reporting = (0..REPORTS).rev().map(|n| {
        let outcomes = (n * EACH..(n + 1) * EACH).map(|index| outcome(index, 10)).collect();
        reporter.report(batch.clone(), outcomes)
    });
    let opening = async {
        while broker.most.load(Ordering::SeqCst) < UNDER_WAY {
            tokio::task::yield_now().await;
        }
        broker.gate.add_permits(UNDER_WAY);
    };

    let (told, ()) = tokio::join!(join_all(reporting), opening);

    assert!(told.iter().all(Result::is_ok));
    assert_eq!(broker.most.load(Ordering::SeqCst), UNDER_WAY, "no more are under way");
    let mut results = broker.consume(Queue::Results, Permits(1), CancellationToken::new()).await.unwrap();
    let (mut messages, mut indices) = (0, Vec::new());
    while (indices.len() as u64) < REPORTS * EACH {
        let delivery = results.next().await.unwrap();
        let Body::Outcomes { batch: of, outcomes } = &delivery.message.body else { panic!("{delivery:?}") };
        assert!(*of == batch && outcomes.len() <= MAX_OUTCOMES);
        assert!(outcomes.is_sorted_by(|one, next| one.index < next.index));
        messages += 1;
        indices.extend(outcomes.iter().map(|outcome| outcome.index.0));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..REPORTS * EACH));
    assert_eq!(broker.depth(Queue::Results).await.unwrap(), 0);
    // One each would be hundreds.
    assert!((UNDER_WAY..20).contains(&messages), "{messages} messages");
}
