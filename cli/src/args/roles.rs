//! The arguments of `submit` and of the cluster's roles.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args as ClapArgs;
use tidemill_core::batch::BatchId;
use tidemill_core::task::Lane;
use tidemill_results_api::http::check_key;

use super::{Networks, Show, Work, parse_timeout};

pub(super) const SUBMIT_EXAMPLES: &str = "\
Examples:
  tidemill submit compute.factorize --range 1..1000000              prints the batch's id
  tidemill submit image.transform photos/ -o steps='[{\"thumbnail\":[320,320]}]' --wait --out small
  tidemill submit vision.classify s3://bucket/a.jpg --wait --order completion
  tidemill submit vision.classify s3://bucket/photos/ --wait --out labels.parquet
  tidemill submit compute.factorize --items numbers.ndjson --idempotency-key monday
  tidemill submit compute.factorize --items numbers.ndjson --resume 0192…";

/// `submit`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    pub(crate) show: Show,
    /// Wait for the outcomes and print them, as `run` does
    #[arg(long, conflicts_with = "detach")]
    pub(crate) wait: bool,
    /// Print the batch's id and end once everything is accepted; this is the default
    #[arg(long)]
    pub(crate) detach: bool,
    /// Go on with a batch that was not accepted whole: the same task, options and inputs; only what is missing is sent
    #[arg(long, value_name = "BATCH", help_heading = "How it is sent")]
    pub(crate) resume: Option<BatchId>,
    /// A name of yours for this batch: the same one never makes a second batch, however often it is submitted
    #[arg(long, value_name = "KEY", value_parser = parse_key, conflicts_with = "resume", help_heading = "How it is sent")]
    pub(crate) idempotency_key: Option<String>,
    /// End the sending after this long, whatever was accepted by then, and say how to go on
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, help_heading = "How it is sent")]
    pub(crate) deadline: Option<Duration>,
    /// Send paths instead of files, relative ones made absolute: the workers see the same folders (shared storage)
    #[arg(long, help_heading = "How it is sent")]
    pub(crate) by_path: bool,
    /// 0 is usual; anything above goes before it, larger before smaller where the broker can
    #[arg(long, value_name = "0-9", value_parser = clap::value_parser!(u8).range(0..=9), default_value_t = 0, help_heading = "How it is run")]
    pub(crate) priority: u8,
    /// When the batch's time is over: items that have not begun by then are `expired`
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, help_heading = "How it is run")]
    pub(crate) expires_in: Option<Duration>,
}

/// `worker`.
#[derive(Debug, ClapArgs)]
pub(crate) struct WorkerArgs {
    /// The queues it serves: cpu, wait, process, vision (several by commas)
    #[arg(long, value_name = "LANE", value_delimiter = ',', value_parser = parse_lane)]
    pub(crate) lanes: Vec<Lane>,
    /// Computing threads; by default one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// The name that outcomes carry; by default the host's name and the process id
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where it answers /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

/// `results-api`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ResultsApi {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

pub(super) const SERVE_EXAMPLES: &str = "\
Examples:
  tidemill serve                                             at http://127.0.0.1:8460
  curl -F image=@cat.jpg 'http://127.0.0.1:8460/v1/predict/classify?top=3'
  curl -F image=@me.jpg -o mask.png 'http://127.0.0.1:8460/v1/predict/segment?answer=mask'";

/// `serve`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Computing threads; by default one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

/// `health`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Health {
    /// What to ask, such as <http://127.0.0.1:8460/readyz>
    pub(crate) url: String,
}

fn parse_key(text: &str) -> Result<String, String> {
    check_key(text).map(|()| text.to_owned())
}

fn parse_lane(text: &str) -> Result<Lane, String> {
    let known = Lane::ALL.map(Lane::as_str);
    Lane::ALL
        .into_iter()
        .find(|lane| lane.as_str() == text)
        .ok_or_else(|| format!("it should be one of {}", known.join(", ")))
}
