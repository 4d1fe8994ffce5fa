//! Room: how many threads and processes the items of a worker may start, and how many of them it holds at once.

use std::sync::Arc;

use tidemill_core::batch::Priority;
use tidemill_core::task::{Engine, Hands as Asked};
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

/// A core's worth of items, divisible by what tasks ask for.
const SHARES: usize = 5040;

/// The items in a worker's hands, of tasks whose items hold memory: [`Asked::PerCore`]. However many travel in a chunk, and
/// whatever else is worked on beside them, no more are begun. Those of a priority have as many hands of their own: they do
/// not wait behind a million others.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    usual: Arc<Semaphore>,
    first: Arc<Semaphore>,
}

impl Hands {
    pub(crate) fn of(threads: usize) -> Self {
        let all = || Arc::new(Semaphore::new(SHARES * threads.max(1)));
        Self { usual: all(), first: all() }
    }

    /// Waits until there is a hand for one more item; it is free again when the permit is dropped. The others go by what
    /// their tasks and the settings bound.
    pub(crate) async fn take(&self, engine: Engine, priority: Priority) -> Option<SemaphorePermit<'_>> {
        let Engine::Wait(Asked::PerCore(hands)) = engine else { return None };
        let shares = (SHARES / hands.max(1)).max(1);
        let hands = if priority > Priority::default() { &self.first } else { &self.usual };
        // The semaphore is never closed.
        hands.acquire_many(u32::try_from(shares).unwrap_or(u32::MAX)).await.ok()
    }
}
