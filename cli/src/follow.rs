//! Follow: a batch's outcomes from the results API to standard output, however often the way is broken on the road.
//!
//! ```text
//!  results API ─▶ reader ─▶ sink ─▶ printer
//!       ▲            │        └──▶ kept: download, ledger
//!       └─ patience ◀┘  from the next place on
//! ```

mod download;
mod kept;
mod patience;
mod reader;
mod sink;

use std::io::{IsTerminal as _, stderr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill_core::batch::BatchId;
use tidemill_core::outcome::Status;
use tidemill_core::store::{BatchInfo, Order, Progress};
use tokio_util::sync::CancellationToken;

pub(crate) use self::kept::{Kept, must_be_in_input_order};
pub(crate) use self::patience::Patience;
use self::reader::Reader;
use self::sink::Sink;
use crate::args::Format;
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::interrupt;
use crate::notes;
use crate::out;
use crate::printer::{self, Bar};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(500);
/// How often is asked what items say that take long: workers tell it by their heartbeats.
const LISTEN: Duration = Duration::from_secs(5);

/// How outcomes are followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Following {
    /// In which order they come.
    pub(crate) order: Order,
    /// How they are printed.
    pub(crate) format: Option<Format>,
    /// The place of the first; a file that is gone on with knows better.
    pub(crate) from: u64,
    /// How many at most.
    pub(crate) limit: Option<u64>,
    /// Whether it waits for those that are not there yet, also while the API is away.
    pub(crate) waits: bool,
    /// Whether it waits even for an API that was never reached, and a batch that is not known yet: whoever has just
    /// submitted one knows that it will be.
    pub(crate) is_patient: bool,
    /// No bar, no summary.
    pub(crate) is_quiet: bool,
}

/// Prints and keeps outcomes until the batch is complete, or there are no more now, and says in one line what became of
/// it. Whoever publishes the batch meanwhile tells by `published` whether it was accepted whole: where it was, an interrupt
/// ends the process at once from then on; where it was not, the reading ends there.
///
/// The exit speaks of the whole batch: `Ok` where it is complete and every item is ok, here too, else `NotAllOk`. Where
/// nobody reads what is printed it is `Ok` as well, or `Interrupted` where a file is not finished.
///
/// # Errors
/// [`CliError`] with [`Exit::Unreachable`] where the API cannot be reached and is not to be waited for.
pub(crate) async fn follow(
    client: &Client,
    batch: &BatchId,
    mut following: Following,
    kept: Kept,
    published: impl Future<Output = bool> + Send + 'static,
) -> Result<Exit, CliError> {
    following.from += kept.place();
    let place = Arc::new(AtomicU64::new(following.from));
    let staging = kept.staging();
    let file = kept.file().map(Path::to_owned);
    let goodbye = {
        let (batch, file, place) = (batch.clone(), file.clone(), Arc::clone(&place));
        move || {
            out::remove_at_once(staging.as_deref());
            let back = match file {
                Some(file) => unfinished(&batch, &file),
                None => how_to_read_on(&batch, following.order, place.load(Ordering::Relaxed)),
            };
            format!("interrupted: the batch goes on, and `tidemill cancel {batch}` ends it; {back}")
        }
    };
    let sent = CancellationToken::new();
    let shown = [show_progress(client, batch, &following, sent.clone()), tell_notes(client, batch, &following)];
    let mut reader = Reader::new(client, batch, following, Sink::new(&following, kept), Arc::clone(&place));
    let given_up = CancellationToken::new();
    let all_is_sent = {
        let (given_up, sent) = (given_up.clone(), sent.clone());
        async move {
            if published.await {
                sent.cancel();
            } else {
                given_up.cancel();
                std::future::pending::<()>().await;
            }
        }
    };
    let guard = interrupt::ends_at_once_from(all_is_sent, goodbye);
    let read = given_up.run_until_cancelled(reader.read()).await;
    shown.into_iter().flatten().for_each(|shown| shown.abort());
    if sent.is_cancelled() {
        printer::clear();
    }
    let Some(read) = read else {
        reader.give_up()?.discard_if_empty();
        return Ok(Exit::NotAllOk);
    };
    let info = read?;
    let kept = reader.end()?;
    let harmed = info.as_ref().map_or(0, |info| kept.harmed(&info.progress));
    let whole = info.as_ref().filter(|info| is_at_the_end(info, place.load(Ordering::Relaxed)));
    if let Some(info) = whole {
        kept.finish(&info.batch).await?;
    }
    drop(guard);
    if let (Some(file), None, false) = (&file, whole, following.is_quiet) {
        printer::say(&unfinished(batch, file));
    }
    let Some(info) = &info else { return Ok(if file.is_some() { Exit::Interrupted } else { Exit::Ok }) };
    if !following.is_quiet {
        tell(info, harmed, &following);
    }
    Ok(if is_well(&info.progress) && harmed == 0 { Exit::Ok } else { Exit::NotAllOk })
}

