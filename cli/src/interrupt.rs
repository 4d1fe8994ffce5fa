//! Interrupt: commands that only watch end at once, and say how to come back.

use std::io::Write as _;

use crate::cluster::Signals;
use crate::error::Exit;
use crate::printer;

/// From now on the first signal ends the process, after it has said goodbye, for as long as the guard lives. Whoever
/// reads our output may have stopped reading, so nobody is asked and nothing is waited for.
pub(crate) fn ends_at_once(goodbye: impl FnOnce() -> String + Send + 'static) -> Guard {
    ends_at_once_from(std::future::ready(()), goodbye)
}

/// The same, from the moment on at which `begun` resolves. It does not matter what the caller's thread is held up by.
pub(crate) fn ends_at_once_from(
    begun: impl Future<Output = ()> + Send + 'static,
    goodbye: impl FnOnce() -> String + Send + 'static,
) -> Guard {
    Guard(tokio::spawn(async move {
        begun.await;
        // Where they cannot be heard, a signal does what it does to every process.
        let Ok(mut signals) = Signals::listen() else { return };
        signals.next().await;
        printer::clear();
        // A closed standard error is no reason to stay.
        drop(writeln!(std::io::stderr().lock(), "{}", printer::harmless(&goodbye())));
        end_at_once();
    }))
}

/// Ends the process as interrupted, whatever else runs in it: that only watches, or was told before.
pub(crate) fn end_at_once() {
    Exit::Interrupted.end_process();
}

/// See [`ends_at_once`].
pub(crate) struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
