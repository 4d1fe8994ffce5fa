//! The way back: outcomes into the store, and out of it in order.
//!
//! ```text
//!  Broker ─▶ collect ─▶ Store ─▶ stream ─▶ whoever reads
//! ```
//!
//! HTTP comes on top of these two.

mod collect;
mod stream;
mod tend;

pub use collect::collect;
pub use stream::Stream;
pub use tend::tend;
