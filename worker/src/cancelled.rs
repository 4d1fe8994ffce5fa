//! Which batches were cancelled, and a token for each batch that is being worked on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_core::batch::BatchId;
use tokio_util::sync::CancellationToken;

/// Batches that are remembered; the oldest make room. A forgotten one whose chunks still come is worked on in vain,
/// which costs time and nothing else.
const REMEMBERED: usize = 4096;

/// The tokens of the batches. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancelled {
    tokens: Arc<Mutex<Tokens>>,
}

#[derive(Debug, Default)]
struct Tokens {
    by_batch: HashMap<BatchId, CancellationToken>,
    by_age: VecDeque<BatchId>,
}

impl Cancelled {
    /// The token of a batch; cancelled once the batch is.
    pub(crate) fn token(&self, batch: &BatchId) -> CancellationToken {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.by_batch.get(batch) {
            return token.clone();
        }
        if tokens.by_age.len() >= REMEMBERED
            && let Some(oldest) = tokens.by_age.pop_front()
        {
            tokens.by_batch.remove(&oldest);
        }
        let token = CancellationToken::new();
        tokens.by_batch.insert(batch.clone(), token.clone());
        tokens.by_age.push_back(batch.clone());
        token
    }

    /// Marks a batch as cancelled.
    pub(crate) fn cancel(&self, batch: &BatchId) {
        self.token(batch).cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_handed_out_before_hears_of_it() {
        let cancelled = Cancelled::default();
        let batch = BatchId::new();
        let token = cancelled.token(&batch);
        cancelled.cancel(&batch);
        assert!(token.is_cancelled() && cancelled.token(&batch).is_cancelled());
        assert!(!cancelled.token(&BatchId::new()).is_cancelled());
    }

    #[test]
    fn the_memory_of_batches_is_bounded() {
        let cancelled = Cancelled::default();
        for _ in 0..2 * REMEMBERED {
            cancelled.token(&BatchId::new());
        }
        let tokens = cancelled.tokens.lock().unwrap();
        assert_eq!((tokens.by_batch.len(), tokens.by_age.len()), (REMEMBERED, REMEMBERED));
    }
}
