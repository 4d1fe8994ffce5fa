//! Pictures: read, changed, written; and prepared for networks.
//!
//! ```text
//! bytes → header → plan ─┬→ decode (at a fraction) → blur → resize → turn ─→ further steps → colour → encode → bytes
//!                        └→ prepare: decode → resize what the crop keeps → turn → pixels for a network
//! ```
//!
//! Everything here computes on the calling thread: parallel is one picture to a core, and that is the caller's.

pub mod adjust;
pub mod blur;
pub mod colour;
pub mod decode;
mod directory;
pub mod encode;
mod error;
pub mod header;
mod jpeg;
mod means;
#[cfg(test)]
mod measure;
mod metadata;
pub mod picture;
mod plan;
mod prepare;
pub mod resize;
pub mod steps;
mod task;
mod tiff;
mod transform;
mod turn;

pub use error::{ErrorKind, ImageError};
pub use header::{Format, Header, Limits};
pub use jpeg::Eighths;
pub use plan::{LEFT_TO_BLUR, LEFT_TO_SHRINK, Plan};
pub use prepare::{Order, Preparation, Prepared, Target, prepare};
pub use steps::{Metadata, Options, Step};
pub use task::ImageTransform;
pub use transform::{Transformed, transform};
pub use turn::Turn;
