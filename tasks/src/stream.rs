//! Tasks of streams.

pub mod thermometers;
