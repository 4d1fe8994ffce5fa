//! Express: the one item of a batch whose outcome somebody waits for goes to a worker in a hurry, through memory.
//!
//! Nothing is accepted of such a batch before its outcome is in the store, so nothing of it need be on the broker's disk
//! before. Here the item is kept until then. Where it comes to nothing this way (no worker serves it, the worker that had it
//! has ended, an attempt is to be made again) it is published as every other one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_core::batch::{Attempt, Batch, ItemIndex};
use tidemill_core::broker::{Body, EXPRESS_WAIT, Health, MAX_EXPRESS_BYTES, Message, Notice, Queue};
use tidemill_core::chunk::Chunk;
use tidemill_core::failpoint::reach;
use tidemill_core::lock::lock;
use tidemill_core::outcome::Outcome;
use tidemill_core::store::Version;
use tidemill_core::task::{Job, Lane};
use tidemill_producer::only_item;
use tidemill_results_api::http::{Entry, SubmitError, SubmitErrorKind};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::publish::{Publisher, input, of_store};
use crate::submit::MAX_INPUT_BYTES;

/// How long workers have to say that they have an item.
const FOUND_WITHIN: Duration = Duration::from_millis(500);
/// Where a worker had an outcome so lately, workers are there: the broker is not asked.
const LATELY: Duration = Duration::from_secs(10);
/// How long is waited at most until they are asked again.
const MOST_PAUSE: Duration = Duration::from_secs(60);
/// How long nothing goes in a hurry once an item was lost: there is something that loses them.
const REST: Duration = Duration::from_secs(10);
/// How long nothing but the reply is looked for: by then it has come, or takes its time anyway.
const MOMENT: Duration = Duration::from_millis(5);

/// Whether items go in a hurry now.
#[derive(Debug, Default)]
pub(crate) struct Express {
    rests_until: Mutex<Option<Instant>>,
    /// When a worker had an outcome the last time.
    heard: Mutex<HashMap<Lane, Instant>>,
}

/// What became of an item that was to go in a hurry.
pub(super) enum Hastened {
    /// Its batch is complete; with the outcome, unless only the store has that.
    Ended(Option<Arc<Outcome>>),
    /// Nothing, as far as is known.
    Not,
}

impl Express {
    fn rests(&self) -> bool {
        lock(&self.rests_until).is_some_and(|until| Instant::now() < until)
    }

    /// Whether workers of the lane are surely there.
    fn is_served(&self, lane: Lane) -> bool {
        lock(&self.heard).get(&lane).is_some_and(|heard| heard.elapsed() < LATELY)
    }

    fn hear(&self, lane: Lane) {
        lock(&self.heard).insert(lane, Instant::now());
    }

    fn rest(&self) {
        lock(&self.heard).clear();
        *lock(&self.rests_until) = Some(Instant::now() + REST);
    }
}

impl Publisher {
    /// Sends the one item of a batch in a hurry, and waits for what comes of it, while anybody waits for that. The batch is
    /// begun with its end where that comes at once, and else in a moment.
    ///
    /// # Errors
    /// [`SubmitError`] where the store is away, or nobody waits any more.
    pub(super) async fn hasten(
        &self,
        batch: &Batch,
        job: &dyn Job,
        entry: &Entry,
        is_begun: bool,
        abandoned: &CancellationToken,
    ) -> Result<Hastened, SubmitError> {
        let Some(reply_to) = self.broker.reply_to() else { return Ok(Hastened::Not) };
        if self.broker.health() != Health::Ready || self.express.rests() {
            return Ok(Hastened::Not);
        }
        let item = only_item(job, input(entry.clone()), MAX_INPUT_BYTES);
        let Some(item) = item else { return Ok(Hastened::Not) };
        let chunk = Chunk { batch: Arc::new(batch.clone()), attempt: Attempt::FIRST, items: vec![item] };
        if chunk.weight_bytes() > MAX_EXPRESS_BYTES as u64 {
            return Ok(Hastened::Not);
        }
        let message = Message { reply_to: Some(reply_to), ..Message::new(Body::Chunk(chunk), batch.priority) };
        let begun = OnceCell::new_with(is_begun.then_some(()));
        let begin =
            || begun.get_or_try_init(|| async { self.within_patience(self.store.begin(batch)).await.map(drop) });
        let mut answer = self.answers.wait_for(&batch.id);
        let in_hand = answer.in_hand();
        let came = tokio::select! {
            biased;
            outcome = answer.outcome() => outcome,
            () = self.carry(batch, job.lane(), message, &in_hand) => None,
            recorded = async {
                tokio::time::sleep(MOMENT).await;
                begin().await?;
                self.until_recorded(batch).await
            } => {
                recorded?;
                self.within_patience(self.store.seal(&batch.id, 1)).await?;
                return Ok(Hastened::Ended(None));
            }
            () = self.stop.cancelled() => None,
            () = abandoned.cancelled() => {
                if begun.initialized() {
                    drop(self.within_patience(self.give_up(&batch.id, 0)).await);
                }
                return Err(SubmitError { kind: SubmitErrorKind::Away, message: "nobody waits any more".into() });
            }
        };
        let Some(outcome) = came else { return Ok(Hastened::Not) };
        self.express.hear(job.lane());
        reach("express.record.before");
        let record = || self.within_patience(self.store.record_only(&outcome));
        // One behind the other, in one round trip, where both go to one server and over one connection.
        let (begun, recorded) = tokio::join!(begin(), record());
        begun?;
        let is_recorded = match recorded {
            Ok(is_recorded) => is_recorded,
            // The other way round.
            Err(_) => record().await?,
        };
        reach("express.record.after");
        Ok(if is_recorded { Hastened::Ended(outcome.outcomes().pop()) } else { Hastened::Not })
    }

    /// Sends an item in a hurry; resolves once no worker has it, as far as can be found out.
    async fn carry(&self, batch: &Batch, lane: Lane, message: Message, in_hand: &Notify) {
        let queue = Queue::Express(lane);
        if self.express.is_served(lane) {
            self.broker.toss(queue, message).await;
        } else {
            let published = tokio::time::timeout(EXPRESS_WAIT, self.broker.publish(queue, message)).await;
            // Mostly because no worker serves the lane.
            if !matches!(published, Ok(Ok(()))) {
                return;
            }
        }
        // By then a worker has it, or the broker has dropped it. Later it is asked ever less often: of a worker that has ended
        // the next one hears at once, and so do we.
        let mut pause = EXPRESS_WAIT;
        loop {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(MOST_PAUSE);
            let asking = self.broker.announce(Notice::Find(batch.id.clone(), ItemIndex(0)));
            let found = async {
                drop(asking.await);
                in_hand.notified().await;
            };
            if tokio::time::timeout(FOUND_WITHIN, found).await.is_err() {
                tracing::warn!(batch = %batch.id, "no worker has an item that went in a hurry, publishing it for good");
                self.express.rest();
                return;
            }
        }
    }

    /// Resolves when the outcome of a batch's one item was recorded: some come as those of every other.
    async fn until_recorded(&self, batch: &Batch) -> Result<(), SubmitError> {
        let mut seen = Version::default();
        loop {
            seen = self.store.changed(&batch.id, seen).await.map_err(|error| of_store(&error))?;
            let progress = self.store.progress(&batch.id).await.map_err(|error| of_store(&error))?;
            if progress.recorded() > 0 {
                return Ok(());
            }
        }
    }
}
