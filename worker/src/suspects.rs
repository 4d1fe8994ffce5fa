//! Suspects: chunks whose worker ended while it held them. Each runs alone, so that only the guilty pays.
//!
//! A crash counts against everything that the worker had in hand, so a chunk that was handed out again and again
//! without an end is only suspected. It moves to the queue of suspects of its lane. A worker takes one from there only
//! while nothing else runs in it: if it ends then, the broker's count of that delivery is evidence. A chunk is cut in
//! halves by it, until the killer stands alone; an item that ends its worker [`Isolation::crash_limit`] times while it
//! runs alone is dead. (Once would not do: somebody may have killed the worker from outside.) The broker counts lost connections
//! too, so before an item is taken for dead all workers are asked whether one of them has it, see [`crate::in_hand`].

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::ItemIndex;
use tidemill_core::broker::{Delivery, Queue};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::task::Lane;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decode::Work;
use crate::{Isolation, Verdict, Worker, decode, in_hand, run, settle};

/// How often a worker looks for suspects.
const LOOK: Duration = Duration::from_millis(500);
/// How often it looks whether they still wait, while it waits to be alone.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long it waits for what runs beside to end, at first and at most. Nothing else is begun meanwhile, so that what runs
/// is let go on then, and other work with it, for [`PAUSE`] times as long. It grows until it is longer than what runs beside,
/// for a suspect would wait for ever where something long always does.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));
const PAUSE: u32 = 4;
/// How long a suspect is kept that another worker has in hand, before it is looked at again.
const PUT_OFF: Duration = Duration::from_secs(60);
/// How long it runs one suspect after the other before other work has its turn.
const TURN: Duration = Duration::from_secs(5);

/// Chunks on their way to the suspects.
#[derive(Debug)]
pub struct Suspected {
    /// The chunks.
    pub chunks: Vec<Chunk>,
    /// The lane of their task.
    pub lane: Lane,
}

/// Whether a delivery is a suspect.
pub(crate) fn is_one(worker: &Worker, delivery: &Delivery) -> bool {
    worker.setup.isolation.is_some_and(|isolation| delivery.redelivered >= isolation.suspect_after)
}

/// The work as a suspect.
pub(crate) fn suspected(work: &Work) -> Suspected {
    Suspected { chunks: vec![work.chunk().clone()], lane: work.job.lane() }
}

/// Looks for suspects of a lane until `stop` is cancelled.
pub(crate) fn start(
    worker: Worker,
    lane: Lane,
    stop: CancellationToken,
    stop_working: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut patience, mut resting) = (PATIENCE.0, Instant::now());
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            // While other work has its time, suspects have theirs only where nothing runs at all.
            let is_resting = Instant::now() < resting;
            if is_resting && worker.gate.try_write().is_err() {
                continue;
            }
            let waiting = stop.run_until_cancelled(worker.broker.depth(Queue::Suspects(lane))).await;
            // A broker that is away has told so elsewhere.
            let has_some = matches!(waiting, Some(Ok(1..)));
            let within = if is_resting { Duration::ZERO } else { patience };
            if !has_some || turn(&worker, lane, within, &stop, &stop_working).await {
                (patience, resting) = (PATIENCE.0, Instant::now());
            } else if !is_resting {
                resting = Instant::now() + PAUSE * patience;
                patience = (2 * patience).min(PATIENCE.1);
            }
        }
    })
}

/// Runs suspects alone, one after the other, for a while; `false` where it was not alone in time, and some still wait.
async fn turn(
    worker: &Worker,
    lane: Lane,
    patience: Duration,
    stop: &CancellationToken,
    stop_working: &CancellationToken,
) -> bool {
    let waiting = async {
        tokio::select! {
            biased;
            alone = worker.gate.write() => Ok(alone),
            () = tokio::time::sleep(patience) => Err(false),
            () = all_gone(worker, lane) => Err(true),
        }
    };
    let _alone = match stop.run_until_cancelled(waiting).await {
        Some(Ok(alone)) => alone,
        Some(Err(is_over)) => return is_over,
        None => return false,
    };
    let until = Instant::now() + TURN;
    while Instant::now() < until && !stop.is_cancelled() {
        let _held = worker.held.token();
        let Some(delivery) = take_one(worker, lane).await else { break };
        examine(worker, lane, delivery, stop, stop_working).await;
    }
    true
}

/// Waits until other workers have taken all suspects of a lane: whoever waits to be alone keeps other work waiting.
async fn all_gone(worker: &Worker, lane: Lane) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if matches!(worker.broker.depth(Queue::Suspects(lane)).await, Ok(0)) {
            return;
        }
    }
}

