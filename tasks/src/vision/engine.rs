//! The seam to libtorch: what runs networks, and expressions over many numbers.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::batch::Priority;
use tidemill_core::broker::NetworkWork;
use tidemill_core::failure::Failure;

use super::card::Card;
use super::segment::Scores;
use super::train::{Output, Training};

/// One answer of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Label {
    /// The class's name.
    pub label: String,
    /// 0 to 1.
    pub probability: f32,
}

/// A picture as a network takes it.
#[derive(Clone, Debug, Default)]
pub struct Pixels {
    /// Height × width × 3 bytes, as the card's input says.
    pub data: Vec<u8>,
    /// How long it took to decode and to resize it.
    pub took: Duration,
    /// Before which other pictures it goes.
    pub priority: Priority,
}

impl From<Vec<u8>> for Pixels {
    fn from(data: Vec<u8>) -> Self {
        Self { data, ..Self::default() }
    }
}

/// What a network says of the places of a picture.
#[derive(Debug)]
pub struct Segmented {
    /// The names of the card's classes.
    pub labels: Arc<[String]>,
    /// The maps, of which a few may take as much memory as all else.
    pub scores: Scores,
    /// The picture's place among those on their way, to be dropped with the maps: only then another one follows.
    pub place: Box<dyn Any + Send>,
}

/// Runs networks and expressions. Pictures of many items that share a model go through a network together.
///
/// Where a device is [lost](Engine::lost), pictures are not answered any more, nor are trainings and expressions: whoever
/// holds them is to give them back.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The `top` most probable classes of a picture, the most probable first. Loads the model when it is first asked
    /// for. Dropping the future gives the picture up.
    ///
    /// # Errors
    /// Where the model cannot be loaded (permanent) or the device failed.
    async fn classify(&self, card: &Card, pixels: Pixels, top: usize) -> Result<Vec<Label>, Failure>;

    /// What the network says of each place of a picture. As with [`Engine::classify`] otherwise.
    ///
    /// # Errors
    /// Where the model cannot be loaded (permanent) or the device failed.
    async fn segment(&self, card: &Card, pixels: Pixels) -> Result<Segmented, Failure>;

    /// Loads a model and runs it once, so that no picture waits for that.
    ///
    /// # Errors
    /// Where the model cannot be loaded (permanent).
    async fn load(&self, card: &Card) -> Result<(), Failure>;

    /// Trains a network; one at a time, others wait for it. Dropping the future asks it to end at the next batch, and what
    /// was written down after its last epoch is where the same training goes on.
    ///
    /// # Errors
    /// What is wrong with the data set, or what is not well about the folder that the model comes into (permanent); that the
    /// device failed, or that somebody else trains this model (it may pass).
    async fn train(&self, training: Training) -> Result<Output, Failure>;

    /// The expression's value for each `x`, computed as one tensor of 64-bit floats; not finite where it is so. It keeps
    /// the thread that calls until the values are there, which is never where it finds the device lost.
    ///
    /// `expression` is of `x` alone, and written for exmex by `compute.map`. `device` is `cpu`, `cuda` or `cuda:N`,
    /// whatever the networks run on.
    ///
    /// # Errors
    /// Where the device is not there (permanent) or failed (it may pass).
    fn map(&self, expression: &str, device: &str, xs: &[f64]) -> Result<Vec<f64>, Failure>;

    /// Where networks run: `cpu`, `cuda:0`, `cuda:0,cuda:1`.
    fn device(&self) -> String;

    /// What each model has done since the process started.
    fn work(&self) -> Vec<NetworkWork>;

    /// Resolves once a device is lost to this process, with the reason; never otherwise.
    async fn lost(&self) -> String;
}
