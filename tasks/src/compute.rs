//! Tasks that compute.

mod expression;
pub mod factorize;
pub mod map;
