//! Turns: who comes when, by a mutex that is given on in a fixed order.

use super::{Held, Monitor, Scene, Stopped};

/// A mutex that is taken in the order of numbers, from 0 on, whoever comes first.
#[derive(Debug)]
pub struct Turns(Monitor<usize>);

/// The mutex is held. It is given on by [`Turn::pass`].
#[derive(Debug)]
pub struct Turn<'a>(Held<'a, usize>);

impl Turns {
    /// The first turn is number 0.
    pub fn new(scene: &Scene) -> Self {
        Self(Monitor::new(scene, 0))
    }

    /// Waits for the turn of that number, and holds the mutex.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn take(&self, number: usize) -> Result<Turn<'_>, Stopped> {
        self.0.wait_until(|next| *next == number).map(Turn)
    }
}

impl Turn<'_> {
    /// Gives the mutex back and lets the next one take it.
    pub fn pass(mut self) {
        *self.0 += 1;
        self.0.tell_all();
    }
}
