//! `thread.*`: operating-system threads, and what keeps them in step.
//!
//! A file a row of the catalogue; [`primitive`] holds what the standard library lacks or does not let go of.

pub mod barrier;
pub mod condition;
pub mod current;
pub mod define;
pub mod event;
pub mod lock;
pub mod primitive;
pub mod rlock;
pub mod semaphore;
pub mod subclass;

use tidemill_core::task::Register;

use crate::scenario::Play;

/// Adds every row.
pub(crate) fn register(register: Register) -> Register {
    register
        .wait(Play(define::Define))
        .wait(Play(current::Current))
        .wait(Play(subclass::Subclass))
        .wait(Play(lock::Lock))
        .wait(Play(rlock::Rlock))
        .wait(Play(semaphore::Semaphore))
        .wait(Play(barrier::Barrier))
        .wait(Play(event::Event))
        .wait(Play(condition::Condition))
}

/// The most threads of a row that lets one choose.
pub(crate) const MAX_THREADS: u64 = 64;
/// The most items of a row that lets one choose.
pub(crate) const MAX_ITEMS: u64 = 1000;

/// The name of the thread that calls.
fn own_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}
