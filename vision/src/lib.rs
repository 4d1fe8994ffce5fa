//! The vision engine: networks run by libtorch, on CPUs and CUDA devices, from one executable; and `compute.map`'s
//! expressions, computed as one tensor.
//!
//! ```text
//!  card.toml ──► Network::load ──► Classifier::start
//!  (tasks)       │ card fits?      │ one named thread per instance
//!                │ folded, cast,   │
//!                ▼ warmed up       ▼
//!   pixels ──► [gather] ──► [infer] ──► [answer] ──► class and probability
//!   (bounded)   up to        u8 → device   top-k on
//!               max_batch    → normalise   the device
//!                            → forward
//! ```
//!
//! Nothing here decodes or resizes: pixels come in the network's size, as `h × w × 3` bytes. Everything about how they are
//! made so stands in the model card, [`tidemill_tasks::vision::card`].

pub mod classifier;
pub mod device;
mod engine;
pub mod labels;
mod map;
pub mod network;

mod sys;
mod torch;

pub use classifier::{Classifier, ClassifyError, Counts, InstanceConfig, Scored};
pub use device::{Device, DeviceChoice, DeviceError};
pub use engine::Torch;
pub use network::{Network, NetworkError};
