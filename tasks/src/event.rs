//! Tasks of events.

pub mod turtle;
