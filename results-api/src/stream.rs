//! Streams: a batch's outcomes as soon as they can be read in the order that was asked for.

use std::sync::Arc;

use tidemill_core::batch::BatchId;
use tidemill_core::outcome::Outcome;
use tidemill_core::store::{Order, Store, StoreError, Version};

/// Outcomes in one page; a page is what is held in memory at a time.
const PAGE: usize = 4096;

/// Reads a batch from a place on, in either order, as far as it has come, and waits for more.
#[derive(Debug)]
pub struct Stream {
    store: Arc<dyn Store>,
    batch: BatchId,
    order: Order,
    next: u64,
    is_over: bool,
    seen: Version,
}

impl Stream {
    /// Begins at place `from`: an index in input order, a count of completions in completion order.
    pub fn new(store: Arc<dyn Store>, batch: BatchId, order: Order, from: u64) -> Self {
        Self { store, batch, order, next: from, is_over: false, seen: Version::default() }
    }

    /// The next outcomes, at least one; `None` once the batch is complete and all was read. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn next(&mut self) -> Result<Option<Vec<Arc<Outcome>>>, StoreError> {
        while !self.is_over {
            let page = self.store.read(&self.batch, self.order, self.next, PAGE).await?;
            (self.next, self.is_over) = (page.next, page.is_last);
            if !page.outcomes.is_empty() {
                return Ok(Some(page.outcomes));
            }
            if !self.is_over {
                self.seen = self.store.changed(&self.batch, self.seen).await?;
            }
        }
        Ok(None)
    }

    /// Lets the store drop what was read so far: for the one reader of a batch that is read once.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget(&self) -> Result<(), StoreError> {
        self.store.forget(&self.batch, self.order, self.next).await
    }
}
