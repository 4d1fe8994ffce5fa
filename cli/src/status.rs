//! `status`: the batches of the cluster, or how far one has come.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use tidemill_core::batch::unix_millis;
use tidemill_core::outcome::Status as Ended;
use tidemill_core::settings::Settings;
use tidemill_core::store::{BatchInfo, Progress};
use tidemill_results_api::http::State;

use crate::args::{Shared, Status};
use crate::client::Client;
use crate::columns::{ago, columns};
use crate::error::{CliError, Exit};
use crate::follow::{Patience, counts};
use crate::interrupt;
use crate::notes;
use crate::tasks::{pretty, print};

/// How often a batch that is watched is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Shows them.
pub(crate) fn status(args: &Status, shared: &Shared, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    crate::block_on(async {
        match &args.batch {
            None => {
                let infos = client.batches(args.limit as usize).await?;
                print(&if args.json { pretty(&infos) } else { listed(&infos) })
            }
            Some(_) if args.watch => watch(&client, args, shared.is_quiet()).await,
            Some(batch) => {
                let info = client.batch(batch).await?;
                print(&if args.json { pretty(&info) } else { shown(&info, &notes::of(&client, batch).await) })
            }
        }
    })
}

/// Shows a batch whenever it has changed. On a terminal each takes the place of the one before. A results API that goes
/// away meanwhile is waited for.
async fn watch(client: &Client, args: &Status, is_quiet: bool) -> Result<Exit, CliError> {
    let Some(batch) = &args.batch else { return Ok(Exit::Ok) };
    let _guard = interrupt::ends_at_once({
        let batch = batch.clone();
        move || format!("interrupted: the batch goes on; `tidemill status {batch} --watch` comes back")
    });
    let terminal = console::Term::stdout();
    let mut last: Option<(Progress, Vec<String>, usize)> = None;
    let mut patience = Patience::of_watcher(is_quiet);
    loop {
        let info = match client.batch(batch).await {
            Ok(info) => info,
            Err(error) => {
                patience.wait_out(error).await?;
                if let Some((.., lines)) = &mut last {
                    // They no longer stand just above: what was said meanwhile does.
                    *lines = 0;
                }
                continue;
            }
        };
        patience.is_back();
        patience.has_got_on();
        let notes = if args.json { Vec::new() } else { notes::of(client, batch).await };
        if last.as_ref().is_none_or(|(progress, told, _)| (progress, told) != (&info.progress, &notes)) {
            if let Some((.., lines)) = last.filter(|_| stdout().is_terminal() && !args.json) {
                // A terminal that cannot do that shows them one below the other.
                terminal.clear_last_lines(lines).unwrap_or_default();
            }
            let text = if args.json {
                serde_json::to_string(&info).unwrap_or_default() + "\n"
            } else if stdout().is_terminal() {
                shown(&info, &notes)
            } else {
                let notes: String = notes.iter().map(|note| format!("  {note}")).collect();
                format!("{}  {}  {}{notes}\n", State::of(&info), how_far(&info.progress), counts(&info.progress))
            };
            print(&text)?;
            last = Some((info.progress.clone(), notes, text.lines().count()));
        }
        if info.progress.is_complete() {
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(TICK).await;
    }
}

fn listed(infos: &[BatchInfo]) -> String {
    if infos.is_empty() {
        return "no batches; `tidemill submit TASK INPUT…` makes one\n".into();
    }
    let row = |info: &BatchInfo| {
        let bad = info.progress.recorded() - info.progress.count(Ended::Ok);
        [
            info.batch.id.to_string(),
            info.batch.task.clone(),
            State::of(info).to_string(),
            how_far(&info.progress),
            bad.to_string(),
            ago(info.created),
        ]
    };
    columns(["batch", "task", "state", "items", "not ok", "opened"], infos.iter().map(row))
}

fn shown(info: &BatchInfo, notes: &[String]) -> String {
    let progress = &info.progress;
    let mut facts = vec![
        ("batch", info.batch.id.to_string()),
        ("task", info.batch.task.clone()),
        ("state", State::of(info).to_string()),
        ("items", how_far(progress)),
        ("outcomes", counts(progress)),
        ("opened", format!("{} ago", ago(info.created))),
    ];
    if progress.total.is_none() {
        facts.push(("accepted", format!("{} items so far", info.accepted)));
    }
    if let Some(completed) = info.completed {
        let took = Duration::from_millis(completed.saturating_sub(info.created));
        facts.push(("took", format!("{:.1} s", took.as_secs_f64())));
    } else if let Some(left) = left(info) {
        facts.push(("left", format!("about {}", humantime::format_duration(left))));
    }
    facts.extend(notes.iter().map(|note| ("at work", note.clone())));
    facts.into_iter().map(|(key, value)| format!("  {key:9} {value}\n")).collect()
}

/// `300 of 1000, 30 %`
fn how_far(progress: &Progress) -> String {
    let recorded = progress.recorded();
    match progress.total {
        None => format!("{recorded} of ?"),
        Some(0) => "0".into(),
        Some(total) if total == recorded => total.to_string(),
        Some(total) => format!("{recorded} of {total}, {} %", 100 * recorded / total),
    }
}

/// How long it will take if it goes on as it went so far.
fn left(info: &BatchInfo) -> Option<Duration> {
    let (recorded, total) = (info.progress.recorded(), info.progress.total?);
    let gone = unix_millis().saturating_sub(info.created);
    let millis = u128::from(gone) * u128::from(total.saturating_sub(recorded)) / u128::from(recorded).max(1);
    (recorded > 0).then(|| Duration::from_secs(u64::try_from(millis / 1000).unwrap_or(u64::MAX)))
}
