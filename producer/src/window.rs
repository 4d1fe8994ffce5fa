//! The window: how much may be on its way between the inputs and the reader, so that a slow reader or a slow first
//! item holds the inputs back instead of filling the memory.

use std::sync::{Mutex, MutexGuard};

use tidemill_core::lock::lock;
use tokio::sync::Notify;

/// A budget of bytes.
#[derive(Debug)]
pub struct Window {
    max_bytes: u64,
    used: Mutex<u64>,
    freed: Notify,
}

impl Window {
    /// A window of that size.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, used: Mutex::new(0), freed: Notify::new() }
    }

    /// Takes a part of the budget once it is there. What is larger than the whole window passes alone.
    ///
    /// There is one taker. Dropping the future takes nothing.
    pub async fn take(&self, bytes: u64) {
        self.take_beside(bytes, 0).await;
    }

    /// The same, where so many bytes of what is taken cannot be given back before this.
    pub async fn take_beside(&self, bytes: u64, stuck: u64) {
        loop {
            let freed = self.freed.notified();
            {
                let mut used = self.used();
                let passing = used.saturating_sub(stuck);
                if passing == 0 || passing + bytes <= self.max_bytes {
                    *used += bytes;
                    return;
                }
            }
            freed.await;
        }
    }

    /// Takes a part of the budget whether it is there or not: for what is small and must not wait.
    pub fn take_now(&self, bytes: u64) {
        *self.used() += bytes;
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        *self.used() >= self.max_bytes
    }

    /// Gives a part back.
    pub fn give(&self, bytes: u64) {
        let mut used = self.used();
        *used = used.saturating_sub(bytes);
        drop(used);
        self.freed.notify_one();
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        lock(&self.used)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_waits_until_enough_was_given_back() {
        let window = Window::new(100);
        window.take(60).await;
        let second = window.take(60);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        window.give(20);
        second.await;
    }

    #[tokio::test]
    async fn what_is_larger_than_the_window_passes_alone() {
        let window = Window::new(100);
        window.take(5000).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), window.take(1)).await.is_err());
        window.give(5000);
        window.take(1).await;
    }
}
