//! Where models are found.

use std::path::PathBuf;

use tidemill_core::failure::chain;
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_core::task::Invalid;

use super::card::{Card, CardError, Question};

/// The setting that names the default model.
pub const DEFAULT_MODEL: &str = "vision.default_model";

/// The folders with model cards, and the model that is used when none is named.
#[derive(Clone, Debug, Default)]
pub struct Models {
    /// Searched in this order.
    pub folders: Vec<PathBuf>,
    /// A model's name.
    pub default: String,
}

impl Models {
    /// The card of a model: one by that name in the folders, or the card in the folder of that path. Without a name the
    /// default one, or, where that answers another question, the first by name that answers this one.
    ///
    /// # Errors
    /// [`Invalid`], with the nearest names, or what is wrong with the card. It begins with [`DEFAULT_MODEL`] where there
    /// is no such model as the default one.
    pub fn find(&self, name: Option<&str>, question: Question) -> Result<Card, Invalid> {
        let broken = |error| Invalid(format!("model: {}", chain(&error)));
        // Every batch asks, one of a single picture too: cards that are not meant are read only where no other answer is left.
        let (name, card) = match name {
            Some(path) if path.contains('/') => (path, Card::load(path)),
            Some(name) => {
                let card = Card::named(&self.folders, name);
                (name, card.ok_or_else(|| Invalid(format!("model: {}", self.unknown(name))))?)
            }
            None => {
                let default = self.default_card()?;
                let answers = |card: &Result<Card, _>| matches!(card, Ok(card) if card.task == question);
                let other = match &default {
                    Some(card) if card.is_err() || answers(card) => None,
                    _ => Card::list(&self.folders).into_values().find(answers),
                };
                let none = || Invalid(format!("model: none in {} answers {}", self.places(), question.as_str()));
                let card = other.or(default).ok_or_else(none)?;
                (self.default.as_str(), card)
            }
        };
        let card = card.map_err(broken)?;
        if card.task == question {
            return Ok(card);
        }
        Err(Invalid(format!("model: {name} answers {}, not {}", card.task.as_str(), question.as_str())))
    }

    /// Whether there is the default model.
    ///
    /// # Errors
    /// [`Invalid`], with the nearest names.
    pub fn check_default(&self) -> Result<(), Invalid> {
        self.default_card().map(drop)
    }

    /// The default model's card; `None` where none is set.
    fn default_card(&self) -> Result<Option<Result<Card, CardError>>, Invalid> {
        let default = Card::named(&self.folders, &self.default);
        if default.is_none() && !self.default.is_empty() {
            return Err(Invalid(format!("{DEFAULT_MODEL}: {}", self.unknown(&self.default))));
        }
        Ok(default)
    }

    fn unknown(&self, name: &str) -> String {
        let known = Card::list(&self.folders);
        let hint = did_you_mean(&nearest(name, known.keys().map(String::as_str)));
        format!("no model is called {name:?} in {}{hint} (`tidemill models` lists them)", self.places())
    }

    fn places(&self) -> String {
        let folders: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        folders.join(", ")
    }
}
