//! The arguments. The doc comments are the help.

mod bench;
mod cluster;
mod models;
mod roles;

use std::num::IntErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tidemill_core::settings::parse_duration;
use tidemill_core::store::Order;
use tidemill_core::task::Lane;

pub(crate) use self::bench::{Bench, BenchFormat};
pub(crate) use self::cluster::{Cancel, Dead, DeadCommand, ItemName, Results, Status, Verify, Workers};
pub(crate) use self::models::{CardArgs, ImportArgs, ModelsArgs, ModelsCommand};
pub(crate) use self::roles::{Health, ResultsApi, ServeArgs, Submit, WorkerArgs};
use crate::error::{CliError, Exit};
use crate::printer;

/// Run a task over many inputs, on every core and GPU, and get every outcome once and in order
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) shared: Shared,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tidemill run vision.classify photos/                       what is on these pictures?
  tidemill run image.transform photos/ -o steps='[{\"thumbnail\":[320,320]}]' --out small
  tidemill run compute.map --range 0..1000000 -o expr='x*x - 2*x' --format ndjson
  tidemill tasks                                             what else can it do?

Exit codes: 0 all ok, 1 a fault of ours, 2 usage, 3 configuration, 4 cluster not reachable,
            5 some items not ok, 130 interrupted";

/// Flags of every command.
#[derive(Debug, ClapArgs)]
pub(crate) struct Shared {
    /// Read settings from this file, in place of the one that TIDEMILL_CONFIG names
    #[arg(long, global = true, value_name = "FILE", num_args = 0..=1, help_heading = "Everywhere")]
    pub(crate) config: Option<Option<PathBuf>>,
    /// Say less: no progress, errors only (twice: nothing)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose", help_heading = "Everywhere")]
    pub(crate) quiet: u8,
    /// Say more (twice, three times: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub(crate) verbose: u8,
}

