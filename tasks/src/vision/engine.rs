//! The seam to libtorch: what runs networks, and expressions over many numbers.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
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

/// Runs networks and expressions. Pictures of many items that share a model go through a network together.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The `top` most probable classes of a picture, the most probable first. Loads the model when it is first asked
    /// for. Dropping the future gives the picture up.
    ///
    /// # Shape
    /// `pixels`: height × width × 3 bytes, as the card's input says.
    ///
    /// # Errors
    /// Where the model cannot be loaded (permanent) or the device failed.
    async fn classify(&self, card: &Card, pixels: Vec<u8>, top: usize) -> Result<Vec<Label>, Failure>;

    /// The names of the card's classes, and what the network says of each place of a picture. As with
    /// [`Engine::classify`] otherwise.
    ///
    /// # Shape
    /// `pixels`: height × width × 3 bytes, as the card's input says.
    ///
    /// # Errors
    /// Where the model cannot be loaded (permanent) or the device failed.
    async fn segment(&self, card: &Card, pixels: Vec<u8>) -> Result<(Arc<[String]>, Scores), Failure>;

    /// Trains a network; one at a time, others wait for it. Dropping the future asks it to end at the next batch, and what
    /// was written down after its last epoch is where the same training goes on.
    ///
    /// # Errors
    /// What is wrong with the data set, or what is not well about the folder that the model comes into (permanent); that the
    /// device failed, or that somebody else trains this model (it may pass).
    async fn train(&self, training: Training) -> Result<Output, Failure>;

    /// The expression's value for each `x`, computed as one tensor of 64-bit floats; not finite where it is so. It keeps
    /// the thread that calls until the values are there.
    ///
    /// `expression` is of `x` alone and has been parsed by `compute.map`. `device` is `cpu`, `cuda` or `cuda:N`,
    /// whatever the networks run on.
    ///
    /// # Errors
    /// Where the device is not there (permanent) or failed (it may pass).
    fn map(&self, expression: &str, device: &str, xs: &[f64]) -> Result<Vec<f64>, Failure>;

    /// Where networks run: `cpu`, `cuda:0`.
    fn device(&self) -> String;
}
