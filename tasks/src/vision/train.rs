//! `vision.train`: makes a model out of pictures of which it is known what they show.
//!
//! ```text
//!  folder ─▶ data: found, checked, split ─▶ feed (threads): decoded, augmented ─▶ the engine: batch after batch
//!                                                                                   │ after each epoch
//!                                      checkpoint, history, chart ◀─────────────────┤
//!                                      model's folder with a card ◀─────────────────┘ at the end
//! ```
//!
//! What needs no libtorch is here; the training itself is in the crate `tidemill-vision`.

mod augment;
mod chart;
mod cifar;
mod classes;
mod data;
mod feed;
mod history;
mod masks;
mod options;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::notes::Notepad;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Lane, Task, Tools, Wait, raw};

pub use self::augment::Augmentation;
pub use self::data::{DataError, DataSet, Item, Sample, Size, Target, Wanted};
pub use self::feed::{Batch, Feed, Order};
pub use self::history::{Epoch, Figures, Output};
pub use self::masks::NOTHING;
pub use self::options::{Options, Plan, Recipe};
use super::Engine;
use super::picture::engine;
use crate::image::Limits;

pub use self::chart::chart;

/// A training may take days; the setting `task.timeout` is meant for pictures.
const TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Trains networks. Without an engine it can be described and checked, not run.
#[derive(Clone)]
pub struct Train {
    /// What pictures are refused by their header.
    pub limits: Limits,
    /// Where models may be written.
    pub place: Place,
    /// What runs the network.
    pub engine: Option<Arc<dyn Engine>>,
}

impl std::fmt::Debug for Train {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Train").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Where models may be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Wherever it is said: by somebody who could write there anyway.
    #[default]
    Anywhere,
    /// In a folder below this one.
    Below(PathBuf),
    /// Nowhere.
    Nowhere,
}

impl Place {
    /// The folder that `to` means.
    fn allow(&self, to: &Path) -> Result<PathBuf, Failure> {
        let refused = |what: String| Err(Failure::permanent("denied", what));
        match self {
            Self::Anywhere => Ok(to.to_owned()),
            Self::Below(base)
                if to.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) =>
            {
                Ok(base.join(to))
            }
            Self::Below(_) => {
                refused(format!("to: {} is no folder below the worker's own for trainings", to.display()))
            }
            Self::Nowhere => {
                refused("this worker trains nothing: its setting vision.train_in names no folder".to_owned())
            }
        }
    }
}

/// A training to be done.
#[derive(Clone, Debug)]
pub struct Training {
    /// The folder with the data set.
    pub data: PathBuf,
    /// What is asked for.
    pub plan: Arc<Plan>,
    /// The folder that the model's own folder comes into.
    pub to: PathBuf,
    /// What pictures are refused by their header.
    pub limits: Limits,
    /// Where it says how far it has come.
    pub notepad: Notepad,
}

impl Training {
    /// The model's name: the one that was given, or the data set's folder's, in letters that a name may have.
    pub fn name(&self) -> String {
        self.plan.name.clone().unwrap_or_else(|| {
            let folder = self.data.canonicalize().unwrap_or_else(|_| self.data.clone());
            let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
            let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
            let name: String = name.trim_start_matches('.').chars().map(allowed).take(64).collect();
            if name.is_empty() { "model".to_owned() } else { name }
        })
    }
}

impl Task for Train {
    type Input = String;
    type Options = Options;
    type Output = Output;
    type Plan = Plan;

    fn about(&self) -> About {
        About {
            name: "vision.train",
            summary: "Train a network with pictures of your own",
            details: "An input is the folder of a data set: CIFAR-10's binary files; a folder of pictures for each class; or \
                      `images` and `masks` of the same names, a mask being a PNG whose pixels are numbers of classes, with the \
                      classes' names in `labels.txt`. What lies in `train` and `val` is for training and for validation; \
                      otherwise a share is set aside. The output has loss and accuracy of every epoch, and a model's \
                      folder appears in `to` that `vision.classify` or `vision.segment` uses at once, with a chart. \
                      After every epoch all is written down in NAME.training beside it: the same command goes on from the \
                      last epoch, with larger `epochs` further.",
            examples: &[
                "tidemill run vision.train cifar-10-batches-bin -o to=models -o flip=true -o shift=0.1",
                "tidemill run vision.train pets/ -o to=models -o epochs=30 -o patience=5",
                "tidemill run vision.train fields/ -o to=models -o weights=vgg19.pth -o head=512",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, options: Options) -> Result<Plan, Invalid> {
        options.check()
    }

    fn check(&self, _plan: &Plan, input: &String) -> Result<(), Invalid> {
        if input.is_empty() || tidemill_core::blobs::scheme(input).is_some() {
            return Err(Invalid(format!("{input:?} is no folder of this machine: a data set is read again and again")));
        }
        Ok(())
    }

    fn cost(&self, _plan: &Plan) -> Cost {
        Cost::millis(60_000)
    }

    fn lane(&self, _plan: &Plan) -> Lane {
        Lane::Vision
    }

    fn timeout(&self, _plan: &Plan) -> Option<Duration> {
        Some(TIMEOUT)
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw(word)
    }
}

impl Wait for Train {
    fn hands(&self, _plan: &Plan) -> Hands {
        // It takes all cores, or the whole GPU.
        Hands::AtMost(1)
    }

    fn device(&self, _plan: &Plan) -> String {
        self.engine.as_ref().map_or_else(|| "none".into(), |engine| engine.device())
    }

    async fn run(self: Arc<Self>, plan: Arc<Plan>, folder: String, tools: Tools) -> Result<Output, Failure> {
        let engine = engine(&self.engine)?;
        let to = self.place.allow(&plan.to)?;
        let (data, notepad) = (PathBuf::from(folder), tools.notepad);
        engine.train(Training { data, plan, to, limits: self.limits, notepad }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_what_its_data_set_is() {
        let plan = Arc::new(Options { to: "models".into(), ..Options::default() }.check().unwrap());
        let named = |folder: &str| {
            let (data, plan, to) = (folder.into(), Arc::clone(&plan), PathBuf::new());
            Training { data, plan, to, limits: Limits::default(), notepad: Notepad::default() }.name()
        };

        assert_eq!(named("data/Cats & Dogs/"), "cats---dogs");
        assert_eq!(named("/"), "model");
    }

    #[test]
    fn a_worker_writes_below_its_own_folder_or_not_at_all() {
        let place = Place::Below("/srv/models".into());

        assert_eq!(place.allow(Path::new("./pets")).unwrap(), Path::new("/srv/models/./pets"));
        for to in ["/etc", "..", "pets/../../etc"] {
            assert_eq!(place.allow(Path::new(to)).unwrap_err().kind, "denied", "{to}");
        }
        assert!(Place::Nowhere.allow(Path::new("pets")).unwrap_err().message.contains("vision.train_in"));
        assert_eq!(Place::Anywhere.allow(Path::new("/etc")).unwrap(), Path::new("/etc"));
    }
}
