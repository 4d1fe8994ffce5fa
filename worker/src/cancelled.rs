//! Which batches were cancelled, and a token for each batch that is being worked on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_core::batch::BatchId;
use tidemill_core::lock::lock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Batches that are remembered besides those that are worked on; the oldest make room. A forgotten one whose chunks still
/// come is worked on in vain until the results API reminds of it.
const REMEMBERED: usize = 4096;

/// The results API tells of a cancelled batch every two seconds, until it is complete. One of which nobody has told for so
/// long is over, and its id may come again: it may be made of a key. Whoever tells may be away for a while.
const TOLD: Duration = Duration::from_secs(60 * 60);

/// Cancelled once its batch is.
pub(crate) type Token = Arc<CancellationToken>;

/// The tokens of the batches. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub(crate) struct Cancelled {
    tokens: Arc<Mutex<Tokens>>,
    /// How long a batch counts as cancelled of which nobody tells any more.
    told: Duration,
}

impl Default for Cancelled {
    fn default() -> Self {
        Self { tokens: Arc::default(), told: TOLD }
    }
}

#[derive(Debug, Default)]
struct Tokens {
    by_batch: HashMap<BatchId, Known>,
    by_age: VecDeque<BatchId>,
}

#[derive(Debug, Default)]
struct Known {
    token: Token,
    /// When somebody last told that it is cancelled.
    told: Option<Instant>,
}

impl Known {
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.token) == 1
    }

    fn is_over(&self, after: Duration) -> bool {
        self.is_free() && self.told.is_some_and(|told| told.elapsed() >= after)
    }
}

impl Tokens {
    fn known(&mut self, batch: &BatchId) -> &mut Known {
        if !self.by_batch.contains_key(batch) {
            if self.by_age.len() >= REMEMBERED {
                self.forget_one();
            }
            self.by_age.push_back(batch.clone());
        }
        self.by_batch.entry(batch.clone()).or_default()
    }

    /// Forgets the oldest that nobody works on.
    fn forget_one(&mut self) {
        for _ in 0..self.by_age.len() {
            let Some(oldest) = self.by_age.pop_front() else { return };
            if self.by_batch.get(&oldest).is_none_or(Known::is_free) {
                self.by_batch.remove(&oldest);
                return;
            }
            self.by_age.push_back(oldest);
        }
    }
}

impl Cancelled {
    /// Of batches whose results are kept for so long: an id comes again no sooner than they are gone, and is forgotten well
    /// before.
    pub(crate) fn where_results_are_kept_for(ttl: Duration) -> Self {
        Self { told: TOLD.min(ttl / 2), ..Self::default() }
    }

    /// The token of a batch; cancelled once the batch is.
    pub(crate) fn token(&self, batch: &BatchId) -> Token {
        let mut tokens = lock(&self.tokens);
        let known = tokens.known(batch);
        if known.is_over(self.told) {
            *known = Known::default();
        }
        Arc::clone(&known.token)
    }

    /// Marks a batch as cancelled.
    pub(crate) fn cancel(&self, batch: &BatchId) {
        let mut tokens = lock(&self.tokens);
        let known = tokens.known(batch);
        known.told = Some(Instant::now());
        known.token.cancel();
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

    #[tokio::test(start_paused = true)]
    async fn a_batch_of_which_nobody_tells_any_more_is_over_and_its_id_may_come_again() {
        let cancelled = Cancelled::default();
        let batch = BatchId::new();
        cancelled.cancel(&batch);
        tokio::time::advance(TOLD / 2).await;
        cancelled.cancel(&batch);
        tokio::time::advance(TOLD / 2).await;
        let held = cancelled.token(&batch);
        assert!(held.is_cancelled(), "it was told of just now");

        tokio::time::advance(TOLD).await;

        assert!(cancelled.token(&batch).is_cancelled(), "somebody works on it");
        drop(held);
        assert!(!cancelled.token(&batch).is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_comes_again_as_soon_as_its_results_are_gone_is_not_cancelled() {
        let ttl = Duration::from_secs(60);
        let cancelled = Cancelled::where_results_are_kept_for(ttl);
        let batch = BatchId::new();
        cancelled.cancel(&batch);
        tokio::time::advance(ttl / 3).await;
        assert!(cancelled.token(&batch).is_cancelled(), "its chunks may still come");

        tokio::time::advance(ttl * 2 / 3).await;

        assert!(!cancelled.token(&batch).is_cancelled());
        assert_eq!(Cancelled::where_results_are_kept_for(24 * TOLD).told, TOLD);
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
