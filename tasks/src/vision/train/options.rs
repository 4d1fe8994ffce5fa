//! What may be asked of a training.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_core::task::Invalid;

use super::augment::Augmentation;
use super::data::Size;
use crate::vision::card::Architecture;

/// Options of a batch.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The folder that the model's own folder comes into, such as `models`. Needed.
    pub to: String,
    /// The model's name; by default that of the data set's folder. Lowercase letters, digits, `-`, `_` and `.`, at most 64.
    pub name: Option<String>,
    /// The network: `cifar10-cnn` or another one that classifies, or `fcn32s-vgg19`, which segments. By default
    /// `cifar10-cnn`, or for images and masks `fcn32s-vgg19`.
    #[schemars(with = "Option<String>")]
    pub architecture: Option<String>,
    /// How often the network sees all pictures: 1 to 10000.
    #[schemars(range(min = 1, max = 10_000))]
    pub epochs: u32,
    /// Pictures between two steps: 1 to 4096.
    #[schemars(range(min = 1, max = 4096))]
    pub batch: u32,
    /// How large a step of the optimiser Adam is: above 0, at most 1.
    pub learning_rate: f64,
    /// End once so many epochs brought nothing better on the validation pictures: 1 to 10000. By default it never ends early.
    #[schemars(range(min = 1, max = 10_000))]
    pub patience: Option<u32>,
    /// The share of the pictures that is set aside for validation where no folder `val` has them: 0.01 to 0.9.
    #[schemars(range(min = 0.01, max = 0.9))]
    pub validation: f64,
    /// What all that is random follows from.
    pub seed: u64,
    /// Whether every other picture is mirrored, left to right.
    pub flip: bool,
    /// How far pictures are moved at most, to either side, up and down: 0 to 0.5 of their size. What comes in at the edge
    /// repeats it.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub shift: f64,
    /// The size that the network takes, such as `64x48`. By default that of the pictures where all have the same one of 18
    /// to 64 pixels a side, else 32x32; 128x128 for `fcn32s-vgg19`; 224x224 for others.
    pub size: Option<String>,
    /// A file of weights to begin with (torchvision's names; safetensors or a PyTorch state dict): what fits is taken, and
    /// of `fcn32s-vgg19` all of VGG-19's features must.
    pub weights: Option<PathBuf>,
    /// Whether the features of `fcn32s-vgg19` are left as they are, so that its head alone learns.
    pub freeze: bool,
    /// How wide the head of `fcn32s-vgg19` is: 1 to 4096, the paper's.
    #[schemars(range(min = 1, max = 4096))]
    pub head: u32,
    /// The licence of the weights that come out, as an SPDX expression, for the card.
    pub licence: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            to: String::new(),
            name: None,
            architecture: None,
            epochs: 10,
            batch: 32,
            learning_rate: 0.001,
            patience: None,
            validation: 0.2,
            seed: 0,
            flip: false,
            shift: 0.0,
            size: None,
            weights: None,
            freeze: true,
            head: 512,
            licence: None,
        }
    }
}

/// What is asked of a training, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder that the model's own folder comes into.
    pub to: PathBuf,
    /// The model's name, if it was given one.
    pub name: Option<String>,
    /// How many epochs there are in all.
    pub epochs: u32,
    /// After how many epochs without anything better it ends.
    pub patience: Option<u32>,
    /// The licence of the weights.
    pub licence: Option<String>,
    /// What the weights depend on.
    pub recipe: Recipe,
}

/// All but the data that the weights of each epoch depend on: a training goes on only with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network; `None` leaves it to the data set.
    pub architecture: Option<Architecture>,
    /// Pictures between two steps.
    pub batch: u32,
    /// Of Adam.
    pub learning_rate: f64,
    /// The share set aside.
    pub validation: f64,
    /// What all that is random follows from.
    pub seed: u64,
    /// How pictures are changed.
    pub augmentation: Augmentation,
    /// The size that the network takes; `None` leaves it to the data set.
    pub size: Option<Size>,
    /// Weights to begin with.
    pub weights: Option<PathBuf>,
    /// Whether the features of a segmenting network stay as they are.
    pub freeze: bool,
    /// The width of its head.
    pub head: u32,
}

