//! Where models are found.

use std::path::PathBuf;

use tidemill_core::failure::chain;
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_core::task::Invalid;

use super::card::{Card, Question};

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
    /// [`Invalid`], with the nearest names, or what is wrong with the card.
    pub fn find(&self, name: Option<&str>, question: Question) -> Result<Card, Invalid> {
        let first;
        let name = match name {
            Some(name) => name,
            None => {
                first = self.first(question);
                first.as_deref().unwrap_or(&self.default)
            }
        };
        let card = if name.contains('/') {
            Card::load(name)
        } else {
            let mut known = Card::list(&self.folders);
            known.remove(name).ok_or_else(|| self.unknown(name, known.keys().map(String::as_str)))?
        };
        let card = card.map_err(|error| Invalid(format!("model: {}", chain(&error))))?;
        if card.task == question {
            return Ok(card);
        }
        Err(Invalid(format!("model: {name} answers {}, not {}", card.task.as_str(), question.as_str())))
    }

    /// The name of the default model, or of the first one, that answers a question.
    fn first(&self, question: Question) -> Option<String> {
        let known = Card::list(&self.folders);
        let answers =
            |name: &String| known.get(name).is_some_and(|card| matches!(card, Ok(card) if card.task == question));
        std::iter::once(&self.default).chain(known.keys()).find(|name| answers(name)).cloned()
    }

    fn unknown<'a>(&self, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Invalid {
        let folders: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let hint = did_you_mean(&nearest(name, known));
        Invalid(format!(
            "model: no model is called {name:?} in {}{hint} (`tidemill models` lists them)",
            folders.join(", ")
        ))
    }
}
