//! The way back: outcomes into the store, and out of it in order.
//!
//! ```text
//!  Broker ─▶ collect ─▶ Store ─▶ stream ─▶ whoever reads in this process
//!     └────▶ ahead ───────┤
//!                         └───▶ http ───▶ whoever reads over the network
//! ```

mod ahead;
mod collect;
pub mod http;
mod stream;
mod tend;
#[cfg(feature = "testing")]
pub mod testing;

pub use ahead::{Ahead, Expected};
pub use collect::collect;
pub use stream::Stream;
pub use tend::{sweep, tend};