impl Options {
    /// Checks every option.
    ///
    /// # Errors
    /// [`Invalid`], naming the option and what is allowed.
    pub(super) fn check(self) -> Result<Plan, Invalid> {
        let wrong = |what: String| Err(Invalid(what));
        if self.to.is_empty() {
            return wrong("to: name the folder that the model's folder comes into, such as to=models".to_owned());
        }
        if let Some(name) = self.name.as_deref().filter(|name| !crate::vision::card::is_name(name)) {
            return wrong(format!(
                "name: {name:?} is no model's name: lowercase letters, digits, `-`, `_` and `.`, at most 64"
            ));
        }
        for (option, value, most) in [
            ("epochs", Some(self.epochs), 10_000),
            ("batch", Some(self.batch), 4096),
            ("patience", self.patience, 10_000),
            ("head", Some(self.head), 4096),
        ] {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                return wrong(format!("{option}: {value} is not within 1 and {most}"));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return wrong(format!("learning_rate: {} is not above 0 and at most 1", self.learning_rate));
        }
        if !(0.01..=0.9).contains(&self.validation) {
            return wrong(format!("validation: {} is not within 0.01 and 0.9", self.validation));
        }
        if !(0.0..=0.5).contains(&self.shift) {
            return wrong(format!("shift: {} is not within 0 and 0.5", self.shift));
        }
        let architecture = self.architecture.as_deref().map(architecture).transpose()?;
        let size = self.size.as_deref().map(|text| Size::parse(text).map_err(|what| Invalid(format!("size: {what}"))));
        Ok(Plan {
            to: PathBuf::from(self.to),
            name: self.name,
            epochs: self.epochs,
            patience: self.patience,
            licence: self.licence,
            recipe: Recipe {
                architecture,
                batch: self.batch,
                learning_rate: self.learning_rate,
                validation: self.validation,
                seed: self.seed,
                augmentation: Augmentation { flip: self.flip, shift: self.shift },
                size: size.transpose()?,
                weights: self.weights,
                freeze: self.freeze,
                head: self.head,
            },
        })
    }
}

fn architecture(text: &str) -> Result<Architecture, Invalid> {
    let architecture: Architecture = text.parse().map_err(|unknown| Invalid(format!("architecture: {unknown}")))?;
    match architecture {
        Architecture::Torchscript | Architecture::EfficientnetLite0 => {
            Err(Invalid(format!("architecture: {text} runs here, but cannot be trained; cifar10-cnn can")))
        }
        _ => Ok(architecture),
    }
}

impl Recipe {
    /// Says by name what differs from another one; `None` where nothing does.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (mine, theirs) = (serde_json::to_value(self).ok()?, serde_json::to_value(other).ok()?);
        let mine = mine.as_object()?;
        let (name, value) = mine.iter().find(|(name, value)| theirs.get(name.as_str()) != Some(*value))?;
        Some(format!("{name} is {value} and was {}", theirs[name.as_str()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { to: "models".into(), ..Options::default() }
    }

    #[test]
    fn what_is_out_of_range_is_named_with_what_is_allowed() {
        let refused = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            options.check().unwrap_err().0
        };

        assert!(refused(|o| o.to.clear()).contains("to=models"));
        assert_eq!(refused(|o| o.epochs = 0), "epochs: 0 is not within 1 and 10000");
        assert_eq!(refused(|o| o.batch = 5000), "batch: 5000 is not within 1 and 4096");
        assert_eq!(refused(|o| o.learning_rate = f64::NAN), "learning_rate: NaN is not above 0 and at most 1");
        assert_eq!(refused(|o| o.shift = 0.7), "shift: 0.7 is not within 0 and 0.5");
        assert!(refused(|o| o.size = Some("64".into())).starts_with("size: \"64\""));
        assert!(refused(|o| o.name = Some("My Model".into())).starts_with("name: \"My Model\""));
        assert!(refused(|o| o.architecture = Some("resnet19".into())).starts_with("architecture: no architecture"));
        assert!(refused(|o| o.architecture = Some("torchscript".into())).contains("cannot be trained"));
    }

    #[test]
    fn a_recipe_says_what_differs() {
        let one = options().check().unwrap().recipe;
        let other = Options { batch: 64, ..options() }.check().unwrap().recipe;

        assert_eq!(one.difference(&one), None);
        assert_eq!(other.difference(&one).unwrap(), "batch is 64 and was 32");
    }
}
