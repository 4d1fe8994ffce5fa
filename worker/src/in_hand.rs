//! In hand: the chunks that a worker has, for another one that is about to take an item for dead.
//!
//! A delivery without an end is a worker that has ended, or a connection: a worker that has lost its connection goes on with
//! what it holds, and its outcome comes. So whoever would judge asks all workers first, by a notice, and a worker that has the
//! item says so, by another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_core::batch::{BatchId, ItemIndex};
use tidemill_core::broker::{Body, Message, Notice};
use tidemill_core::lock::lock;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::Worker;

/// How long is waited for an answer, and for the broker to take question and answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long after its return all workers are back with the broker, and listen: five seconds pass at most between two tries to
/// connect, and one that a silent address holds up takes ten.
const ALL_BACK: Duration = Duration::from_secs(16);
/// Answers that may wait for whoever asked.
const ANSWERS: usize = 64;

/// What a worker has in hand. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    chunks: Arc<Mutex<Chunks>>,
    /// What other workers say that they have.
    found: broadcast::Sender<(BatchId, ItemIndex)>,
}

#[derive(Debug, Default)]
struct Chunks {
    by_number: HashMap<u64, Arc<Message>>,
    next: u64,
}

/// A chunk in hand, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Holding {
    chunks: Arc<Mutex<Chunks>>,
    number: u64,
}

impl Default for InHand {
    fn default() -> Self {
        Self { chunks: Arc::default(), found: broadcast::Sender::new(ANSWERS) }
    }
}

impl InHand {
    /// Has a message in hand: to be called before its items run, and dropped when their outcomes are safe.
    pub(crate) fn hold(&self, message: &Arc<Message>) -> Holding {
        let mut chunks = lock(&self.chunks);
        let number = chunks.next;
        chunks.next += 1;
        chunks.by_number.insert(number, Arc::clone(message));
        Holding { chunks: Arc::clone(&self.chunks), number }
    }

    /// Hears that a worker has an item.
    pub(crate) fn hear(&self, batch: BatchId, index: ItemIndex) {
        // An error means that nobody asks here.
        drop(self.found.send((batch, index)));
    }

    fn has(&self, batch: &BatchId, index: ItemIndex) -> bool {
        lock(&self.chunks).by_number.values().any(|message| match &message.body {
            Body::Chunk(chunk) if chunk.batch.id == *batch => {
                chunk.items.binary_search_by_key(&index, |item| item.index).is_ok()
            }
            _ => false,
        })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        lock(&self.chunks).by_number.remove(&self.number);
    }
}

/// Says so if this worker has the item. Whoever listens does not wait for that: a cancellation may come next.
pub(crate) fn answer(worker: &Worker, batch: BatchId, index: ItemIndex) {
    if !worker.in_hand.has(&batch, index) {
        return;
    }
    let broker = Arc::clone(&worker.broker);
    tokio::spawn(async move {
        let saying = broker.announce(Notice::Found(batch, index));
        if !matches!(tokio::time::timeout(ANSWER_WITHIN, saying).await, Ok(Ok(()))) {
            tracing::warn!(
                "the broker did not take the answer that an item is in hand; it may be taken for dead elsewhere"
            );
        }
    });
}

/// Whether no worker that lives has the item. Where that cannot be found out, one may.
pub(crate) async fn nobody_has(worker: &Worker, batch: &BatchId, index: ItemIndex) -> bool {
    let broker = &worker.broker;
    // What has taken the connection from whoever has the item may have taken it from this worker too.
    let back = broker.back_since();
    if let Some(back) = back {
        tokio::time::sleep_until(back + ALL_BACK).await;
    }
    let mut found = worker.in_hand.found.subscribe();
    let asking = broker.announce(Notice::Find(batch.clone(), index));
    if !matches!(tokio::time::timeout(ANSWER_WITHIN, asking).await, Ok(Ok(()))) {
        return false;
    }
    let answer = async {
        loop {
            match found.recv().await {
                Ok((of, item)) if of == *batch && item == index => return,
                // The one that was missed may be it.
                Err(RecvError::Lagged(_)) => return,
                Ok(_) => {}
                // Its sender is this worker's own.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    let is_silent = tokio::time::timeout(ANSWER_WITHIN, answer).await.is_err();
    is_silent && broker.back_since() == back
}
