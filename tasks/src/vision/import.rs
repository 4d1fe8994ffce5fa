//! A model that is to become a folder with a card.

use std::path::PathBuf;

use super::card::Card;

/// What is known of a model before it was run for the first time.
#[derive(Clone, Debug)]
pub struct Import {
    /// Its card, as far as it can be written: digests and golden inputs are still to be made. Its labels' file is among
    /// the `files`, unless the labels are built in.
    pub card: Card,
    /// What comes into the folder, the network among them: where each lies now, and what it is called there.
    pub files: Vec<(PathBuf, String)>,
    /// Pictures to make golden inputs of; without any, two are made by a formula.
    pub golden: Vec<PathBuf>,
    /// The folder that the model's own folder comes into.
    pub to: PathBuf,
    /// Whether a model of that name that is there makes way.
    pub replaces: bool,
}
