//! Tasks on text.

pub mod count;
