//! `dead`: the items that ended their workers.

use std::collections::BTreeSet;

use serde_json::json;
use tidemill_core::batch::BatchId;
use tidemill_core::settings::Settings;
use tidemill_core::store::DeadItem;

use crate::args::{Dead, DeadCommand, ItemName};
use crate::client::Client;
use crate::columns::columns;
use crate::error::{CliError, Exit};
use crate::letters::{self, Letter, Letters};
use crate::tasks::{pretty, print};

/// More than these are shown, or run again, in several calls.
const MANY: usize = 10_000;

/// Does what was asked for.
pub(crate) fn dead(args: &Dead, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    crate::block_on(async {
        match &args.command {
            DeadCommand::List { batch, limit, json } => {
                let items = client.dead(batch.as_ref(), *limit).await?;
                // Messages that could not be read belong to no batch; without a broker there are none to be seen.
                let asks = batch.is_none() && !settings.broker.url.is_memory();
                let letters = if asks { letters::list(settings, *limit).await? } else { Letters::default() };
                let Letters { first, total } = &letters;
                let both = || json!({ "items": items, "messages": first, "messages_in_queue": total });
                print(&if *json { pretty(&both()) } else { listed(&items) + &unreadable(&letters) })
            }
            DeadCommand::Show { item, json } => {
                let found = find(&client, item).await?;
                let [found] = &found[..] else { return Err(which(item)) };
                print(&if *json { pretty(&json!(found)) } else { shown(found) })
            }
            DeadCommand::Replay { items } => replay(&client, settings, items).await,
            DeadCommand::Drop => letters::drop_all(settings).await,
        }
    })
}

/// The dead items that a name means, at least one.
async fn find(client: &Client, name: &ItemName) -> Result<Vec<DeadItem>, CliError> {
    let mut items = client.dead(Some(&name.batch), MANY).await?;
    items.retain(|item| name.index.is_none_or(|index| item.index == index));
    if items.is_empty() {
        let which = name.index.map_or_else(|| "no item".to_owned(), |index| format!("item {index}"));
        let verb = if name.index.is_some() { "is not" } else { "is" };
        return Err(CliError::usage(format!("{which} of batch {} {verb} dead", name.batch))
            .hint(format!("`tidemill dead list {}` lists those that are", name.batch)));
    }
    Ok(items)
}

fn which(name: &ItemName) -> CliError {
    CliError::usage(format!("batch {} has several dead items", name.batch))
        .hint(format!("say which: `tidemill dead show {}:INDEX`", name.batch))
}

/// Takes each outcome back and publishes its item again. In this order: an outcome that comes while the old one still
/// stands would be taken for a duplicate.
async fn replay(client: &Client, settings: &Settings, name: &ItemName) -> Result<Exit, CliError> {
    let items = find(client, name).await?;
    let publisher = letters::Publisher::connect(settings).await?;
    let mut replayed = BTreeSet::new();
    for item in &items {
        // Where the second does not happen, the item is still among the dead: the same command goes on.
        if client.revive(&item.batch, item.index).await? {
            publisher.publish(client, item).await.map_err(|error| unpublished(error, item))?;
            replayed.insert(item.index);
        }
    }
    print(&format!("{} run again; `tidemill status {} --watch`\n", count(replayed.len()), name.batch))
}

fn unpublished(error: CliError, item: &DeadItem) -> CliError {
    let DeadItem { batch, index, .. } = item;
    let message = format!("item {index} of batch {batch} was taken back and could not be published: {}", error.message);
    CliError::new(error.exit, message).hint("the same command goes on with it; until then its batch is not complete")
}

fn count(items: usize) -> String {
    if items == 1 { "1 item is".into() } else { format!("{items} items are") }
}

fn listed(items: &[DeadItem]) -> String {
    if items.is_empty() {
        return "no dead items\n".into();
    }
    let row = |item: &DeadItem| [name(&item.batch, item.index), item.task.clone(), item.failure.message.clone()];
    columns(["item", "task", "how it ended"], items.iter().map(row))
}

/// The messages that nobody could work on.
fn unreadable(Letters { first, total }: &Letters) -> String {
    if first.is_empty() {
        return String::new();
    }
    let row = |letter: &Letter| [letter.bytes.to_string(), letter.reason.clone(), letter.beginning.clone()];
    let table = columns(["bytes", "why it could not be worked on", "how it begins"], first.iter().map(row));
    let part = if (first.len() as u64) < *total { format!(", {} of {total}", first.len()) } else { String::new() };
    format!("\nmessages in the dead-letter queue{part} (`tidemill dead drop` throws them away):\n{table}")
}

fn name(batch: &BatchId, index: u64) -> String {
    format!("{batch}:{index}")
}

fn shown(item: &DeadItem) -> String {
    let facts = [
        ("item", name(&item.batch, item.index)),
        ("task", item.task.clone()),
        ("ended", format!("{}: {}", item.failure.kind, item.failure.message)),
        ("input", item.input.get().to_owned()),
        ("again", format!("tidemill dead replay {}", name(&item.batch, item.index))),
    ];
    facts.into_iter().map(|(key, value)| format!("  {key:6} {value}\n")).collect()
}
