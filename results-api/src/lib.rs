//! The way back: outcomes into the store, and out of it in order.
//!
//! ```text
//!  Broker ─▶ collect ─▶ Store ─▶ stream ─▶ whoever reads in this process
//!                         │
//!                         └───▶ http ───▶ whoever reads over the network
//! ```

mod collect;
pub mod http;
mod stream;
mod tend;
#[cfg(feature = "testing")]
pub mod testing;

pub use collect::collect;
pub use stream::Stream;
pub use tend::{sweep, tend};
