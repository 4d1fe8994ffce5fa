//! Room: how many threads and processes the items of a worker may start.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Threads and processes of all items together. They sleep nearly all the time; what they cost is memory (a thread 0.3 MB,
/// nearly all of it the allocator's) and places in the system's tables.
const ROOM: usize = 512;

/// Given out in the order of asking, so that an item that needs much is not overtaken for ever.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Room {
    /// Waits for room for so many, all of it at most; it is given back when the permit is dropped.
    pub(crate) async fn take(&self, count: usize) -> Option<SemaphorePermit<'_>> {
        if count == 0 {
            return None;
        }
        // The semaphore is never closed.
        self.0.acquire_many(u32::try_from(count.min(ROOM)).unwrap_or(u32::MAX)).await.ok()
    }
}
