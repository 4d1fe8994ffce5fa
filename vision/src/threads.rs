//! Threads that run networks. Who ends them waits for them, but not for ever: what libtorch computes cannot be broken off.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys;

/// How long a thread that was told to end is waited for: longer than a batch usually takes, and no longer than somebody
/// bears who has pressed Ctrl-C twice.
pub(crate) const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// How many threads may be within libtorch.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// Whether any thread may be within libtorch.
pub(crate) fn is_any_at_work() -> bool {
    AT_WORK.load(Ordering::SeqCst) > 0
}

/// Says that a thread may be within libtorch, for as long as it is held.
#[derive(Debug)]
pub(crate) struct AtWork(());

impl AtWork {
    /// From now on one more.
    pub(crate) fn begin() -> Self {
        sys::leave_threads_behind();
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A thread that ends when it is told to, at its next batch.
#[derive(Debug)]
pub(crate) struct OwnThread {
    handle: JoinHandle<()>,
    /// Its other side is the thread's, and goes with it. The mutex only lets it be shared: who waits has it alone.
    ended: Mutex<Receiver<()>>,
}

impl OwnThread {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// Where the system has no thread for it.
    pub(crate) fn start(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (end, ended) = sync_channel(0);
        let at_work = AtWork::begin();
        let work = move || {
            // Both go when the work has gone, with all that it held, and also where it panics.
            let (_end, _at_work) = (end, at_work);
            work();
        };
        let handle = Builder::new().name(name).spawn(work)?;
        Ok(Self { handle, ended: Mutex::new(ended) })
    }

    /// Waits until it has ended, or until a moment; says whether it has. It must have been told to.
    ///
    /// One that goes on is left to itself. That is safe: all that it uses it owns or shares, nobody hears of what it does,
    /// and the process may end without it (see [`sys::leave_threads_behind`]).
    pub(crate) fn end_by(self, moment: Instant) -> bool {
        let name = self.handle.thread().name().unwrap_or_default().to_owned();
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent.
        if ended.recv_timeout(moment.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(thread = name, "a thread still computes, and is not waited for any more");
            return false;
        }
        if self.handle.join().is_err() {
            tracing::error!(thread = name, "a thread panicked");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test waits for this long.
    const EVER: Duration = Duration::from_secs(3600);

    #[test]
    fn who_ends_is_waited_for_and_who_does_not_is_left_to_itself() {
        let (open, gate) = sync_channel::<()>(0);
        let endless = OwnThread::start("endless".to_owned(), move || gate.recv().unwrap_or(())).unwrap();
        assert!(!endless.end_by(Instant::now()));
        assert!(is_any_at_work());
        drop(open);

        let quick = OwnThread::start("quick".to_owned(), || {}).unwrap();
        assert!(quick.end_by(Instant::now() + EVER));

        let unlucky = OwnThread::start("unlucky".to_owned(), || panic!("seven")).unwrap();
        assert!(unlucky.end_by(Instant::now() + EVER));
    }
}
