//! Whether a device is lost: it fails whatever it is asked, until the process ends.

use std::sync::Arc;

use tokio::sync::watch;

/// Says why a device is lost, once it is. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Lost(Arc<watch::Sender<Option<String>>>);

impl Lost {
    /// Says that a device is lost. The first reason is kept: what comes after follows from it.
    pub(crate) fn tell(&self, reason: &str) {
        self.0.send_if_modified(|told| {
            let is_first = told.is_none();
            if is_first {
                tracing::error!(reason, "a device is lost to this process");
                *told = Some(reason.to_owned());
            }
            is_first
        });
    }

    /// Whether one is.
    pub(crate) fn is_told(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until one is, and says why.
    pub(crate) async fn told(&self) -> String {
        let mut told = self.0.subscribe();
        loop {
            if let Some(reason) = told.borrow_and_update().clone() {
                return reason;
            }
            // The sender is held by this very value: it does not go away.
            drop(told.changed().await);
        }
    }
}

impl Default for Lost {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_told_to_whoever_asks_before_or_after() {
        let lost = Lost::default();
        let mut before = Box::pin(lost.told());
        assert!(futures::poll!(&mut before).is_pending());

        lost.tell("first");
        lost.tell("second");

        assert_eq!((before.await.as_str(), lost.told().await.as_str(), lost.is_told()), ("first", "first", true));
    }
}
