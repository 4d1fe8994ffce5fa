//! Produce: opens a batch, publishes its chunks, seals it.

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::{Attempt, Batch, ItemIndex, Priority};
use tidemill_core::broker::{Body, Broker, BrokerError, Message, Queue};
use tidemill_core::chunk::{Chunk, Item};
use tidemill_core::failure::Failure;
use tidemill_core::outcome::{Ending, Maker, Outcome};
use tidemill_core::store::{Store, StoreError};
use tidemill_core::task::Job;
use tokio_util::sync::CancellationToken;

use crate::cut::{Cut, Cutter};
use crate::inputs::{Input, Inputs};
use crate::window::Window;

/// How long an unfinished chunk waits for more inputs.
const LINGER: Duration = Duration::from_millis(20);

/// Publishes one batch.
#[derive(Debug)]
pub struct Producer<'a> {
    /// Where chunks go.
    pub broker: &'a dyn Broker,
    /// Where the batch is opened and sealed.
    pub store: &'a dyn Store,
    /// How chunks are cut.
    pub cut: Cut,
    /// How much may be on its way.
    pub window: &'a Window,
}

/// A batch that was published and sealed.
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
    /// The store would not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Producer<'_> {
    /// Publishes every input and seals the batch. When `stop` is cancelled it takes no more inputs and seals what there
    /// is.
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
        stop: &CancellationToken,
    ) -> Result<Produced, ProduceError> {
        self.store.open(&batch).await?;
        let queue = Queue::Jobs(job.lane());
        let nobody = Arc::new(Maker { worker: String::new(), device: String::new() });
        let mut cutter = Cutter::new(self.cut);
        let mut refused = Vec::new();
        let (mut total, mut is_whole) = (0, false);
        while let Some(next) = self.next(&mut inputs, &batch, queue, &mut cutter, stop).await? {
            let Some(bundle) = next else {
                is_whole = true;
                break;
            };
            for mut input in bundle {
                let index = ItemIndex(total);
                total += 1;
                if let Some(failure) = refusal(job, &mut input) {
                    refused.push(Arc::new(Outcome {
                        index,
                        input: input.json,
                        name: None,
                        ending: Ending::Failed(failure),
                        attempts: Attempt(0),
                        maker: Arc::clone(&nobody),
                        queued: Duration::ZERO,
                        run: Duration::ZERO,
                    }));
                } else if let Some(items) =
                    cutter.push(Item { index, input: input.json, name: input.name, source: input.source })
                {
                    self.refuse(&batch, &mut refused).await?;
                    self.publish(&batch, queue, items).await?;
                }
            }
            self.refuse(&batch, &mut refused).await?;
        }
        if let Some(items) = cutter.take() {
            self.publish(&batch, queue, items).await?;
        }
        self.store.seal(&batch.id, total).await?;
        Ok(Produced { total, is_whole })
    }

    /// The next inputs, `Some(None)` at their end, `None` when it was stopped. While the window is full or the inputs
    /// are slow, what was cut so far goes out: whoever reads in order may be waiting for just that.
    ///
    /// Only waiting for inputs is broken off by `stop`: a chunk that was cut is published, or its items were lost.
    async fn next(
        &self,
        inputs: &mut Inputs,
        batch: &Arc<Batch>,
        queue: Queue,
        cutter: &mut Cutter,
        stop: &CancellationToken,
    ) -> Result<Option<Option<Vec<Input>>>, ProduceError> {
        if !self.window.is_full() {
            match stop.run_until_cancelled(tokio::time::timeout(LINGER, inputs.next())).await {
                Some(Ok(bundle)) => return Ok(Some(bundle)),
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
        if let Some(items) = cutter.take() {
            self.publish(batch, queue, items).await?;
        }
        let when_there_is_room = async {
            self.window.take(0).await;
            inputs.next().await
        };
        Ok(stop.run_until_cancelled(when_there_is_room).await)
    }

    async fn publish(&self, batch: &Arc<Batch>, queue: Queue, items: Vec<Item>) -> Result<(), ProduceError> {
        let chunk = Chunk { batch: Arc::clone(batch), attempt: Attempt::FIRST, items };
        self.window.take(chunk.weight_bytes()).await;
        Ok(self.broker.publish(queue, Message::new(Body::Chunk(chunk), batch.priority)).await?)
    }

    /// Publishes the outcomes of what was refused. It never waits for the window: an earlier item may still be uncut,
    /// and whoever reads in order would wait for that one.
    async fn refuse(&self, batch: &Batch, outcomes: &mut Vec<Arc<Outcome>>) -> Result<(), ProduceError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let outcomes = std::mem::take(outcomes);
        self.window.take_now(outcomes.iter().map(|outcome| outcome.weight_bytes()).sum());
        let body = Body::Outcomes { batch: batch.id.clone(), outcomes };
        Ok(self.broker.publish(Queue::Results, Message::new(body, Priority::default())).await?)
    }
}

/// Why an input is none: it could not be read, or the task does not take it.
fn refusal(job: &dyn Job, input: &mut Input) -> Option<Failure> {
    input.refused.take().or_else(|| job.check(&input.json).err().map(Failure::from))
}
