//! Limits: what ends a submission before its end, whatever it waits for: its deadline, or a signal.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Signals;
use crate::error::CliError;

/// The limits of one submission, from its beginning on.
pub(super) struct Limits {
    deadline: Option<Instant>,
    signals: Signals,
}

/// Which of them is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Deadline,
    Interrupted,
}

impl Limits {
    /// Begins to count, and to listen.
    pub(super) fn begin(deadline: Option<Duration>) -> Result<Self, CliError> {
        // One that lies beyond what a clock can tell is none.
        let deadline = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        Ok(Self { deadline, signals: Signals::listen()? })
    }

    /// Resolves once one of them is over.
    pub(super) async fn over(&mut self) -> Over {
        let deadline = self.deadline;
        let deadline = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = deadline => Over::Deadline,
            () = self.signals.next() => Over::Interrupted,
        }
    }

    /// Waits for something, and no longer than that.
    pub(super) async fn hold<T>(&mut self, waited_for: impl Future<Output = T>) -> Result<T, Over> {
        tokio::select! {
            came = waited_for => Ok(came),
            over = self.over() => Err(over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_that_no_clock_can_tell_never_comes() {
        let mut limits = Limits::begin(Some(Duration::MAX)).unwrap();
        assert_eq!(limits.hold(tokio::task::yield_now()).await, Ok(()));
    }

    #[tokio::test]
    async fn nothing_is_waited_for_beyond_the_deadline() {
        let mut limits = Limits::begin(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(limits.hold(std::future::pending::<()>()).await, Err(Over::Deadline));
    }
}
