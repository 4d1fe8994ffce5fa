//! Intake: takes deliveries from the broker, as many at a time as there are hands for.

use std::sync::Arc;

use tidemill_core::broker::{
    Body, BrokerError, Delivery, EXPRESS_WAIT, MAX_EXPRESS_BYTES, Message, Notice, Permits, Queue,
};
use tidemill_core::failpoint::reach;
use tidemill_core::task::{Engine, Lane};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::{Verdict, Worker, decode, in_hand, run, settle, suspects};

/// A queue that is taken from, and what its deliveries share.
struct Intake {
    worker: Worker,
    queue: Queue,
    /// For items that hold something while they wait.
    hands: Semaphore,
    stop_working: CancellationToken,
}

/// Deliveries in a hurry that it holds at once, at most: so many of the longest have 128 MiB.
const MOST_EXPRESS: usize = 512;

/// Starts to take from a lane. The tasks end once `stop` is cancelled or the broker is gone.
pub(crate) async fn start(
    worker: Worker,
    lane: Lane,
    stop: CancellationToken,
    stop_working: CancellationToken,
    held: TaskTracker,
) -> Result<Vec<JoinHandle<()>>, BrokerError> {
    let permits = (worker.setup.permits)(lane, &worker.setup);
    let mut intakes = Vec::new();
    // Where nothing outlives this process nothing comes from others either.
    let express = worker.setup.isolation.map(|_| (Queue::Express(lane), permits.min(MOST_EXPRESS)));
    for (queue, permits) in [(Queue::Jobs(lane), permits)].into_iter().chain(express) {
        let mut deliveries = worker.broker.consume(queue, Permits(permits), stop.clone()).await?;
        let (worker, stop_working) = (worker.clone(), stop_working.clone());
        // Where messages are short the broker hands out more. Of items that hold something while they wait, no more are begun.
        let hands = Semaphore::new(permits);
        let (intake, held) = (Arc::new(Intake { worker, queue, hands, stop_working }), held.clone());
        intakes.push(tokio::spawn(async move {
            while let Some(delivery) = deliveries.next().await {
                held.spawn(Arc::clone(&intake).handle(delivery));
            }
        }));
    }
    Ok(intakes)
}

/// Listens to what is announced to all workers, until `stop_working`.
pub(crate) async fn listen(
    worker: &Worker,
    stop: CancellationToken,
    stop_working: CancellationToken,
) -> Result<JoinHandle<()>, BrokerError> {
    let mut notices = worker.broker.notices().await?;
    let worker = worker.clone();
    Ok(tokio::spawn(async move {
        let listening = async {
            while let Some(notice) = notices.next().await {
                match notice {
                    Notice::Cancel(batch) => worker.cancelled.cancel(&batch),
                    Notice::Drain(name) if name.as_ref().is_none_or(|name| *name == worker.setup.name) => stop.cancel(),
                    Notice::Drain(_) => {}
                    Notice::Find(batch, index) => in_hand::answer(&worker, batch, index),
                    Notice::Found(batch, index) => worker.in_hand.hear(batch, index),
                }
            }
        };
        stop_working.run_until_cancelled(listening).await;
    }))
}

impl Intake {
    /// The way of one delivery.
    async fn handle(self: Arc<Self>, delivery: Delivery) {
        let Self { worker, queue, hands, stop_working } = &*self;
        let span = tracing::debug_span!("delivery", redelivered = delivery.redelivered);
        async {
            let is_express = matches!(queue, Queue::Express(_));
            let taken = Instant::now();
            if is_express && (delivery.redelivered > 0 || !is_for_express(&delivery.message)) {
                // It may have ended its worker. Where that is found out it comes by the other way.
                return settle::reply(worker, delivery, Verdict::HandBack, false, stop_working).await;
            }
            let _in_hand = worker.in_hand.hold(&delivery.message);
            let verdict = match decode::decode(worker, &delivery.message) {
                Ok(work) if suspects::is_one(worker, &delivery) => Verdict::Suspect(suspects::suspected(&work)),
                Ok(work) => {
                    let running = async {
                        let waiting = async {
                            let hand = match work.job.engine() {
                                Engine::Wait(_) => Some(hands.acquire().await),
                                // They wait for a thread, and hold nothing before; another wait costs as much as a short item.
                                Engine::Compute => None,
                            };
                            (hand, worker.gate.read().await)
                        };
                        // What is cancelled waits for nobody: nothing of it runs.
                        let _beside_others = work.cancelled.run_until_cancelled(waiting).await;
                        reach("worker.run.before");
                        let verdict = run::run(worker, work).await;
                        reach("worker.run.after");
                        verdict
                    };
                    stop_working.run_until_cancelled(running).await.unwrap_or(Verdict::HandBack)
                }
                Err(refusal) => Verdict::Reject(refusal),
            };
            if is_express {
                settle::reply(worker, delivery, verdict, taken.elapsed() > EXPRESS_WAIT, stop_working).await;
            } else {
                settle::settle(worker, delivery, verdict, stop_working).await;
            }
        }
        .instrument(span)
        .await;
    }
}

/// Whether a message is what may come in a hurry.
fn is_for_express(message: &Message) -> bool {
    matches!(&message.body, Body::Chunk(chunk)
        if chunk.items.len() == 1 && chunk.weight_bytes() <= MAX_EXPRESS_BYTES as u64)
}
