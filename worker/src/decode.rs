//! Decode: turns a message into work, or says why it is none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_core::batch::{Batch, unix_millis};
use tidemill_core::broker::{Body, Message};
use tidemill_core::chunk::Chunk;
use tidemill_core::task::{Job, Register};

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
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // By more than the id: a publisher that uses an id twice must not be given another batch's options.
        let is_same = |batch: &Batch| {
            let (one, other) = (batch, &*chunk.batch);
            one.id == other.id && one.task == other.task && one.options.get() == other.options.get()
        };
        if let Some((_, job)) = recent.iter().find(|(batch, _)| is_same(batch)) {
            return Ok(Arc::clone(job));
        }
        let kind = register.find(&chunk.batch.task).map_err(|unknown| Refusal(unknown.to_string()))?;
        let job = kind
            .prepare(&chunk.batch.options)
            .map_err(|invalid| Refusal(format!("options of {}: {invalid}", chunk.batch.task)))?;
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
        return Err(Refusal("what lies in a queue for work is no chunk".into()));
    };
    if chunk.items.is_empty() || !chunk.items.is_sorted_by(|one, next| one.index < next.index) {
        return Err(Refusal("the items of a chunk are one or more, in ascending order of index".into()));
    }
    let job = worker.jobs.get(&worker.register, chunk)?;
    Ok(Work { message: Arc::clone(message), job, cancelled: worker.cancelled.token(&chunk.batch.id) })
}