impl Shared {
    /// Whether nothing is to be said but errors.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet > 0
    }

    /// Says something on standard error, unless it is to be quiet.
    pub(crate) fn say(&self, text: &str) {
        if !self.is_quiet() {
            printer::say(text);
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a task over inputs on this machine
    ///
    /// Nothing else is needed: broker, worker and store live inside the command.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Send a task with its inputs to the cluster
    ///
    /// It prints the batch's id once the broker has everything on disk. With --wait it prints the outcomes, as `run` does,
    /// while it sends; once all is sent, Ctrl-C only stops the waiting.
    #[command(after_help = roles::SUBMIT_EXAMPLES)]
    Submit(Submit),
    /// Show the batches of the cluster, or how far one has come
    Status(Status),
    /// Print the outcomes of a batch
    ///
    /// They can be read while it runs, from any place, in either order, and as often as wanted until they expire. It
    /// exits with 0 once the batch is complete and all its items are ok, and with 5 while it is not.
    #[command(after_help = cluster::RESULTS_EXAMPLES)]
    Results(Results),
    /// Cancel a batch
    ///
    /// What is queued is not run any more, what runs stops at its next item. Every item that has not ended becomes
    /// `cancelled`.
    Cancel(Cancel),
    /// Count the outcomes of a batch anew and say whether the books balance
    ///
    /// It exits with 0 when every item has exactly one outcome, and with 5 when not, or not yet.
    Verify(Verify),
    /// Look at the items that ended their workers, and run them again
    Dead(Dead),
    /// List the workers that live
    Workers(Workers),
    /// List the tasks, or show one: its options, its input, examples
    Tasks(Tasks),
    /// List the models, show one, import and verify them
    Models(ModelsArgs),
    /// Work for the cluster: take chunks from RabbitMQ, run them, send back the outcomes
    Worker(WorkerArgs),
    /// Collect outcomes from RabbitMQ into Redis, and serve them over HTTP
    ResultsApi(ResultsApi),
    /// Serve the HTTP API on this machine, with everything inside
    ///
    /// Broker, workers and store live in the process, as in `run`; outcomes are kept in memory until it ends. What a
    /// cluster's results API answers is answered here: batches, results, and one picture at a time to
    /// /v1/predict/classify and /v1/predict/segment.
    #[command(after_help = roles::SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Measure how fast a model is on this machine, and how much of what is possible
    ///
    /// Three rates, in pictures a second: the network alone, the reading of pictures alone, and both together as `run` does
    /// it. The limit is what the slower of the two allows, or on the CPU, where both share the cores, what is left of them.
    #[command(after_help = bench::EXAMPLES)]
    Bench(Bench),
    /// Ask a role whether it is ready; for health checks of containers
    #[command(hide = true)]
    Health(Health),
    /// Say what is installed, what is missing, and how to mend it
    ///
    /// With --config and no file it prints the settings in force instead, and where each comes from.
    Doctor,
    /// Print completions for a shell
    ///
    /// For bash, for example: tidemill completions bash > /etc/bash_completion.d/tidemill
    Completions {
        /// The shell
        shell: Shell,
    },
    /// What networks can run on, a line each: how `doctor` asks tidemill-vision
    #[command(hide = true)]
    Devices,
}

impl Command {
    /// Whether it computes or serves, rather than send, ask and print.
    pub(crate) fn computes_or_serves(&self) -> bool {
        use Command::{Bench, Models, ResultsApi, Run, Serve, Worker};
        matches!(self, Run(_) | Models(_) | Worker(_) | ResultsApi(_) | Serve(_) | Bench(_))
    }
}

const RUN_EXAMPLES: &str = "\
Examples:
  tidemill run time.sleep 5 4 3 2 1 --order completion
  tidemill run compute.factorize --items numbers.ndjson --format csv
  tidemill run image.transform photos/ -o steps='[{\"blur\":15},{\"thumbnail\":[1200,1200]}]' --out small
  printf '\"a.jpg\"\\n\"b.jpg\"\\n' | tidemill run vision.classify -
  tidemill run vision.classify s3://bucket/photos/ --out labels.parquet          a line for each, in columns
  tidemill run vision.classify s3://bucket/photos/ --out labels.parquet --resume after a stop";

/// What is to be done: the task, its options, its inputs.
#[derive(Debug, ClapArgs)]
pub(crate) struct Work {
    /// The task, such as image.transform; `tidemill tasks` lists them
    pub(crate) task: String,
    /// Inputs: files, folders and buckets (s3://bucket/folder/), with all that is in them; globs, URLs; values; or - for NDJSON on standard input
    #[arg(value_name = "INPUT", allow_negative_numbers = true)]
    pub(crate) inputs: Vec<String>,
    /// Whole numbers from A up to, not including, B as inputs
    #[arg(long, value_name = "A..B", value_parser = parse_range, allow_hyphen_values = true)]
    pub(crate) range: Option<(i64, i64)>,
    /// A file with an input a line, as JSON (NDJSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) items: Vec<PathBuf>,
    /// An option of the task; the value is JSON, else a string
    #[arg(short, long = "option", value_name = "KEY=VALUE", value_parser = parse_option)]
    pub(crate) options: Vec<Given>,
    /// Items that travel together; by default as many as make a good piece of work
    #[arg(long, value_name = "ITEMS", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "How it is run")]
    pub(crate) chunk: Option<u32>,
    /// How often an item is run again after a failure that may pass
    #[arg(long, value_name = "N", help_heading = "How it is run")]
    pub(crate) retries: Option<u32>,
    /// How long one attempt of one item may take, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, help_heading = "How it is run")]
    pub(crate) timeout: Option<Duration>,
}

/// An option as it was typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Given {
    pub(crate) key: String,
    /// After the `=`.
    text: String,
    value: serde_json::Value,
}

impl Work {
    /// The options, as a task with this schema reads them: what looks like a number is text where text is wanted.
    pub(crate) fn options(&self, schema: &serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
        let kind = |key: &str| &schema["properties"][key]["type"];
        let is_text = |key: &str| match kind(key) {
            serde_json::Value::Array(types) => types.iter().all(|one| one == "string" || one == "null"),
            one => one == "string",
        };
        let value = |Given { key, text, value }: &Given| match value {
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) if is_text(key) => text.as_str().into(),
            serde_json::Value::Null if kind(key) == "string" => text.as_str().into(),
            value => value.clone(),
        };
        self.options.iter().map(|given| (given.key.clone(), value(given))).collect()
    }
}

/// How outcomes are shown.
#[derive(Debug, ClapArgs)]
pub(crate) struct Show {
    /// In which order outcomes are printed: as the inputs came, or as they were finished
    #[arg(long, value_name = "ORDER", value_enum, default_value_t)]
    pub(crate) order: OrderArg,
    /// How outcomes are printed; by default a table on a terminal, ndjson elsewhere
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<Format>,
    /// The folder for produced files (names and folders of the inputs are kept), or a file for outcomes: .ndjson,
    /// .jsonl, .parquet, .coco.json; may be given twice, once for each
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) out: Vec<PathBuf>,
}

