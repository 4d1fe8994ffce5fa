//! Barrier: nobody goes on before all have come.

use crate::scenario::{Monitor, Scene, Stopped};

/// A barrier for so many threads.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    arrived: Monitor<usize>,
}

impl Barrier {
    /// A barrier at which nobody has arrived.
    pub fn new(scene: &Scene, threads: usize) -> Self {
        Self { threads, arrived: Monitor::new(scene, 0) }
    }

    /// Arrives, and waits until all have.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait(&self) -> Result<(), Stopped> {
        self.arrived.change(|arrived| *arrived += 1);
        self.arrived.wait_until(|arrived| *arrived >= self.threads).map(drop)
    }
}
