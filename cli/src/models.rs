//! `models`: what networks there are.

use serde_json::{Value, json};
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_tasks::vision::Models;
use tidemill_tasks::vision::card::Card;

use crate::args::ModelsArgs;
use crate::error::{CliError, Exit};
use crate::tasks::{pretty, print};

/// Lists the models, or shows one.
pub(crate) fn models(args: &ModelsArgs, models: &Models) -> Result<Exit, CliError> {
    let cards = Card::list(&models.folders);
    let Some(name) = &args.model else {
        return print(&if args.json { pretty(&values(models).into()) } else { listed(models, &cards) });
    };
    match cards.get(name) {
        Some(Ok(card)) => print(&if args.json { pretty(&as_json(card)) } else { shown(card) }),
        Some(Err(error)) => Err(CliError::new(Exit::Configuration, error.to_string())),
        None => {
            let near = did_you_mean(&nearest(name, cards.keys().map(String::as_str)));
            Err(CliError::usage(format!("no model is called {name:?}{near}")).hint("`tidemill models` lists them"))
        }
    }
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

fn listed(
    models: &Models,
    cards: &std::collections::BTreeMap<String, Result<Card, tidemill_tasks::vision::card::CardError>>,
) -> String {
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
        ("network", card.network.file.clone()),
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