/// `run`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    pub(crate) show: Show,
    /// Go on with the file of --out that a stopped run left: the same command, with the same inputs
    #[arg(long)]
    pub(crate) resume: bool,
    /// Computing threads; by default one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "How it is run")]
    pub(crate) workers: Option<u16>,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

/// How networks are run; by default as the settings say.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "How networks are run")]
pub(crate) struct Networks {
    /// Where networks run: auto, cpu, cuda (every GPU), cuda:N (several by commas)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// What networks compute with: auto, fp32, bf16, fp16
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<String>,
    /// Copies of a network on each device; by default as many as fit the cores, two on a GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) instances: Option<u16>,
}

impl Networks {
    fn overrides(&self) -> [(&'static str, Option<String>); 3] {
        [
            ("vision.device", self.device.clone()),
            ("vision.precision", self.precision.clone()),
            ("vision.instances", self.instances.map(|instances| instances.to_string())),
        ]
    }
}

/// `tasks`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Tasks {
    /// The task to show
    pub(crate) task: Option<String>,
    /// Print JSON, with the schemas of input, options and output
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the page docs/catalogue.md
    #[arg(long, hide = true, conflicts_with_all = ["task", "json"])]
    pub(crate) markdown: bool,
}

/// See [`Order`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    #[default]
    Input,
    Completion,
}

impl From<OrderArg> for Order {
    fn from(order: OrderArg) -> Self {
        match order {
            OrderArg::Input => Self::Input,
            OrderArg::Completion => Self::Completion,
        }
    }
}

/// How outcomes are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line
    Ndjson,
    /// Aligned columns, shortened to fit
    Table,
    /// One JSON array
    Json,
    /// Comma-separated values, with a header
    Csv,
}

impl Args {
    /// What the flags say about settings.
    pub(crate) fn overrides(&self) -> Vec<(String, String)> {
        let mut overrides = Vec::new();
        let mut set = |key: &str, value: String| overrides.push((key.to_owned(), value));
        match (self.shared.quiet, self.shared.verbose) {
            (0, 0) => {}
            (1, _) => set("log.level", "error".into()),
            (2.., _) => set("log.level", "off".into()),
            (_, 1) => set("log.level", "info".into()),
            (_, 2) => set("log.level", "debug".into()),
            (_, 3..) => set("log.level", "trace".into()),
        }
        let attempts = |work: &Work| work.retries.map(|retries| retries.saturating_add(1).to_string());
        let flags = match &self.command {
            Command::Run(run) => vec![
                ("worker.threads", run.workers.map(|threads| threads.to_string())),
                ("retry.attempts", attempts(&run.work)),
            ]
            .into_iter()
            .chain(run.networks.overrides())
            .collect(),
            Command::Submit(submit) => vec![("retry.attempts", attempts(&submit.work))],
            Command::Worker(worker) => vec![
                ("worker.threads", worker.threads.map(|threads| threads.to_string())),
                ("worker.lanes", lanes(&worker.lanes)),
                ("worker.name", worker.name.clone()),
                ("worker.listen", worker.listen.map(|address| address.to_string())),
            ]
            .into_iter()
            .chain(worker.networks.overrides())
            .collect(),
            Command::ResultsApi(api) => vec![("api.listen", api.listen.map(|address| address.to_string()))],
            Command::Serve(serve) => vec![
                ("api.listen", serve.listen.map(|address| address.to_string())),
                ("worker.threads", serve.threads.map(|threads| threads.to_string())),
            ]
            .into_iter()
            .chain(serve.networks.overrides())
            .collect(),
            Command::Bench(bench) => bench.networks.overrides().to_vec(),
            _ => Vec::new(),
        };
        for (key, value) in flags {
            value.into_iter().for_each(|value| set(key, value));
        }
        overrides
    }
}

/// As the settings take them.
fn lanes(lanes: &[Lane]) -> Option<String> {
    let names: Vec<&str> = lanes.iter().map(|lane| lane.as_str()).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// Prints what the shell asks for.
pub(crate) fn completions(shell: Shell) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    // Into a buffer: it panics where what it writes to is closed.
    clap_complete::generate(shell, &mut Args::command(), "tidemill", &mut text);
    crate::tasks::print(&String::from_utf8_lossy(&text))
}

