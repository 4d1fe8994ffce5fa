//! Failures: why an item has no output.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compute::Panicked;

/// Why an item failed, as it stands in its outcome.
///
/// `kind` is a word of a closed list per task, for programs; `message` is for people: a lowercase
/// fragment that says what was wrong and, where there is one, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs: `invalid_input`, `timeout`, `panic`, `not_found`, …
    pub kind: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// Whether the same item may succeed when it runs again.
    pub retryable: bool,
    /// It should not run again before this is over: somebody (a server) asked for it. No longer than the batch's own
    /// longest delay is waited, whatever was asked. It matters to the worker only, and is not told.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that will come again however often the item runs: its input is bad.
    pub fn permanent(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: shortened(message.into()), retryable: false, retry_after: None }
    }

    /// A failure that may pass: the item is run again, within its batch's [`crate::retry::RetryPolicy`].
    pub fn transient(kind: &'static str, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::permanent(kind, message) }
    }

    /// The input does not have the form that the task takes.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::permanent("invalid_input", message)
    }

    /// The attempt took longer than its batch allows.
    pub fn timed_out(timeout: Duration) -> Self {
        Self::transient("timeout", format!("took longer than the timeout of {timeout:?}"))
    }

    /// The task's own code panicked on this item.
    pub fn panicked(message: &str) -> Self {
        Self::permanent("panic", format!("the task panicked on this item: {message}"))
    }

    /// The item ended where it was, since nobody waits for it any more. That says nothing of its input: should somebody
    /// wait after all, it is run again.
    pub fn stopped() -> Self {
        Self::transient("stopped", "it was stopped: nobody waits for it any more")
    }

    /// The system grants no more threads.
    pub fn no_thread(error: &std::io::Error) -> Self {
        Self::transient("no_thread", format!("the system grants no more threads: {error}"))
    }
}

/// What a closure on a computing thread was at when it panicked: the task's own code, on an item.
impl From<Panicked> for Failure {
    fn from(Panicked(message): Panicked) -> Self {
        Self::panicked(&message)
    }
}

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 2000;

/// A message that is no longer than one may be: its beginning and its end. Some libraries repeat what they could not read,
/// however long it is, and say at the end what is wrong with it. An outcome has the input already, and must fit into a message
/// with it.
pub fn shortened(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let (start, end) = (3 * MAX_MESSAGE / 4, message.len() - MAX_MESSAGE / 4);
    format!("{} … {}", &message[..message.floor_char_boundary(start)], &message[message.ceil_char_boundary(end)..])
}

/// An error with all its causes, on one line, for a message that has no room for more.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_repeats_a_long_input_keeps_its_beginning_and_its_end() {
        let failure = Failure::invalid_input(format!("no number: \"{}\" at line 1", "ü\\".repeat(1 << 20)));

        assert!(failure.message.len() < MAX_MESSAGE + 10, "{}", failure.message.len());
        assert!(failure.message.starts_with("no number: \"ü\\ü") && failure.message.ends_with("\" at line 1"));
        assert_eq!(Failure::timed_out(Duration::from_secs(1)).message, "took longer than the timeout of 1s");
    }

    #[test]
    fn what_says_nothing_of_the_input_may_pass() {
        for (failure, kind) in [
            (Failure::stopped(), "stopped"),
            (Failure::no_thread(&std::io::Error::other("limit")), "no_thread"),
            (Failure::timed_out(Duration::ZERO), "timeout"),
        ] {
            assert_eq!((&*failure.kind, failure.retryable), (kind, true));
        }
    }
}
