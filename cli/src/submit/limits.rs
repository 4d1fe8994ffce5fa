//! Limits: what ends a submission before its end, whatever it waits for: its deadline, or a signal.

use std::time::Duration;

use tidemill_core::batch::BatchId;
use tidemill_core::broker::rabbitmq::RabbitMq;
use tidemill_core::broker::{Broker as _, Health};
use tokio::time::Instant;

use crate::args::Shared;
use crate::client::Client;
use crate::cluster::Signals;
use crate::error::{CliError, Exit};

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

/// It is over before anything was sent, or anything more of a batch that is known; `why` says after the deadline what it was
/// that did not come.
pub(super) fn nothing_is_sent(
    over: Over,
    known: Option<&BatchId>,
    shared: &Shared,
    why: impl FnOnce() -> String,
) -> Result<Exit, CliError> {
    let how_to_go_on = match known {
        None => "nothing was sent; the same command again sends it".to_owned(),
        Some(batch) => format!("batch {batch}: nothing more was sent; the same command again goes on with it"),
    };
    match over {
        Over::Interrupted => {
            shared.say(&how_to_go_on);
            Ok(Exit::Interrupted)
        }
        Over::Deadline => {
            Err(CliError::new(Exit::Unreachable, format!("the deadline is over{}", why())).hint(how_to_go_on))
        }
    }
}

pub(super) fn unanswered_by(client: &Client) -> String {
    format!(", and the results API at {} has not answered", client.url())
}

pub(super) fn held_up_by(broker: &RabbitMq) -> String {
    match broker.health() {
        Health::Ready => String::new(),
        Health::Blocked(reason) => format!(", and the broker takes nothing: {reason}"),
        Health::Away(reason) => format!(", and the broker is away: {reason}"),
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
