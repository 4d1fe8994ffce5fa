//! Room: how many threads and processes items may have at once.

use std::sync::{Arc, LazyLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Threads and processes of all items of this process together. They sleep nearly all the time; what they cost is memory
/// and places in the system's tables.
const ROOM: u32 = 512;

static FREE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(ROOM as usize)));

/// Waits for room for so many; whoever came first is served first. It is given back when the permit is dropped.
pub(super) async fn take(threads: u32) -> Option<OwnedSemaphorePermit> {
    // It is never closed, so there is always a permit.
    Arc::clone(&FREE).acquire_many_owned(threads.min(ROOM)).await.ok()
}