/// Whether the batch is complete and every item is ok.
pub(crate) fn is_well(progress: &Progress) -> bool {
    progress.is_complete() && progress.count(Status::Ok) == progress.recorded()
}

fn how_to_read_on(batch: &BatchId, order: Order, place: u64) -> String {
    let order = if order == Order::Completion { " --order completion" } else { "" };
    format!("`tidemill results {batch} --follow --from {place}{order}` reads on")
}

fn unfinished(batch: &BatchId, file: &Path) -> String {
    let file = file.display();
    format!("{file} is not finished; `tidemill results {batch} --follow --out {file} --resume` goes on with it")
}

/// Whether the batch is complete, and nothing comes at this place any more.
fn is_at_the_end(info: &BatchInfo, place: u64) -> bool {
    info.progress.is_complete() && info.progress.total.is_some_and(|total| place >= total)
}

/// The bar follows the batch, not what was read of it: a reader may begin late and be slow. Until all is sent, it is that of
/// whoever sends.
fn show_progress(
    client: &Client,
    batch: &BatchId,
    following: &Following,
    sent: CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    let is_quiet = following.is_quiet;
    if !Bar::new("", None, is_quiet).is_wanted() || !following.waits {
        return None;
    }
    let (client, batch) = (client.clone(), batch.clone());
    Some(tokio::spawn(async move {
        sent.cancelled().await;
        let mut bar = None;
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            // Where the API is away the reader says so.
            let Ok(info) = client.batch(&batch).await else { continue };
            bar.get_or_insert_with(|| Bar::new(&info.batch.task, None, is_quiet)).update(&info.progress);
        }
    }))
}

/// What items that take long say of themselves, a line whenever it has changed.
fn tell_notes(client: &Client, batch: &BatchId, following: &Following) -> Option<tokio::task::JoinHandle<()>> {
    if following.is_quiet || !following.waits {
        return None;
    }
    let (client, batch) = (client.clone(), batch.clone());
    Some(tokio::spawn(async move {
        let mut told = Vec::new();
        loop {
            tokio::time::sleep(LISTEN).await;
            let notes = notes::of(&client, &batch).await;
            notes.iter().filter(|note| !told.contains(*note)).for_each(|note| printer::say(note));
            told = notes;
        }
    }))
}

/// One line behind the outcomes, where there is something to say or somebody who watches; `harmed` are the items that
/// failed only here.
fn tell(info: &BatchInfo, harmed: u64, following: &Following) {
    let progress = &info.progress;
    let counts = counts(progress);
    let here = match harmed {
        0 => String::new(),
        harmed => format!("; {harmed} of them failed here: their files could not be fetched or placed"),
    };
    if progress.is_complete() {
        if !is_well(progress) || harmed > 0 || stderr().is_terminal() {
            let took = info.completed.map(|at| Duration::from_millis(at.saturating_sub(info.created)));
            let took = took.map(|took| format!(" in {:.1} s", took.as_secs_f64())).unwrap_or_default();
            printer::say(&format!("{counts}{took}{here}"));
        }
    } else if following.limit.is_none() || harmed > 0 {
        let total = progress.total.map_or_else(|| "not sealed yet".to_owned(), |total| format!("of {total}"));
        let hint = if following.waits { "" } else { "; --follow waits for the rest" };
        printer::say(&format!("so far {counts} ({total}){here}{hint}"));
    }
}

/// `3 ok, 1 failed`
pub(crate) fn counts(progress: &Progress) -> String {
    let counts: Vec<String> = Status::ALL
        .into_iter()
        .filter(|status| progress.count(*status) > 0)
        .map(|status| format!("{} {status}", progress.count(status)))
        .collect();
    if counts.is_empty() { "no outcomes".to_owned() } else { counts.join(", ") }
}
