//! Express: the one item of a batch whose outcome somebody waits for goes to a worker in a hurry, through memory.
//!
//! Nothing is accepted of such a batch before its outcome is in the store, so nothing of it need be on the broker's disk
//! before. Here the item is kept until then. Where it comes to nothing this way (no worker serves it, the worker that had it
//! has ended, nobody has heard of it) it is published as every other one. Tasks that take longer do not go this way for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_core::batch::{Attempt, Batch, ItemIndex};
use tidemill_core::broker::{Body, EXPRESS_WAIT, Health, MAX_EXPRESS_BYTES, Message, Notice, Queue, Reply};
use tidemill_core::chunk::Chunk;
use tidemill_core::failpoint::reach;
use tidemill_core::lock::lock;
use tidemill_core::outcome::Outcome;
use tidemill_core::task::{Job, Lane};
use tidemill_producer::only_item;
use tidemill_results_api::http::{Entry, SubmitError};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::publish::{Publisher, input};
use crate::submit::MAX_INPUT_BYTES;

/// How long workers have to say that they have an item, once the broker has the question.
const FOUND_WITHIN: Duration = Duration::from_millis(500);
/// How long is waited at most until they are asked again.
const MOST_PAUSE: Duration = Duration::from_secs(4);
/// Where a worker had an outcome so lately, workers are there: the broker is not asked.
const LATELY: Duration = Duration::from_secs(10);
/// How long nothing of a task goes in a hurry once an item of it took longer than [`EXPRESS_WAIT`], or was lost.
const REST: Duration = Duration::from_secs(60);
/// How long the reply is waited for before the batch is begun: by then it has come, or takes its time anyway.
const MOMENT: Duration = Duration::from_millis(5);

/// What goes in a hurry now.
#[derive(Debug, Default)]
pub(crate) struct Express {
    /// Tasks that do not, and until when.
    resting: Mutex<HashMap<String, Instant>>,
    /// When a worker of a lane had an outcome the last time.
    heard: Mutex<HashMap<Lane, Instant>>,
}

/// What became of an item that was to go in a hurry.
pub(super) enum Hastened {
    /// Its batch is sealed; with the outcome, unless only the store has that, or will.
    Ended(Option<Arc<Outcome>>),
    /// Nothing, as far as is known.
    Not,
}

impl Express {
    fn rests(&self, task: &str) -> bool {
        lock(&self.resting).get(task).is_some_and(|until| Instant::now() < *until)
    }

    fn rest(&self, task: &str) {
        lock(&self.resting).insert(task.to_owned(), Instant::now() + REST);
    }

    /// Whether workers of the lane are surely there.
    fn is_served(&self, lane: Lane) -> bool {
        lock(&self.heard).get(&lane).is_some_and(|heard| heard.elapsed() < LATELY)
    }

    fn hear(&self, lane: Lane) {
        lock(&self.heard).insert(lane, Instant::now());
    }

    fn lose(&self, lane: Lane) {
        lock(&self.heard).remove(&lane);
    }
}

impl Publisher {
    /// Sends the one item of a batch without a key in a hurry, and waits for what comes of it, while anybody waits for that. The
    /// batch is begun with its end where that comes at once, and else in a moment.
    ///
    /// # Errors
    /// [`SubmitError`] where the store is away.
    pub(super) async fn hasten(
        &self,
        batch: &Batch,
        job: &dyn Job,
        entry: &Entry,
        abandoned: &CancellationToken,
    ) -> Result<Hastened, SubmitError> {
        let Some(reply_to) = self.broker.reply_to() else { return Ok(Hastened::Not) };
        if self.broker.health() != Health::Ready || self.express.rests(&batch.task) {
            return Ok(Hastened::Not);
        }
        let item = only_item(job, input(entry.clone()), MAX_INPUT_BYTES);
        let Some(item) = item else { return Ok(Hastened::Not) };
        let chunk = Chunk { batch: Arc::new(batch.clone()), attempt: Attempt::FIRST, items: vec![item] };
        if chunk.weight_bytes() > MAX_EXPRESS_BYTES as u64 {
            return Ok(Hastened::Not);
        }
        let message = Message { reply_to: Some(reply_to), ..Message::new(Body::Chunk(chunk), batch.priority) };
        let begun = OnceCell::new();
        let begin =
            || begun.get_or_try_init(|| async { self.within_patience(self.store.begin(batch)).await.map(drop) });
        let mut answer = self.answers.wait_for(&batch.id);
        let in_hand = answer.in_hand();
        let reply = tokio::select! {
            biased;
            reply = answer.reply() => reply,
            () = self.carry(batch, job.lane(), message, &in_hand) => None,
            failed = async {
                tokio::time::sleep(MOMENT).await;
                match begin().await {
                    Ok(_) => std::future::pending().await,
                    Err(error) => error,
                }
            } => return Err(failed),
            () = self.stop.cancelled() => None,
            () = abandoned.cancelled() => None,
        };
        match reply {
            Some(Reply::Outcomes(outcome)) => {
                self.express.hear(job.lane());
                reach("express.record.before");
                let is_recorded = self.within_patience(self.store.record_only(batch, &outcome)).await?;
                reach("express.record.after");
                if is_recorded {
                    return Ok(Hastened::Ended(outcome.outcomes().pop()));
                }
            }
            Some(Reply::Passed(_)) => {}
            Some(Reply::Declined(_)) | None if !begun.initialized() => return Ok(Hastened::Not),
            // It may have come to something all the same, which nobody has heard.
            Some(Reply::Declined(_)) | None => {
                let progress = self.within_patience(self.store.progress(&batch.id)).await?;
                if progress.recorded() == 0 {
                    return Ok(Hastened::Not);
                }
            }
        }
        begin().await?;
        self.within_patience(self.store.seal(&batch.id, 1)).await?;
        Ok(Hastened::Ended(None))
    }

    /// Sends an item in a hurry; resolves once no worker has it, as far as can be found out.
    async fn carry(&self, batch: &Batch, lane: Lane, message: Message, in_hand: &Notify) {
        let queue = Queue::Express(lane);
        let is_served = self.express.is_served(lane);
        let sending = async {
            if is_served {
                self.broker.toss(queue, message).await;
                return true;
            }
            // An error, mostly because no worker serves the lane.
            self.broker.publish(queue, message).await.is_ok()
        };
        if !tokio::time::timeout(EXPRESS_WAIT, sending).await.unwrap_or_default() {
            return;
        }
        // By then a worker has it, or the broker has dropped it. Later it is asked ever less often.
        let mut pause = EXPRESS_WAIT;
        loop {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(MOST_PAUSE);
            self.express.rest(&batch.task);
            let silence = async {
                drop(self.broker.announce(Notice::Find(batch.id.clone(), ItemIndex(0))).await);
                tokio::time::sleep(FOUND_WITHIN).await;
            };
            tokio::select! {
                () = in_hand.notified() => {}
                () = silence => {
                    tracing::warn!(batch = %batch.id, "no worker has an item that went in a hurry, publishing it for good");
                    self.express.lose(lane);
                    return;
                }
            }
        }
    }
}
