//! Primitives whose waits end with the item, each of a mutex and a condition variable ([`crate::scenario::Monitor`]).
//!
//! The standard library has no semaphore and no event. Its `Barrier` is made just like ours, but a thread cannot leave it
//! before all have come, and of an item that is stopped some never come.

mod barrier;
mod event;
mod semaphore;

pub use self::barrier::Barrier;
pub use self::event::Event;
pub use self::semaphore::{Semaphore, Ticket};
