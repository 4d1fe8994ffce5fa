//! Produce: opens a batch, publishes its chunks, seals it.
//!
//! [`sieve`] says what an input becomes, an item or an outcome; [`send`] is their way out.

mod send;
mod sieve;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemill_core::batch::{Batch, BatchId, Priority};
use tidemill_core::broker::{Body, Broker, BrokerError, Message, Queue};
use tidemill_core::failpoint::reach;
use tidemill_core::store::{Store, StoreErrorKind};
use tidemill_core::task::Job;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::send::Sending;
use self::sieve::Sieve;
pub use self::sieve::only_item;
use crate::cut::Cut;
use crate::inputs::{Input, Inputs, InputsError};
use crate::window::Window;

/// How long a store may take to write a batch's end before that goes through the broker, which keeps it for a store that is
/// away. Twice is as good as once.
const SEAL_WITHIN: Duration = Duration::from_secs(2);

/// Publishes one batch.
#[derive(Debug)]
pub struct Producer<'a> {
    /// Where everything goes: the chunks, and the batch's beginning and end.
    pub broker: &'a dyn Broker,
    /// The store, for whoever reaches it and has opened the batch there: its end is written at once then, and only
    /// where that does not work does it go through the broker.
    pub store: Option<&'a dyn Store>,
    /// How chunks are cut.
    pub cut: Cut,
    /// How much may be on its way between here and whoever reads; without it, whatever the broker takes.
    pub window: Option<&'a Window>,
    /// What may be published and not confirmed yet.
    pub under_way: UnderWay,
    /// Larger inputs are refused.
    pub max_input_bytes: usize,
    /// What is done to each input before it is published.
    pub ready: Option<&'a dyn Ready>,
    /// Told how many items, from the first on, the broker has confirmed; it holds where the span begins.
    pub accepted: watch::Sender<u64>,
}

/// How much may be published and not confirmed yet.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay {
    /// Messages.
    pub messages: usize,
    /// Bytes of input in them.
    pub bytes: u64,
}

/// Makes an input ready for workers, which run in another folder or cannot see this machine.
#[async_trait]
pub trait Ready: Send + Sync + std::fmt::Debug {
    /// Puts the bytes of a file where workers find them, unless they lie there, and names that place in the input.
    ///
    /// # Errors
    /// What stops the whole submission: nothing can be stored. That a single file cannot be read is no error but
    /// the input's refusal.
    async fn ready(&self, input: &mut Input) -> Result<(), NotReady>;
}

/// Files cannot be put where workers find them; why, for people.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotReady(pub Box<dyn std::error::Error + Send + Sync>);

/// Where a submission begins and what it does at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The index of the first input: the items before it were accepted before, and [passed over](Inputs::pass_over).
    pub from: u64,
    /// Whether the batch is sealed at what was read when it is stopped; else it stays open and can be resumed.
    pub seal_when_stopped: bool,
}

/// A batch that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// How many items it has.
    pub total: u64,
    /// Whether these are all the inputs; not so where it was stopped.
    pub is_whole: bool,
}

/// Why a batch was not published whole.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The broker would not.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Inputs could not be put where workers find them.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The batch has ended with other inputs meanwhile: somebody else has sent it too.
    #[error("{0}")]
    Conflict(String),
    /// The inputs end where they should not.
    #[error(transparent)]
    Inputs(#[from] InputsError),
}

impl Producer<'_> {
    /// Publishes every input and seals the batch. When `stop` is cancelled it takes no more inputs.
    ///
    /// An input that the task does not take is not sent: its outcome is published at once.
    ///
    /// # Errors
    /// [`ProduceError`]; the batch is not sealed then.
    pub async fn produce(
        &self,
        batch: Arc<Batch>,
        job: &dyn Job,
        mut inputs: Inputs,
        span: Span,
        stop: &CancellationToken,
    ) -> Result<Produced, ProduceError> {
        let mut sending = Sending::new(self, &batch, job.lane());
        if self.store.is_none() {
            sending.open()?;
        }
        let mut sieve = Sieve::new(job, self.max_input_bytes, self.cut, span.from);
        let mut is_whole = false;
        while let Some(next) = sending.next(&mut inputs, &mut sieve.cutter, stop).await? {
            let Some(bundle) = next else {
                inputs.whole()?;
                is_whole = true;
                break;
            };
            match self.ready {
                Some(ready) => sending.pass_when_ready(bundle, ready, &mut sieve).await?,
                None => {
                    for input in bundle {
                        sending.pass(input, &mut sieve).await?;
                    }
                }
            }
            let all_is_cut = sieve.cutter.is_empty();
            sending.refuse(&mut sieve.refused, all_is_cut).await?;
        }
        if let Some(items) = sieve.cutter.take() {
            sending.chunk(items).await?;
        }
        sending.land().await?;
        let total = sieve.end();
        if is_whole || span.seal_when_stopped {
            reach("producer.seal.before");
            self.seal(&batch.id, total).await?;
            reach("producer.seal.after");
            self.accepted.send_replace(total);
        }
        Ok(Produced { total, is_whole })
    }

    async fn seal(&self, batch: &BatchId, total: u64) -> Result<(), ProduceError> {
        if let Some(store) = self.store {
            match tokio::time::timeout(SEAL_WITHIN, store.seal(batch, total)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.kind == StoreErrorKind::Conflict => {
                    return Err(ProduceError::Conflict(error.reason));
                }
                Ok(Err(error)) => tracing::debug!(%error, "the batch's end goes through the broker"),
                Err(_) => tracing::debug!("the store does not answer, the batch's end goes through the broker"),
            }
        }
        let body = Body::Seal { batch: batch.clone(), total };
        self.broker.publish(Queue::Results, Message::new(body, Priority::default())).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
