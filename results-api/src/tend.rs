//! Tending: what the results API does besides collecting, so that workers need no store.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::value::RawValue;
use tidemill_core::batch::{Attempt, BatchId, unix_millis};
use tidemill_core::blobs::Blobs;
use tidemill_core::broker::{Body, Broker, BrokerError, Heartbeat, Notice, Permits, Queue, Settlement};
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::store::{Shared, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Heartbeats in hand.
const PERMITS: Permits = Permits(256);
/// How often the cancelled batches are told again, for workers that have come since.
const REMIND: Duration = Duration::from_secs(2);

/// A batch that was cancelled, is not sealed and has not changed for so long is not gone on with: its submission would have
/// sealed it. What its workers were at has ended by then, or comes too late.
const QUIET: Duration = Duration::from_secs(60);

/// They are ended only after outcomes have kept up for so many reminders. While they wait in the broker, because the store or
/// its collectors were away, say, that nothing comes of a batch does not mean that nothing will.
const CALM: u32 = 5;
/// Messages of outcomes that may wait meanwhile: what collectors that keep up have before them.
const KEEPING_UP: u64 = 128;

/// How often is swept.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// Keeps what workers say of themselves, reminds them of what was cancelled, and ends cancelled batches that nobody goes on
/// with, until `stop` is cancelled.
///
/// # Errors
/// [`BrokerError`] where it cannot begin to consume.
pub async fn tend(broker: &dyn Broker, store: &dyn Shared, stop: CancellationToken) -> Result<(), BrokerError> {
    let heartbeats = keep_heartbeats(broker, store, stop.clone());
    let reminding = stop.run_until_cancelled(remind(broker, store));
    let (kept, _) = tokio::join!(heartbeats, reminding);
    kept
}

/// Lets go of what nobody needs any more, now and then, until `stop` is cancelled: blobs that were kept for long enough,
/// batches that were never sealed.
pub async fn sweep(store: &dyn Shared, blobs: Option<&Blobs>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let Some(swept) = stop.run_until_cancelled(store.sweep()).await else { return };
        match swept {
            Ok(0) => {}
            Ok(batches) => tracing::info!(batches, "batches that were never sealed are given up after results.ttl"),
            Err(error) => tracing::warn!(%error, "batches that were never sealed cannot be looked for"),
        }
        let Some(blobs) = blobs else { continue };
        match blobs.sweep().await {
            Ok(0) => {}
            Ok(blobs) => tracing::info!(blobs, "blobs were removed that were kept for blobs.keep"),
            Err(error) => tracing::warn!(%error, "blobs cannot be swept"),
        }
    }
}

async fn keep_heartbeats(broker: &dyn Broker, store: &dyn Shared, stop: CancellationToken) -> Result<(), BrokerError> {
    let consuming = stop.run_until_cancelled(broker.consume(Queue::Workers, PERMITS, stop.clone())).await;
    let Some(mut deliveries) = consuming.transpose()? else { return Ok(()) };
    while let Some(first) = deliveries.next().await {
        let mut held = vec![first];
        while let Some(Some(next)) = deliveries.next().now_or_never() {
            held.push(next);
        }
        let said = held.iter().filter_map(|delivery| match &delivery.message.body {
            // By our clock: whether a worker lives is not to depend on its own.
            Body::Heartbeat(heartbeat) => Some(Heartbeat { at: unix_millis(), ..heartbeat.clone() }),
            _ => None,
        });
        if let Err(error) = store.beat(&said.collect::<Vec<_>>()).await {
            tracing::warn!(%error, "heartbeats could not be kept");
        }
        for delivery in held {
            // The next heartbeat makes up for one that was lost.
            drop(delivery.settle(Settlement::Ack).await);
        }
    }
    Ok(())
}

async fn remind(broker: &dyn Broker, store: &dyn Shared) {
    let mut tick = tokio::time::interval(REMIND);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut calm = 0;
    loop {
        tick.tick().await;
        let asked = Instant::now();
        let cancelled = match store.cancelled().await {
            Ok(cancelled) => cancelled,
            Err(error) => {
                tracing::warn!(%error, "cannot look up what was cancelled");
                calm = 0;
                continue;
            }
        };
        let is_calm = !cancelled.is_empty()
            && asked.elapsed() < REMIND
            && matches!(broker.depth(Queue::Results).await, Ok(0..=KEEPING_UP));
        calm = if is_calm { CALM.min(calm + 1) } else { 0 };
        for batch in cancelled {
            if let Err(error) = broker.announce(Notice::Cancel(batch.clone())).await {
                tracing::warn!(%error, "workers cannot be reminded of a cancelled batch");
            }
            if calm == CALM
                && let Err(error) = close(store, &batch).await
            {
                tracing::warn!(%error, "a cancelled batch whose submission is gone cannot be ended");
            }
        }
    }
}

/// Ends a cancelled batch whose submission is gone. Where that was killed, an item may never have reached the broker, and a
/// later one may have: nobody but us can give the first its outcome, nor say what its input was.
async fn close(store: &dyn Shared, batch: &BatchId) -> Result<(), StoreError> {
    let nobody = Arc::new(Maker::default());
    let open = store.close(batch, QUIET).await?.into_iter();
    let cancelled = open.map(|index| {
        Arc::new(Outcome {
            index,
            input: RawValue::NULL.to_owned(),
            name: None,
            source: None,
            ending: Ending::Cancelled,
            attempts: Attempt(0),
            maker: Arc::clone(&nobody),
            queued: Duration::ZERO,
            run: Duration::ZERO,
        })
    });
    let cancelled: Vec<_> = cancelled.collect();
    // If there are more, they come with the next reminder: others wait to be reminded of too.
    if cancelled.is_empty() { Ok(()) } else { store.record(batch, &cancelled).await }
}
