//! Event: a flag that threads wait for.

use crate::scenario::{Monitor, Scene, Stopped};

/// A flag that one sets, that all who wait for it see, and that one of them clears.
#[derive(Debug)]
pub struct Event(Monitor<State>);

#[derive(Debug, Default)]
struct State {
    is_set: bool,
    /// How often it was set.
    times: usize,
    waiting: usize,
}

impl Event {
    /// An event that is not set.
    pub fn new(scene: &Scene) -> Self {
        Self(Monitor::new(scene, State::default()))
    }

    /// Sets it and wakes all who wait.
    pub fn set(&self) {
        self.0.change(|state| {
            state.is_set = true;
            state.times += 1;
        });
    }

    /// Clears it.
    pub fn clear(&self) {
        self.0.change(|state| state.is_set = false);
    }

    /// Waits until it is set anew after it was set `seen` times, and says how often it was by then. A thread that has
    /// seen it and found that it was for another waits so for the next time, whether or not that other has cleared it.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait_after(&self, seen: usize) -> Result<usize, Stopped> {
        self.0.change(|state| state.waiting += 1);
        let mut held = self.0.wait_until(|state| state.is_set && state.times > seen)?;
        held.waiting -= 1;
        Ok(held.times)
    }

    /// Waits until it is clear.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait_clear(&self) -> Result<(), Stopped> {
        self.0.wait_until(|state| !state.is_set).map(drop)
    }

    /// Waits until so many threads wait for it.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait_for_waiters(&self, threads: usize) -> Result<(), Stopped> {
        self.0.wait_until(|state| state.waiting >= threads).map(drop)
    }
}
