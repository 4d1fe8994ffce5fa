//! Decode: turns a message into work, or says why it is none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tidemill_core::batch::{Batch, unix_millis};
use tidemill_core::broker::{Body, Message};
use tidemill_core::chunk::Chunk;
use tidemill_core::lock::lock;
use tidemill_core::task::{Job, Register};
use tidemill_core::wire;

use crate::cancelled::Token;
use crate::{Refusal, Worker};

/// Batches whose options are kept ready. A batch that fell out is prepared again.
const KEPT: usize = 64;

/// A chunk with all that running it takes.
pub(crate) struct Work {
    pub(crate) message: Arc<Message>,
    pub(crate) job: Arc<dyn Job>,
    /// Cancelled with its batch.
    pub(crate) cancelled: Token,
}

impl Work {
    pub(crate) fn chunk(&self) -> &Chunk {
        match &self.message.body {
            Body::Chunk(chunk) => chunk,
            _ => unreachable!("decode makes work of chunks only"),
        }
    }

    /// Whether its batch's time is over.
    pub(crate) fn is_expired(&self) -> bool {
        self.chunk().batch.expires.is_some_and(|expires| unix_millis() >= expires)
    }
}

/// A batch, as far as its job depends on it, and the job.
type Prepared = (Arc<Batch>, Arc<dyn Job>);

/// The jobs of the batches at hand, so that options are parsed once a batch. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub(crate) struct Jobs {
    recent: Arc<Mutex<VecDeque<Prepared>>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

impl Jobs {
    fn get(&self, register: &Register, chunk: &Chunk) -> Result<Arc<dyn Job>, Refusal> {
        let mut recent = lock(&self.recent);
        // By more than the id: a publisher that uses an id twice must not be given another batch's options.
        let is_same = |batch: &Batch| {
            let (one, other) = (batch, &*chunk.batch);
            one.id == other.id && one.task == other.task && one.options.get() == other.options.get()
        };
        if let Some((_, job)) = recent.iter().find(|(batch, _)| is_same(batch)) {
            return Ok(Arc::clone(job));
        }
        let kind = register.find(&chunk.batch.task).map_err(|unknown| Refusal::new(unknown.to_string()))?;
        let job = kind
            .prepare(&chunk.batch.options)
            .map_err(|invalid| Refusal::new(format!("options of {}: {invalid}", chunk.batch.task)))?;
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back((Arc::clone(&chunk.batch), Arc::clone(&job)));
        Ok(job)
    }
}

/// Makes work of a message.
pub(crate) fn decode(worker: &Worker, message: &Arc<Message>) -> Result<Work, Refusal> {
    let Body::Chunk(chunk) = &message.body else {
        return Err(Refusal::new("what lies in a queue for work is no chunk".into()));
    };
    wire::check_order(&chunk.items).map_err(|malformed| Refusal::new(malformed.to_string()))?;
    let job = worker.jobs.get(&worker.register, chunk)?;
    Ok(Work { message: Arc::clone(message), job, cancelled: worker.cancelled.token(&chunk.batch.id) })
}

#[cfg(test)]
mod tests {
    use tidemill_core::batch::{Attempt, BatchId, ItemIndex, Priority};
    use tidemill_core::chunk::Item;
    use tidemill_core::retry::RetryPolicy;
    use tidemill_core::task::raw;

    use super::*;
    use crate::run::tests::{LONG, idle};

    fn message(task: &str, indices: &[u64]) -> Arc<Message> {
        let batch = Batch {
            id: BatchId::new(),
            task: task.into(),
            options: raw(&serde_json::json!({})),
            retry: RetryPolicy { attempts: 1, base: LONG, max: LONG },
            timeout: LONG,
            priority: Priority(0),
            expires: None,
        };
        let item = |index: &u64| Item { index: ItemIndex(*index), input: raw(&1), name: None, source: None };
        let items = indices.iter().map(item).collect();
        let chunk = Chunk { batch: Arc::new(batch), attempt: Attempt::FIRST, items };
        Arc::new(Message::new(Body::Chunk(chunk), Priority(0)))
    }

    fn refusal(message: &Arc<Message>) -> String {
        decode(&idle(), message).err().expect("it is refused").0
    }

    #[tokio::test]
    async fn a_refusal_is_no_longer_than_any_failure_whatever_it_repeats() {
        let refusal = refusal(&message(&"x".repeat(50_000), &[0]));

        assert!(refusal.starts_with("no task is called \"xxx") && refusal.len() < 2100, "{}", refusal.len());
    }

    #[tokio::test]
    async fn items_that_are_out_of_their_order_are_no_work() {
        let orders: [&[u64]; 3] = [&[], &[1, 0], &[1, 1]];
        for indices in orders {
            assert!(refusal(&message("test.together", indices)).contains("ascending order"), "{indices:?}");
        }
    }
}
