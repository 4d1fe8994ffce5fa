//! Tasks of time and order.

pub mod sleep;
