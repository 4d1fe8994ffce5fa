//! Semaphore: a counter that threads wait for, first come, first served.

use crate::scenario::{Monitor, Scene, Stopped};

/// A fair counting semaphore.
#[derive(Debug)]
pub struct Semaphore(Monitor<State>);

#[derive(Debug, Default)]
struct State {
    /// How many may pass now.
    count: usize,
    /// Tickets that were drawn.
    drawn: usize,
    /// Tickets that have passed: the next in the queue has this number.
    passed: usize,
    waiting: usize,
    is_closed: bool,
}

/// A place in the queue.
#[derive(Debug)]
#[must_use = "those behind it wait until it has passed"]
pub struct Ticket<'a> {
    semaphore: &'a Semaphore,
    number: usize,
}

impl Semaphore {
    /// A semaphore that lets so many pass.
    pub fn new(scene: &Scene, count: usize) -> Self {
        Self(Monitor::new(scene, State { count, ..State::default() }))
    }

    /// Lets one more pass.
    pub fn release(&self) {
        self.0.change(|state| state.count += 1);
    }

    /// Takes a place in the queue without waiting.
    pub fn queue(&self) -> Ticket<'_> {
        let number = self.0.change(|state| {
            state.drawn += 1;
            state.drawn - 1
        });
        Ticket { semaphore: self, number }
    }

    /// Queues and waits; whether it passed: not if the semaphore was closed.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn acquire(&self) -> Result<bool, Stopped> {
        self.queue().wait()
    }

    /// Lets nobody wait any more.
    pub fn close(&self) {
        self.0.change(|state| state.is_closed = true);
    }

    /// How many threads wait for it now.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    /// Waits until so many threads wait for it.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait_for_waiters(&self, threads: usize) -> Result<(), Stopped> {
        self.0.wait_until(|state| state.waiting >= threads).map(drop)
    }
}

impl Ticket<'_> {
    /// Waits for its turn; whether it passed: not if the semaphore was closed.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait(self) -> Result<bool, Stopped> {
        let state = &self.semaphore.0;
        state.change(|state| state.waiting += 1);
        let may_pass = |state: &State| state.count > 0 && state.passed == self.number;
        let mut held = state.wait_until(|state| state.is_closed || may_pass(state))?;
        held.waiting -= 1;
        if !may_pass(&held) {
            return Ok(false);
        }
        held.count -= 1;
        held.passed += 1;
        // The next one may find a count above 0 too.
        held.tell_all();
        Ok(true)
    }
}
