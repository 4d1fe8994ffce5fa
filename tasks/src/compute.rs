//! Tasks that compute.

pub mod factorize;
pub mod map;
