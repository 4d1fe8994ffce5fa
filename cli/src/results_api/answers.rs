//! Answers: what workers say straight to whoever waits for an item that went in a hurry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tidemill_core::batch::{BatchId, ItemIndex};
use tidemill_core::broker::{Broker, BrokerError, Notice, Reply};
use tidemill_core::lock::lock;
use tidemill_core::segment::Segment;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Those who wait, by the batch that has the one item. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<HashMap<BatchId, Waiting>>>);

#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<Reply>,
    in_hand: Arc<Notify>,
}

/// Somebody who waits; forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Answer {
    batch: BatchId,
    reply: oneshot::Receiver<Reply>,
    in_hand: Arc<Notify>,
    answers: Answers,
}

impl Answers {
    /// Begins to wait for a batch of a new id, which is sent after this.
    pub(super) fn wait_for(&self, batch: &BatchId) -> Answer {
        let (tell, reply) = oneshot::channel();
        let in_hand = Arc::<Notify>::default();
        lock(&self.0).insert(batch.clone(), Waiting { tell, in_hand: Arc::clone(&in_hand) });
        Answer { batch: batch.clone(), reply, in_hand, answers: self.clone() }
    }

    /// Hears what workers say until `stop` is cancelled.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot begin to listen.
    pub(crate) async fn listen(&self, broker: &dyn Broker, stop: CancellationToken) -> Result<(), BrokerError> {
        let beginning = async { tokio::try_join!(broker.replies(), broker.notices()) };
        let Some(begun) = stop.run_until_cancelled(beginning).await.transpose()? else { return Ok(()) };
        let (mut replies, mut notices) = begun;
        let answers = self.clone();
        // On a thread that waits for the network, as those who are told: a role itself has a thread of its own, to which
        // and from which the word would be passed.
        let hearing = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(reply) = replies.next().await {
                answers.hear(reply);
            }
        }));
        let finding = async {
            while let Some(notice) = notices.next().await {
                if let Notice::Found(batch, ItemIndex(0)) = notice
                    && let Some(waiting) = lock(&self.0).get(&batch)
                {
                    waiting.in_hand.notify_one();
                }
            }
        };
        stop.run_until_cancelled(async { tokio::join!(hearing, finding) }).await;
        Ok(())
    }

    fn hear(&self, reply: Reply) {
        if let Some(waiting) = lock(&self.0).remove(reply.batch()) {
            // Whoever waited may be gone.
            drop(waiting.tell.send(reply));
        }
    }
}

impl Answer {
    /// Resolves with what a worker says. To be called once.
    pub(super) async fn reply(&mut self) -> Option<Reply> {
        let reply = (&mut self.reply).await.ok()?;
        // Nothing that comes is trusted.
        let is_one = |segment: &Segment| matches!(segment.indices(), [one] if *one == (0..1));
        Some(reply).filter(|reply| !matches!(reply, Reply::Outcomes(segment) if !is_one(segment)))
    }

    /// Is notified when a worker says that it has the item in hand.
    pub(super) fn in_hand(&self) -> Arc<Notify> {
        Arc::clone(&self.in_hand)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.answers.0).remove(&self.batch);
    }
}