fn parse_range(text: &str) -> Result<(i64, i64), String> {
    let (from, to) = text.split_once("..").ok_or("it should be A..B, such as 0..1000")?;
    let number = |text: &str| {
        text.replace('_', "").parse::<i64>().map_err(|invalid| match invalid.kind() {
            IntErrorKind::PosOverflow => format!("{text} is too large; the largest number is {}", i64::MAX),
            IntErrorKind::NegOverflow => format!("{text} is too small; the smallest number is {}", i64::MIN),
            _ => format!("{text:?} is not a whole number; it should be A..B, such as 0..1000"),
        })
    };
    let (from, to, is_closed) = match to.strip_prefix('=') {
        Some(to) => (number(from)?, number(to)?, true),
        None => (number(from)?, number(to)?, false),
    };
    let to = if is_closed { to.checked_add(1).ok_or("the end is too large")? } else { to };
    if from > to { Err(format!("it begins at {from}, after its end")) } else { Ok((from, to)) }
}

fn parse_option(text: &str) -> Result<Given, String> {
    let (key, value) = text.split_once('=').ok_or("it should be KEY=VALUE, such as top=3")?;
    if key.is_empty() {
        return Err("it has no key; it should be KEY=VALUE, such as top=3".into());
    }
    let json = serde_json::from_str(value);
    // What begins like JSON was meant to be: a bracket that is missing must not make it a string.
    match json {
        Err(error) if value.trim_start().starts_with(['{', '[', '"']) => Err(format!("the value is not JSON: {error}")),
        json => {
            let json = json.unwrap_or_else(|_| value.into());
            Ok(Given { key: key.to_owned(), text: value.to_owned(), value: json })
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text).map_err(|invalid| format!("{}; {}", invalid.problem, invalid.hint))?;
    // It travels in milliseconds.
    if timeout < Duration::from_millis(1) { Err("it must be 1ms or longer".into()) } else { Ok(timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_looks_like_something_else_is_text_where_text_is_wanted() {
        let schema = serde_json::json!({ "properties": {
            "word": { "type": "string" }, "name": { "type": ["string", "null"] }, "count": { "type": "integer" },
        } });
        let line = ["tidemill", "run", "text.count", "-o", "word=null", "-o", "name=null", "-o", "count=7"];
        let Command::Run(run) = Args::try_parse_from(line).unwrap().command else { panic!("{line:?}") };

        let options = run.work.options(&schema);

        assert_eq!(serde_json::Value::from(options), serde_json::json!({ "word": "null", "name": null, "count": 7 }));
    }

    #[test]
    fn a_list_of_nothing_is_not_asked_for() {
        for command in [&["status"][..], &["dead", "list"]] {
            let asked = |limit| {
                let args = ["tidemill"].iter().chain(command).copied().chain(["--limit", limit]);
                Args::try_parse_from(args).map(drop)
            };
            assert!(asked("1").is_ok(), "{command:?}");
            let refused = asked("0").unwrap_err().to_string();
            assert!(refused.contains("invalid value '0' for '--limit <N>': 0 is not in 1.."), "{refused}");
        }
    }

    #[test]
    fn ranges_are_half_open_unless_they_say_otherwise() {
        assert_eq!(parse_range("0..1_000"), Ok((0, 1000)));
        assert_eq!(parse_range("-3..=3"), Ok((-3, 4)));
        assert_eq!(parse_range("5..5"), Ok((5, 5)));
        for bad in ["5", "a..b", "3..1", "..", "0..=9223372036854775807"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_that_no_range_reaches_is_one_all_the_same() {
        let refused = |text| parse_range(text).unwrap_err();
        assert!(refused("18446744073709551600..18446744073709551610").starts_with("18446744073709551600 is too large"));
        assert!(refused("-18446744073709551600..0").starts_with("-18446744073709551600 is too small"));
        assert!(refused("0..9223372036854775808").ends_with("the largest number is 9223372036854775807"));
        assert!(refused("0..1e3").contains("is not a whole number"));
    }

    #[test]
    fn a_value_is_json_or_else_a_string_but_broken_json_is_neither() {
        let value = |text| parse_option(text).map(|given| given.value);
        assert_eq!(value("top=3"), Ok(3.into()));
        assert_eq!(value("expr=x*x - 2*x"), Ok("x*x - 2*x".into()));
        assert_eq!(value("a=b=c"), Ok("b=c".into()));
        assert!(value("steps=[{\"blur\":15}").is_err());
        assert!(value("top").is_err());
    }
}
