//! `models`: what networks there are; how they come in; whether they are well.

mod import;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemill_core::failure::chain;
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_core::settings::Settings;
use tidemill_tasks::vision::Models;
use tidemill_tasks::vision::card::{Card, CardError};

use crate::args::{ModelsArgs, ModelsCommand};
use crate::error::{CliError, Exit};
use crate::tasks::{pretty, print};
use crate::{Vision, handover};

/// Models by name, or what is wrong with their cards.
pub(crate) type Cards = BTreeMap<String, Result<Card, CardError>>;

/// Lists the models, or shows, imports or verifies some.
pub(crate) fn models(args: &ModelsArgs, settings: &Settings, vision: Option<Vision>) -> Result<Exit, CliError> {
    let models = &crate::models_of(settings);
    match (&args.command, &args.model) {
        (Some(ModelsCommand::Import(args)), _) => {
            let import = import::plan(args, models)?;
            let Some(vision) = vision else { return Err(handover::hand_over(settings)) };
            let lines = (vision.import)(&import, &settings.vision).map_err(|reason| {
                CliError::new(Exit::Configuration, format!("cannot import {}: {reason}", import.card.name))
            })?;
            print(&lines.iter().map(|line| format!("✔ {line}\n")).collect::<String>())
        }
        (Some(ModelsCommand::Verify { model }), _) => {
            let cards = chosen(model.as_deref(), models)?;
            let Some(vision) = vision else { return Err(handover::hand_over(settings)) };
            verify(cards, settings, vision)
        }
        (None, Some(name)) => {
            let card = find(name, Card::list(&models.folders))?;
            print(&if args.json { pretty(&as_json(&card)) } else { shown(&card) })
        }
        (None, None) if args.json => print(&pretty(&values(models))),
        (None, None) => print(&listed(models, &Card::list(&models.folders))),
    }
}

fn find(name: &str, mut cards: Cards) -> Result<Card, CliError> {
    match cards.remove(name) {
        Some(card) => card.map_err(|error| CliError::new(Exit::Configuration, error.to_string())),
        None => {
            let near = did_you_mean(&nearest(name, cards.keys().map(String::as_str)));
            Err(CliError::usage(format!("no model is called {name:?}{near}")).hint("`tidemill models` lists them"))
        }
    }
}

/// The model of a name or in a folder; all without.
pub(crate) fn chosen(name: Option<&str>, models: &Models) -> Result<Cards, CliError> {
    let all = Card::list(&models.folders);
    Ok(match name {
        None => all,
        Some(folder) if folder.contains('/') => BTreeMap::from([(folder.to_owned(), Card::load(folder))]),
        Some(name) => BTreeMap::from([(name.to_owned(), Ok(find(name, all)?))]),
    })
}

/// Says of each model what was found well, or what is not.
fn verify(cards: Cards, settings: &Settings, vision: Vision) -> Result<Exit, CliError> {
    let mut exit = Exit::Ok;
    for (name, card) in cards {
        let found = card.map_err(|error| chain(&error)).and_then(|card| (vision.verify)(&card, &settings.vision));
        let text = match found {
            Ok(lines) => lines.iter().map(|line| format!("✔ {name}: {line}\n")).collect(),
            Err(reason) => {
                exit = Exit::Configuration;
                format!("✖ {name}: {}\n", reason.replace('\n', "\n    "))
            }
        };
        print(&text)?;
    }
    Ok(exit)
}

/// Every model that can be used, as JSON.
pub(crate) fn values(models: &Models) -> Vec<Value> {
    Card::list(&models.folders).values().flatten().map(as_json).collect()
}

fn as_json(card: &Card) -> Value {
    json!({ "folder": card.folder(), "card": card })
}

/// Whether the network's file is there: fetched, or still to be.
fn state(card: &Card) -> &'static str {
    if card.network_path().is_file() { "ready" } else { "weights missing: `make models` fetches them" }
}

fn listed(models: &Models, cards: &Cards) -> String {
    let mut text = String::new();
    for (name, card) in cards {
        let default = if *name == models.default { " (default)" } else { "" };
        let line = match card {
            Ok(card) => {
                format!("  {name:24} {:9} {}{default}\n{:27}{}\n", card.task.as_str(), state(card), "", card.about)
            }
            Err(error) => format!("  {name:24} unusable  {error}\n"),
        };
        text += &line;
    }
    if text.is_empty() {
        let folders: Vec<String> = models.folders.iter().map(|folder| folder.display().to_string()).collect();
        return format!("no models in {}\n", folders.join(", "));
    }
    text + "\n`tidemill models MODEL` shows its card.\n"
}

fn shown(card: &Card) -> String {
    let mut text = format!("{}: {}\n\n", card.name, card.about);
    let input = &card.input;
    let facts = [
        ("answers", card.task.as_str().to_owned()),
        ("state", state(card).to_owned()),
        ("folder", card.folder().display().to_string()),
        ("network", format!("{}, {}", card.network.file, card.network.architecture)),
        ("input", format!("{}×{}", input.width, input.height)),
        ("classes", card.output.classes.to_string()),
        ("labels", card.output.labels.clone()),
        ("licence", card.licence.clone()),
        ("source", card.source.clone()),
    ];
    for (key, value) in facts {
        text += &format!("  {key:9} {value}\n");
    }
    text
}
