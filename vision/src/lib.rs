//! The vision engine: networks run by libtorch, on CPUs and CUDA devices, from one executable; and `compute.map`'s
//! expressions, computed as one tensor.
//!
//! ```text
//!  card.toml ──► Network::load ──► Model::start ──► shelf: unloads what was used longest ago
//!  (tasks)       │ card fits?      │ a named thread per instance,
//!                │ folded, cast,   │ on each device
//!                │ held to fp32,   │
//!                ▼ warmed up       ▼
//!   pixels ──► [gather] ──► [infer] ──► [answer] ──► classes and probabilities,
//!   (bounded)   up to        u8 → device   top-k on         or a map for each class
//!               max_batch    → normalise   the device
//!                            → forward; halves where it fails; lost?
//! ```
//!
//! Nothing here decodes or resizes: pixels come in the network's size, as `h × w × 3` bytes. Everything about how they are
//! made so stands in the model card, [`tidemill_tasks::vision::card`]. [`import()`] makes the folder of one, [`verify`] checks it, [`measure`]
//! says how fast it is.

mod bench;
pub mod device;
mod engine;
mod golden;
mod import;
pub mod labels;
mod lost;
mod map;
pub mod model;
pub mod network;
mod precision;
mod shelf;

mod sys;
mod threads;
mod torch;
mod train;
mod trainer;

pub use bench::measure;
pub use device::{Device, DeviceError};
pub use engine::Torch;
pub use golden::verify;
pub use import::import;
pub use model::{Counts, InstanceConfig, Model, ModelError, Scored};
pub use network::{Network, NetworkError};