/// Comes to a verdict about a suspect, with nothing beside it, and settles it.
async fn examine(
    worker: &Worker,
    lane: Lane,
    delivery: Delivery,
    stop: &CancellationToken,
    stop_working: &CancellationToken,
) {
    let mut holding = None;
    let verdict = match decode::decode(worker, &delivery.message) {
        // It came as this worker was told to stop.
        Ok(work) if stop.is_cancelled() => Verdict::Suspect(suspected(&work)),
        Ok(work) => {
            if let Some(index) = doomed(worker, &delivery, work.chunk()) {
                let asking = in_hand::nobody_has(worker, &work.chunk().batch.id, index);
                if stop.run_until_cancelled(asking).await != Some(true) {
                    return put_off(worker, delivery, stop, stop_working);
                }
            }
            match judge(worker, &delivery, &work) {
                Some(verdict) => verdict,
                None => {
                    holding = Some(worker.in_hand.hold(&delivery.message));
                    let again = Suspected { chunks: vec![work.chunk().clone()], lane };
                    let ran = stop_working.run_until_cancelled(run::run(worker, work)).await;
                    // Given back, it would look as if it had ended this worker: some brokers count that too.
                    ran.unwrap_or(Verdict::Suspect(again))
                }
            }
        }
        Err(refusal) => Verdict::Reject(refusal),
    };
    settle::settle(worker, delivery, verdict, stop_working).await;
    drop(holding);
}

/// Keeps a suspect that some worker may have in hand from everybody for a while: its outcome comes, or its worker ends.
fn put_off(worker: &Worker, delivery: Delivery, stop: &CancellationToken, stop_working: &CancellationToken) {
    tracing::debug!("a suspect may be in a worker's hands, it is looked at again later");
    let (worker, stop, stop_working) = (worker.clone(), stop.clone(), stop_working.clone());
    let held = worker.held.clone();
    held.spawn(async move {
        stop.run_until_cancelled(tokio::time::sleep(PUT_OFF)).await;
        settle::settle(&worker, delivery, Verdict::HandBack, &stop_working).await;
    });
}

/// Takes one suspect and no other: the broker would hand over the next one as soon as this one is settled, and whatever
/// is given back unrun looks as if it had ended its worker. Another worker may have been quicker.
async fn take_one(worker: &Worker, lane: Lane) -> Option<Delivery> {
    match worker.broker.take_one(Queue::Suspects(lane)).await {
        Ok(delivery) => delivery,
        Err(error) => {
            tracing::warn!(%error, "cannot take suspects");
            None
        }
    }
}

/// The item of a suspect that has ended so many workers that it is dead, as far as the broker can tell.
fn doomed(worker: &Worker, delivery: &Delivery, chunk: &Chunk) -> Option<ItemIndex> {
    let Isolation { crash_limit, .. } = worker.setup.isolation?;
    match &chunk.items[..] {
        [item] if delivery.redelivered >= crash_limit.max(1) => Some(item.index),
        _ => None,
    }
}

/// What is known of a suspect without running it again: `None` if it should run.
fn judge(worker: &Worker, delivery: &Delivery, work: &Work) -> Option<Verdict> {
    let chunk = work.chunk();
    let crashes = delivery.redelivered;
    match &chunk.items[..] {
        _ if crashes == 0 => None,
        [item] if doomed(worker, delivery, chunk).is_some() => {
            let message = format!(
                "it ended its worker {crashes} times while it ran alone (killed, out of memory, or aborted); \
                 see the workers' logs, then `tidemill dead`"
            );
            let batch = chunk.batch.id.as_str();
            tracing::error!(batch, index = item.index.0, crashes, "an item is dead: it ends its workers");
            let maker = Arc::new(Maker { worker: worker.setup.name.clone(), device: work.job.device() });
            let ending = Ending::Dead(Failure::permanent("crash", message));
            let outcome = Outcome::of(item, ending, chunk.attempt, &maker);
            let batch = chunk.batch.id.clone();
            Some(Verdict::Done { batch, outcomes: vec![Arc::new(outcome)], again: None })
        }
        [_] => None,
        items => {
            let Chunk { batch, attempt, .. } = chunk;
            let half = |items: &[Item]| Chunk { batch: Arc::clone(batch), attempt: *attempt, items: items.to_vec() };
            let (one, other) = items.split_at(items.len() / 2);
            let chunks = vec![half(one), half(other)];
            tracing::warn!(
                batch = chunk.batch.id.as_str(),
                items = items.len(),
                "a chunk ended its worker, cutting it in halves"
            );
            Some(Verdict::Suspect(Suspected { chunks, lane: work.job.lane() }))
        }
    }
}
