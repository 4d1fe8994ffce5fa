//! `verify`: the books of a batch.

use serde_json::json;
use tidemill_core::batch::BatchId;
use tidemill_core::outcome::Status;
use tidemill_core::settings::Settings;
use tidemill_core::store::Books;

use crate::args::Verify;
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::tasks::{pretty, print};

/// Prints them; they balance, or they do not (yet).
pub(crate) fn verify(args: &Verify, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    let books = crate::block_on(async { Ok(client.verify(&args.batch).await?) })?;
    let is_balanced = books.balance();
    print(&if args.json {
        pretty(&json!({ "batch": args.batch, "balanced": is_balanced, "books": books }))
    } else {
        shown(&args.batch, &books)
    })?;
    Ok(if is_balanced { Exit::Ok } else { Exit::NotAllOk })
}

fn shown(batch: &BatchId, books: &Books) -> String {
    let counts = Status::ALL.map(|status| format!("{} {status}", books.counts[status as usize])).join(" + ");
    let submitted = books.total.map_or_else(|| "not sealed".to_owned(), |total| total.to_string());
    let equals = if books.total == Some(books.counts.iter().sum()) { "=" } else { "≠" };
    let mut text = format!("{batch}\n  submitted   {submitted} {equals} {counts}\n");
    text += &format!("  duplicates  {} suppressed\n  missing     {}", books.duplicates, books.missing);
    if !books.missing_first.is_empty() {
        let ranges: Vec<String> = books.missing_first.iter().map(|(from, to)| range(*from, *to)).collect();
        text += &format!(": {}", ranges.join(", "));
    }
    text.push('\n');
    for (count, what) in [(books.doubled, "items have two outcomes"), (books.beyond, "outcomes lie behind the end")] {
        if count > 0 {
            text += &format!("  {count} {what}\n");
        }
    }
    if books.counts != books.counters {
        text += &format!("  the counters say {:?}, which is something else\n", books.counters);
    }
    text + if books.balance() { "  the books balance\n" } else { "  the books do not balance, or not yet\n" }
}

/// `7` or `3..6`, as `--range` writes it.
fn range(from: u64, to: u64) -> String {
    if to == from + 1 { from.to_string() } else { format!("{from}..{to}") }
}
