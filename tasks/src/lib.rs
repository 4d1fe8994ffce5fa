//! Every task that ships, and the register of them.
//!
//! A folder a group, a file a task: its types, its schema, its doc, its run. Adding a task touches that file and one
//! line of [`register`].

mod children;
pub mod compute;
pub mod event;
pub mod image;
#[cfg(feature = "testing")]
pub mod mischief;
pub mod net;
pub mod process;
pub mod scenario;
pub mod stream;
pub mod text;
pub mod thread;
pub mod time;
pub mod vision;

use std::sync::Arc;

use tidemill_core::task::Register;

/// What tasks need to know of where they run.
#[derive(Clone, Default)]
pub struct House {
    /// What pictures are refused by their header.
    pub image_limits: image::Limits,
    /// How much is taken from servers.
    pub net_limits: net::Limits,
    /// Where models are found.
    pub models: vision::Models,
    /// What runs networks and tensors, where libtorch is linked in.
    pub engine: Option<Arc<dyn vision::Engine>>,
    /// Where models may be trained.
    pub training: vision::train::Place,
    /// What the tasks `process.*` start for their children.
    pub children: process::Program,
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("House").field("models", &self.models).finish_non_exhaustive()
    }
}

/// For tasks that have no options.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

/// Every task.
pub fn register(house: &House) -> Register {
    let House { image_limits: limits, net_limits, models, engine, training: place, children } = house.clone();
    let register = Register::default();
    #[cfg(feature = "testing")]
    let register = if mischief::is_wanted() { register.compute(mischief::Mischief) } else { register };
    process::register(thread::register(register), &children)
        .wait(time::sleep::Sleep)
        .wait(stream::thermometers::Thermometers)
        .wait(event::turtle::Turtle)
        .compute(compute::map::Map::new(engine.clone()))
        .compute(compute::factorize::Factorize)
        .wait(text::count::Count)
        .wait(net::download::Download { limits: net_limits })
        .wait(net::links::Links { limits: net_limits })
        .wait(image::ImageTransform { limits })
        .wait(vision::classify::Classify { models: models.clone(), limits, engine: engine.clone() })
        .wait(vision::segment::Segment { models, limits, engine: engine.clone() })
        .wait(vision::train::Train { limits, place, engine })
}
