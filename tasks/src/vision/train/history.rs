//! What is told of a training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How well a network did on a set of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// Cross-entropy, on average over pictures (pixels, to segment).
    pub loss: f64,
    /// The share of pictures (pixels, to segment) that got their class.
    pub accuracy: f64,
    /// To segment: intersection over union, on average over the classes that occur.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iou: Option<f64>,
}

impl Figures {
    /// Whether these are better than others: by intersection over union or accuracy, and where that is equal by loss.
    pub fn is_better_than(&self, other: &Self) -> bool {
        let key = |figures: &Self| figures.iou.unwrap_or(figures.accuracy);
        key(self) > key(other) || (key(self) == key(other) && self.loss < other.loss)
    }
}

/// One epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: u32,
    /// On the pictures for training, as they were seen: changed, and while the network was learning.
    pub training: Figures,
    /// On the pictures for validation, at its end.
    pub validation: Figures,
    /// How long it took.
    pub seconds: f64,
}

/// What became of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The model's name.
    pub model: String,
    /// Its folder: `-o model=FOLDER` uses it.
    pub folder: String,
    /// The network.
    pub architecture: String,
    /// How many classes it tells apart.
    pub classes: usize,
    /// How many pictures it learned from.
    pub training_pictures: usize,
    /// How many it was tried on.
    pub validation_pictures: usize,
    /// Every epoch.
    pub epochs: Vec<Epoch>,
    /// The epoch whose weights the model has: the best one on the pictures for validation.
    pub best_epoch: u32,
    /// How well it did then.
    pub best: Figures,
    /// Whether it ended before the last epoch because nothing got better.
    pub stopped_early: bool,
    /// The chart of loss and accuracy, an SVG file.
    pub chart: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_is_more_right_and_then_more_sure() {
        let figures = |loss, accuracy, iou| Figures { loss, accuracy, iou };

        assert!(figures(0.9, 0.8, None).is_better_than(&figures(0.1, 0.7, None)));
        assert!(figures(0.1, 0.8, None).is_better_than(&figures(0.2, 0.8, None)));
        assert!(!figures(0.1, 0.9, Some(0.5)).is_better_than(&figures(0.2, 0.8, Some(0.6))));
        assert!(!figures(f64::NAN, 0.8, None).is_better_than(&figures(0.2, 0.8, None)));
    }
}
