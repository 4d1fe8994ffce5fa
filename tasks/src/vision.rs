//! Tasks that run a network over images: what they and the engine behind them have in common.
//!
//! Nothing here needs libtorch. The networks themselves run in the crate `tidemill-vision`.

pub mod card;
pub mod classify;
mod engine;
mod import;
mod models;
mod picture;
pub mod segment;
pub mod train;

pub use engine::{Engine, Label, Pixels, Segmented};
pub use import::Import;
pub use models::{DEFAULT_MODEL, Models};
pub use picture::Fetched;
