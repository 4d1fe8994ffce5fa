//! Report: publishes what deliveries came to, confirmed.
//!
//! While the broker confirms one message of outcomes, the next ones come together: the shorter the chunks, the more of
//! them share a message.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tidemill_core::batch::{BatchId, Priority};
use tidemill_core::broker::{Body, Broker, BrokerError, BrokerErrorKind, Message, Queue};
use tidemill_core::outcome::Outcome;
use tokio::sync::{mpsc, oneshot};

use crate::Again;
use crate::suspects::Suspected;

/// Reports that may wait for a message; whoever has more waits itself.
const WAITING: usize = 1024;
/// Messages under way. More would only make each smaller: of items that are a message each, on two cores, with two under way
/// a tenth more went through than with four.
const UNDER_WAY: usize = 2;
/// Outcomes and bytes that a message grows to, at most (one report may be larger).
const MAX_OUTCOMES: usize = 4096;
const MAX_BYTES: u64 = 1 << 20;

/// A delivery's outcomes, and whoever waits for them to be safe.
struct Report {
    batch: BatchId,
    outcomes: Vec<Arc<Outcome>>,
    tell: oneshot::Sender<Result<(), Arc<BrokerError>>>,
}

/// Publishes outcomes. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub(crate) struct Reporter(mpsc::Sender<Report>);

impl Reporter {
    /// Starts it; it ends with the last clone.
    pub(crate) fn start(broker: Arc<dyn Broker>) -> Self {
        let (reports, waiting) = mpsc::channel(WAITING);
        tokio::spawn(publish_all(broker, waiting));
        Self(reports)
    }

    /// Publishes the outcomes; resolves once the broker has them.
    pub(crate) async fn report(&self, batch: BatchId, outcomes: Vec<Arc<Outcome>>) -> Result<(), BrokerError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        let gone = || BrokerError {
            kind: BrokerErrorKind::Unreachable,
            action: "publish outcomes".into(),
            reason: "the worker is ending".into(),
        };
        self.0.send(Report { batch, outcomes, tell }).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?.map_err(|error| BrokerError {
            kind: error.kind,
            action: error.action.clone(),
            reason: error.reason.clone(),
        })
    }
}

async fn publish_all(broker: Arc<dyn Broker>, mut waiting: mpsc::Receiver<Report>) {
    let mut under_way = FuturesUnordered::new();
    let mut next = None;
    loop {
        tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            report = waiting.recv(), if next.is_none() && under_way.len() < UNDER_WAY => match report {
                Some(report) => next = Some(report),
                None => break,
            },
        }
        // What one message has left begins the next one, which need not wait for it.
        while under_way.len() < UNDER_WAY
            && let Some(first) = next.take()
        {
            let together = gather(first, &mut waiting, &mut next);
            under_way.extend(together.into_iter().map(|(batch, reports)| publish(Arc::clone(&broker), batch, reports)));
        }
    }
    while under_way.next().await.is_some() {}
}

/// What waits already, by batch, up to the size of a message; what does not fit any more is left in `next`.
fn gather(
    first: Report,
    waiting: &mut mpsc::Receiver<Report>,
    next: &mut Option<Report>,
) -> HashMap<BatchId, Vec<Report>> {
    let weigh = |report: &Report| {
        let bytes = |outcome: &Arc<Outcome>| outcome.weight_bytes() + outcome.output_bytes();
        (report.outcomes.len(), report.outcomes.iter().map(bytes).sum::<u64>())
    };
    let (mut count, mut bytes) = weigh(&first);
    let mut together: HashMap<BatchId, Vec<Report>> = HashMap::new();
    together.entry(first.batch.clone()).or_default().push(first);
    while let Ok(report) = waiting.try_recv() {
        let (more, heavier) = weigh(&report);
        (count, bytes) = (count + more, bytes + heavier);
        if count > MAX_OUTCOMES || bytes > MAX_BYTES {
            *next = Some(report);
            break;
        }
        together.entry(report.batch.clone()).or_default().push(report);
    }
    together
}

async fn publish(broker: Arc<dyn Broker>, batch: BatchId, mut reports: Vec<Report>) {
    let mut outcomes = Vec::with_capacity(reports.iter().map(|report| report.outcomes.len()).sum());
    for report in &mut reports {
        outcomes.append(&mut report.outcomes);
    }
    outcomes.sort_by_key(|outcome| outcome.index);
    let message = Message::new(Body::Outcomes { batch, outcomes }, Priority::default());
    let published = broker.publish(Queue::Results, message).await.map_err(Arc::new);
    for report in reports {
        // Whoever waited may be gone: then the delivery comes again.
        drop(report.tell.send(published.clone()));
    }
}

/// Publishes what is to run again; resolves once the broker has it.
pub(crate) async fn run_again(broker: &dyn Broker, again: &Again) -> Result<(), BrokerError> {
    let Again { chunk, lane, delay } = again;
    let message = Message::new(Body::Chunk(chunk.clone()), chunk.batch.priority);
    // A delay of nothing would be held to the queue's bound; see Broker::publish.
    let delay = (*delay).max(Duration::from_millis(1));
    broker.publish(Queue::Jobs(*lane), Message { delay, ..message }).await
}

/// Publishes chunks to the suspects of their lane.
pub(crate) async fn suspect(broker: &dyn Broker, suspected: &Suspected) -> Result<(), BrokerError> {
    for chunk in &suspected.chunks {
        let message = Message::new(Body::Chunk(chunk.clone()), Priority::default());
        broker.publish(Queue::Suspects(suspected.lane), message).await?;
    }
    Ok(())
}
