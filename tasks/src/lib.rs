//! Every task that ships, and the register of them.
//!
//! A folder a group, a file a task: its types, its schema, its doc, its run. Adding a task touches that file and one
//! line of [`register`].

pub mod compute;
pub mod image;
pub mod text;
pub mod time;
pub mod vision;

use tidemill_core::task::Register;

/// Every task.
pub fn register() -> Register {
    Register::default()
        .wait(time::sleep::Sleep)
        .compute(compute::map::Map)
        .compute(compute::factorize::Factorize)
        .wait(text::count::Count)
}
