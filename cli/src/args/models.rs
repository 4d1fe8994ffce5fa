//! The arguments of `models`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use tidemill_tasks::vision::card;

pub(crate) const IMPORT_EXAMPLES: &str = "\
Examples:
  tidemill models import traced.pt --name cats --labels cats.txt
  tidemill models import resnet18-f37072fd.pth --architecture resnet18 --name resnet18 --licence BSD-3-Clause
  tidemill models import people.pt --task segment --size 256x256 --mean 0,0,0 --std 1,1,1 --activation none \\
      --labels people.txt
  tidemill models import trained/cats/                       a folder with a card: its digests are made anew";

/// `models`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ModelsCommand>,
    /// The model to show
    pub(crate) model: Option<String>,
    /// Print JSON: the whole cards
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Make a model's folder out of a network's file, or out of a folder with a card
    ///
    /// The network is loaded and run; its digest, its labels, and what it gives for golden inputs go into the folder. What
    /// is not said is as torchvision's networks have it. Nothing is left behind where something is not well.
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Box<ImportArgs>),
    /// Check models by their digests and by what they give for their golden inputs
    ///
    /// In fp32 every value must be within 0.0005 of the golden one, in half precision within 0.05; of maps 99 of 100.
    Verify {
        /// The model, or a folder with a card; all without
        model: Option<String>,
    },
}

/// `models import`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ImportArgs {
    /// TorchScript, safetensors, a PyTorch state dict; or a folder with a card.toml
    pub(crate) from: PathBuf,
    /// What it is called by; by default what its file or folder is called
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The folder that the model's own folder comes into; by default the first of vision.models
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Put it in the place of a model of that name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Pictures to make golden inputs of; by default two are made by a formula
    #[arg(long, value_name = "PICTURE")]
    pub(crate) golden: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) card: CardArgs,
}

/// What the card says. A folder has a card, which says it all.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "The card")]
pub(crate) struct CardArgs {
    /// The question that it answers
    #[arg(long, value_name = "TASK", value_enum)]
    pub(crate) task: Option<TaskArg>,
    /// Whose layers the weights are for, such as resnet18; by default the file is TorchScript
    #[arg(long, value_name = "NAME")]
    pub(crate) architecture: Option<card::Architecture>,
    /// A file with the classes' names, one a line; by default ImageNet's thousand
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// What it takes, in pixels; by default 224x224
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub(crate) size: Option<(u32, u32)>,
    /// The length that the shorter side gets before the middle is cut out; 0: stretch to the size
    ///
    /// By default 256 in 224 of the size to classify, and 0 to segment.
    #[arg(long, value_name = "PIXELS")]
    pub(crate) short_side: Option<u32>,
    /// How pictures are resized; by default bilinear
    #[arg(long, value_name = "FILTER", value_enum)]
    pub(crate) filter: Option<FilterArg>,
    /// It takes blue first
    #[arg(long)]
    pub(crate) bgr: bool,
    /// What is subtracted from each channel, where white is 1; by default ImageNet's 0.485,0.456,0.406
    #[arg(long, value_name = "R,G,B", value_parser = parse_channels)]
    pub(crate) mean: Option<[f64; 3]>,
    /// What each channel is divided by; by default ImageNet's 0.229,0.224,0.225
    #[arg(long, value_name = "R,G,B", value_parser = parse_channels)]
    pub(crate) std: Option<[f64; 3]>,
    /// What is still to be applied for probabilities; by default softmax
    #[arg(long, value_name = "ACTIVATION", value_enum)]
    pub(crate) activation: Option<ActivationArg>,
    /// It may run in bf16 on CPUs and fp16 on GPUs that are good at it
    #[arg(long)]
    pub(crate) half: bool,
    /// A sentence about what it is good for
    #[arg(long, value_name = "TEXT")]
    pub(crate) about: Option<String>,
    /// The licence of the weights, as an SPDX expression; by default NOASSERTION
    #[arg(long, value_name = "LICENCE")]
    pub(crate) licence: Option<String>,
    /// Where the weights come from; by default the file's name
    #[arg(long, value_name = "TEXT")]
    pub(crate) source: Option<String>,
}

impl CardArgs {
    /// The first flag that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let Self { task, architecture, labels, size, short_side, filter, bgr, mean, std, activation, .. } = self;
        let flags = [
            ("--task", task.is_some()),
            ("--architecture", architecture.is_some()),
            ("--labels", labels.is_some()),
            ("--size", size.is_some()),
            ("--short-side", short_side.is_some()),
            ("--filter", filter.is_some()),
            ("--bgr", *bgr),
            ("--mean", mean.is_some()),
            ("--std", std.is_some()),
            ("--activation", activation.is_some()),
            ("--half", self.half),
            ("--about", self.about.is_some()),
            ("--licence", self.licence.is_some()),
            ("--source", self.source.is_some()),
        ];
        flags.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }
}

/// See [`card::Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskArg {
    Classify,
    Segment,
}

/// See [`card::Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FilterArg {
    Bilinear,
    Bicubic,
    Lanczos3,
}

/// See [`card::Activation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationArg {
    None,
    Softmax,
    Sigmoid,
}

impl From<TaskArg> for card::Question {
    fn from(task: TaskArg) -> Self {
        match task {
            TaskArg::Classify => Self::Classify,
            TaskArg::Segment => Self::Segment,
        }
    }
}

impl From<FilterArg> for card::Filter {
    fn from(filter: FilterArg) -> Self {
        match filter {
            FilterArg::Bilinear => Self::Bilinear,
            FilterArg::Bicubic => Self::Bicubic,
            FilterArg::Lanczos3 => Self::Lanczos3,
        }
    }
}

impl From<ActivationArg> for card::Activation {
    fn from(activation: ActivationArg) -> Self {
        match activation {
            ActivationArg::None => Self::None,
            ActivationArg::Softmax => Self::Softmax,
            ActivationArg::Sigmoid => Self::Sigmoid,
        }
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parts =
        text.split_once(['x', '×']).and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    parts.ok_or_else(|| "it should be WIDTHxHEIGHT, such as 224x224".into())
}

fn parse_channels(text: &str) -> Result<[f64; 3], String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| "it should be three numbers, such as 0.485,0.456,0.406".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_channels_are_read_or_refused() {
        assert_eq!(parse_size("224x160"), Ok((224, 160)));
        assert_eq!(parse_channels("0.5, 0.4,0"), Ok([0.5, 0.4, 0.0]));
        for bad in ["224", "224x", "x", "axb", "-1x2"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for bad in ["0.5", "1,2", "1,2,3,4", "a,b,c"] {
            assert!(parse_channels(bad).is_err(), "{bad}");
        }
    }
}
