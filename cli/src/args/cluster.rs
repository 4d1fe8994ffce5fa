//! The arguments of the commands that ask a cluster.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Subcommand};
use tidemill_core::batch::BatchId;

use super::{Format, OrderArg};

/// `status`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Status {
    /// The batch to show; without one, the newest batches are listed
    pub(crate) batch: Option<BatchId>,
    /// Show it again whenever it has changed, until it is complete
    #[arg(short, long, requires = "batch")]
    pub(crate) watch: bool,
    /// How many batches are listed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "batch")]
    pub(crate) limit: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) const RESULTS_EXAMPLES: &str = "\
Examples:
  tidemill results BATCH --follow                        all of them, as they come
  tidemill results BATCH --from 500000 --limit 10        ten from the middle
  tidemill results BATCH --follow --download small       with the files that were made
  tidemill results BATCH --follow --out all.parquet      in a file; --resume goes on with it after a stop
  tidemill results BATCH | jq 'select(.status != \"ok\")'";

/// `results`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Results {
    /// The batch, as `submit` has printed it and `status` lists it
    pub(crate) batch: BatchId,
    /// In which order outcomes are printed: as the inputs came, or as they were finished
    #[arg(long, value_name = "ORDER", value_enum, default_value_t)]
    pub(crate) order: OrderArg,
    /// How outcomes are printed; by default a table on a terminal, ndjson elsewhere
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<Format>,
    /// Begin at this place: an item's index, or in the order of completion a count
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u64,
    /// Print at most so many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Wait for outcomes to come, until the batch is complete; also while the results API is away
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Fetch produced files into this folder; names and folders of the inputs are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) download: Option<PathBuf>,
    /// Write all outcomes into this file, in the order of their inputs: .ndjson, .jsonl, .parquet, .coco.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "limit"])]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the file of --out that was left unfinished, for the same batch
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
}

/// `cancel`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Cancel {
    /// The batch
    pub(crate) batch: BatchId,
}

/// `verify`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// The batch
    pub(crate) batch: BatchId,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `dead`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Dead {
    #[command(subcommand)]
    pub(crate) command: DeadCommand,
}

/// What can be done with the dead.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List the items that ended their workers, and the messages that nobody could read
    List {
        /// Only those of this batch
        batch: Option<BatchId>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one: its whole input, and what is known of its end
    Show {
        /// Which
        #[arg(value_name = "BATCH:INDEX")]
        item: ItemName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run an item again, or all dead items of a batch
    ///
    /// Their outcomes are taken back first, so the batch is not complete until they have ended again.
    Replay {
        /// Which
        #[arg(value_name = "BATCH[:INDEX]")]
        items: ItemName,
    },
    /// Throw away the messages that nobody could read
    ///
    /// Dead items stay: they are outcomes of their batches, and expire with these.
    Drop,
}

/// A batch, or one item of it.
#[derive(Clone, Debug)]
pub(crate) struct ItemName {
    pub(crate) batch: BatchId,
    pub(crate) index: Option<u64>,
}

impl FromStr for ItemName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (batch, index) = match text.split_once(':') {
            Some((batch, index)) => (batch, Some(index)),
            None => (text, None),
        };
        let number = |index: &str| index.parse().map_err(|_| format!("{index:?} is no item; items are counted from 0"));
        Ok(Self {
            batch: batch.parse().map_err(|invalid| format!("{invalid}"))?,
            index: index.map(number).transpose()?,
        })
    }
}

/// `workers`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Workers {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_named_by_its_batch_and_its_index() {
        let item: ItemName = "0197c2a4:12".parse().unwrap();
        assert_eq!((item.batch.as_str(), item.index), ("0197c2a4", Some(12)));
        assert_eq!("0197c2a4".parse::<ItemName>().unwrap().index, None);
        for bad in ["", ":3", "a/b:3", "a:", "a:-1", "a:b"] {
            assert!(bad.parse::<ItemName>().is_err(), "{bad}");
        }
    }
}
