//! The producer: inputs become a batch, cut into chunks, published and confirmed.
//!
//! ```text
//!  words, files, folders, NDJSON ─▶ inputs ─▶ check ─▶ cut ─▶ publish ─▶ Broker
//!                                              │
//!                                              └─ refused ─▶ Broker (its outcome, at once)
//! ```

mod cut;
pub mod inputs;
mod produce;
mod window;

pub use cut::Cut;
pub use produce::{NotReady, ProduceError, Produced, Producer, Ready, Span, UnderWay, only_item};
pub use window::Window;
