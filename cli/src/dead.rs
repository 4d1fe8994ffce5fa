//! `dead`: the items that ended their workers.

use std::collections::BTreeSet;

use serde::Serialize;
use tidemill_core::batch::{BatchId, ItemIndex};
use tidemill_core::outcome::Status;
use tidemill_core::settings::Settings;
use tidemill_core::store::DeadItem;

use crate::args::{Dead, DeadCommand, ItemName};
use crate::client::{Client, Trouble};
use crate::columns::{columns, one_line};
use crate::error::{CliError, Exit};
use crate::letters::{self, Letter, Letters};
use crate::tasks::{pretty, print};

/// More than these are shown, or run again, in several calls.
const MANY: usize = 10_000;

/// What `dead list --json` prints.
#[derive(Serialize)]
struct All<'a> {
    items: &'a [DeadItem],
    messages: &'a [Letter],
    messages_in_queue: u64,
}

/// Does what was asked for.
pub(crate) fn dead(args: &Dead, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    crate::block_on(async {
        match &args.command {
            DeadCommand::List { batch, limit, json } => {
                let limit = *limit as usize;
                let items = client.dead(batch.as_ref(), limit).await?;
                // Messages that could not be read belong to no batch; without a broker there are none to be seen.
                let asks = batch.is_none() && !settings.broker.url.is_memory();
                let letters = if asks { letters::list(settings, limit).await? } else { Letters::default() };
                let Letters { first, total } = &letters;
                let all = All { items: &items, messages: first, messages_in_queue: *total };
                print(&if *json { pretty(&all) } else { listed(&items) + &unreadable(&letters) })
            }
            DeadCommand::Show { item, json } => {
                let mut found = find(&client, item).await?;
                if found.is_empty() {
                    found.extend(find_behind(&client, item).await?);
                }
                match &found[..] {
                    [] => Err(not_dead(item)),
                    [found] => print(&if *json { pretty(found) } else { shown(found) }),
                    _ => Err(which(item)),
                }
            }
            DeadCommand::Replay { items } => replay(&client, settings, items).await,
            DeadCommand::Drop => letters::drop_all(settings).await,
        }
    })
}

/// The dead items that a name means, as far as they are listed: the first of the batch.
async fn find(client: &Client, name: &ItemName) -> Result<Vec<DeadItem>, CliError> {
    let mut items = client.dead(Some(&name.batch), MANY).await?;
    items.retain(|item| name.index.is_none_or(|index| item.index == index));
    Ok(items)
}

/// A dead item that is not listed, for more than are come before it. Its outcome tells all of it but its name and where its
/// file lies.
async fn find_behind(client: &Client, name: &ItemName) -> Result<Option<DeadItem>, CliError> {
    let Some(index) = name.index else { return Ok(None) };
    let outcome = match client.outcome(&name.batch, ItemIndex(index)).await {
        Ok(outcome) if outcome.status() == Status::Dead => outcome,
        Ok(_) => return Ok(None),
        Err(error) if error.trouble == Trouble::Unknown => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let task = client.batch(&name.batch).await?.batch.task;
    Ok(DeadItem::of(&name.batch, &task, outcome))
}

fn not_dead(name: &ItemName) -> CliError {
    let which = name.index.map_or_else(|| "no item".to_owned(), |index| format!("item {index}"));
    let verb = if name.index.is_some() { "is not" } else { "is" };
    CliError::usage(format!("{which} of batch {} {verb} dead", name.batch))
        .hint(format!("`tidemill dead list {}` lists those that are", name.batch))
}

fn which(name: &ItemName) -> CliError {
    CliError::usage(format!("batch {} has several dead items", name.batch))
        .hint(format!("say which: `tidemill dead show {}:INDEX`", name.batch))
}

/// Takes each outcome back and publishes its item again. In this order: an outcome that comes while the old one still
/// stands would be taken for a duplicate.
async fn replay(client: &Client, settings: &Settings, name: &ItemName) -> Result<Exit, CliError> {
    let items = find(client, name).await?;
    if items.is_empty() {
        return Err(find_behind(client, name).await?.map_or_else(|| not_dead(name), |item| comes_later(&item)));
    }
    let info = client.batch(&name.batch).await?;
    let listed = items.len() as u64;
    let more = if name.index.is_none() { info.progress.count(Status::Dead).saturating_sub(listed) } else { 0 };
    let publisher = letters::Publisher::begin(settings, info.batch).await?;
    let mut replayed = BTreeSet::new();
    for item in &items {
        // Where the second does not happen, the item is still among the dead: the same command goes on.
        if client.revive(&item.batch, item.index).await? {
            publisher.publish(item).await.map_err(|error| unpublished(error, item))?;
            replayed.insert(item.index);
        }
    }
    let more =
        if more > 0 { format!(", {more} more by the same command once these have ended") } else { String::new() };
    print(&format!("{} run again{more}; `tidemill status {} --watch`\n", count(replayed.len()), name.batch))
}

fn comes_later(item: &DeadItem) -> CliError {
    let DeadItem { batch, index, .. } = item;
    CliError::usage(format!("item {index} of batch {batch} is dead, and none of the first, which can be run again"))
        .hint(format!("`tidemill dead replay {batch}` runs the first again; it follows once they have ended"))
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
    facts.into_iter().map(|(key, value)| format!("  {key:6} {}\n", one_line(&value))).collect()
}
