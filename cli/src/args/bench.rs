//! The arguments of `bench`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::Networks;

pub(super) const EXAMPLES: &str = "\
Examples:
  tidemill bench                                             the default model over the demo photos
  tidemill bench efficientnet-lite0 --images photos/ --seconds 20 --precision fp32
  tidemill bench ./my-model --device cuda --format json";

/// `bench`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    /// The model's name, or a folder with a card; by default the default model
    pub(crate) model: Option<String>,
    /// A folder of pictures, or one picture; by default the demo photos
    #[arg(long, value_name = "FOLDER")]
    pub(crate) images: Option<PathBuf>,
    /// How long each of the three is measured
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..), default_value_t = 5)]
    pub(crate) seconds: u16,
    /// How it is shown
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) format: BenchFormat,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

/// How measurements are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    /// For people
    #[default]
    Table,
    /// One JSON object
    Json,
}
