//! Reins: what ends children when their item is stopped, from whatever thread that comes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::scenario::Scene;

/// Handles of the children that live. A handle is a process, never the next one that gets the same number.
#[derive(Clone, Debug)]
pub(super) struct Reins(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    living: Vec<(usize, Arc<OwnedFd>)>,
    is_stopped: bool,
}

impl Reins {
    /// Reins that are pulled when the scene is stopped.
    pub(super) fn of(scene: &Scene) -> Self {
        let reins = Self(Arc::default());
        let pulled = reins.clone();
        scene.at_stop(move || pulled.kill_all());
        reins
    }

    /// Takes a child; if it is too late, it is killed.
    pub(super) fn take(&self, id: usize, handle: OwnedFd) -> io::Result<()> {
        let mut held = self.lock();
        if held.is_stopped {
            pidfd_send_signal(&handle, Signal::KILL)?;
        }
        held.living.push((id, Arc::new(handle)));
        Ok(())
    }

    /// Lets go of one that has ended.
    pub(super) fn let_go(&self, id: usize) {
        self.lock().living.retain(|(living, _)| *living != id);
    }

    /// Those that live, as far as was noticed.
    pub(super) fn living(&self) -> Vec<(usize, Arc<OwnedFd>)> {
        self.lock().living.clone()
    }

    /// Sends a signal to one; to one that has ended, nothing.
    pub(super) fn signal(&self, id: usize, signal: Signal) -> io::Result<()> {
        let held = self.lock();
        let Some((_, handle)) = held.living.iter().find(|(living, _)| *living == id) else { return Ok(()) };
        match pidfd_send_signal(handle, signal) {
            // It has ended and was not waited for yet.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills them all, and those that are still to come.
    pub(super) fn kill_all(&self) {
        let mut held = self.lock();
        held.is_stopped = true;
        for (_, handle) in &held.living {
            // One that has ended needs no signal, and our own we may always send one.
            pidfd_send_signal(handle, Signal::KILL).ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
