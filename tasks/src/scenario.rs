//! Scenarios: what the exercises of threads and of processes have in common.
//!
//! ```text
//!  item over options ─▶ Fields ─▶ a main thread of its own ─▶ Exercise::play
//!                                                                │ Scene: nap, say, crew, Monitor
//!  Output { messages, elapsed_ms, …extras, timeline, runs } ◀─────┘
//! ```
//!
//! An [`Exercise`] is one row of the catalogue: its fields, its documentation, and [`Exercise::play`], which starts
//! threads or processes, lets them speak in their turn and joins them. [`Play`] makes a task of it. When nobody waits for
//! an item any more (cancelled, overdue, interrupted), its [`Scene`] is stopped: every wait below ends with [`Stopped`],
//! and so does every thread. How many threads there are at once is bounded by the worker ([`Exercise::room`]).

mod crew;
mod exercise;
mod fields;
mod monitor;
mod names;
mod output;
mod scene;
mod seeded;
mod turns;

pub use self::crew::{Crew, Member};
pub use self::exercise::{Exercise, Play};
pub use self::fields::{Common, Fields, Within};
pub(crate) use self::fields::{fields, from_object};
pub use self::monitor::{Held, Monitor};
pub use self::names::Names;
pub use self::output::{Nothing, Output, Ran, Said};
pub use self::scene::{RunId, Scene, Stopped};
pub use self::seeded::Seeded;
pub use self::turns::{Turn, Turns};
