//! Which batches were cancelled, and a token for each batch that is being worked on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_core::batch::BatchId;
use tokio_util::sync::CancellationToken;

/// Batches that are remembered besides those that are worked on; the oldest make room. A forgotten one whose chunks still
/// come is worked on in vain until the results API reminds of it.
const REMEMBERED: usize = 4096;

/// Cancelled once its batch is.
pub(crate) type Token = Arc<CancellationToken>;

/// The tokens of the batches. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancelled {
    tokens: Arc<Mutex<Tokens>>,
}

#[derive(Debug, Default)]
struct Tokens {
    by_batch: HashMap<BatchId, Token>,
    by_age: VecDeque<BatchId>,
}

impl Tokens {
    /// Forgets the oldest that nobody works on.
    fn forget_one(&mut self) {
        for _ in 0..self.by_age.len() {
            let Some(oldest) = self.by_age.pop_front() else { return };
            if self.by_batch.get(&oldest).is_none_or(|token| Arc::strong_count(token) == 1) {
                self.by_batch.remove(&oldest);
                return;
            }
            self.by_age.push_back(oldest);
        }
    }
}

impl Cancelled {
    /// The token of a batch; cancelled once the batch is.
    pub(crate) fn token(&self, batch: &BatchId) -> Token {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.by_batch.get(batch) {
            return Arc::clone(token);
        }
        if tokens.by_age.len() >= REMEMBERED {
            tokens.forget_one();
        }
        let token = Token::default();
        tokens.by_batch.insert(batch.clone(), Arc::clone(&token));
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
        let batch = BatchId::new();
        let held = cancelled.token(&batch);
        for _ in 0..2 * REMEMBERED {
            cancelled.token(&BatchId::new());
        }
        cancelled.cancel(&batch);
        assert!(held.is_cancelled(), "one that is worked on is not forgotten");
        let tokens = cancelled.tokens.lock().unwrap();
        assert_eq!((tokens.by_batch.len(), tokens.by_age.len()), (REMEMBERED, REMEMBERED));
    }
}
