//! The command line. `tidemill` and `tidemill-vision` are this, without and with libtorch.
//!
//! ```text
//!  args ─▶ settings ─▶ ┬ run: words ─▶ producer ─▶ [broker ─▶ worker ─▶ collector ─▶ store] ─▶ printer
//!                      ├ status, results, cancel, verify, dead, workers: client ─▶ results API
//!                      ├ submit ─▶ producer ─▶ RabbitMQ ─▶ worker ─▶ RabbitMQ ─▶ results-api ─▶ Redis
//!                      │   (the roles worker and results-api are commands too; health asks one whether it is ready)
//!                      ├ serve: results API over [broker ─▶ worker ─▶ collector ─▶ store]
//!                      ├ bench: a network, the reading of pictures, and both as run does it
//!                      ├ tasks, models, doctor, completions
//!                      └ handover ─▶ tidemill-vision, where a network is to run
//! ```

mod args;
mod bench;
mod cancel;
mod client;
mod cluster;
mod columns;
mod dead;
mod doctor;
mod error;
mod follow;
mod handover;
mod identity;
mod interrupt;
mod ledger;
mod letters;
mod line;
mod models;
mod networks;
mod notes;
mod out;
mod prepared;
mod printer;
mod results;
mod results_api;
mod run;
mod serve;
mod status;
mod submit;
mod tasks;
mod verify;
mod words;
mod worker;
mod workers;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser as _;
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
use tidemill_core::blobs::FetchLimits;
use tidemill_core::settings::{Settings, Sources, VisionSettings};
use tidemill_core::task::Register;
use tidemill_core::telemetry;
use tidemill_tasks::vision::card::Card;
use tidemill_tasks::vision::train::Place;
use tidemill_tasks::vision::{Engine, Import, Models};
use tidemill_tasks::{House, image, net};
use tokio::runtime::Runtime;

use crate::args::{Args, Command};
pub use crate::error::{CliError, Exit};

/// The network engine, where it is linked in.
#[derive(Clone, Copy, Debug)]
pub struct Vision {
    /// Starts it; the error is a text for people.
    pub start: fn(&VisionSettings) -> Result<Arc<dyn Engine>, String>,
    /// What there is to run networks on, a line each.
    pub describe: fn() -> Vec<String>,
    /// Measures a network by itself, for so long; the error is a text for people.
    pub measure: fn(&Card, &VisionSettings, Duration) -> Result<Measured, String>,
    /// Makes a model's folder and says what was found well, a line each; the error is a text for people.
    pub import: fn(&Import, &VisionSettings) -> Result<Vec<String>, String>,
    /// Says what of a model was found well, a line each; the error is a text for people.
    pub verify: fn(&Card, &VisionSettings) -> Result<Vec<String>, String>,
    /// The names of a model's classes, by number; the error is a text for people.
    pub labels: fn(&Card) -> Result<Vec<String>, String>,
}

/// How fast a network is by itself.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What it ran on, as outcomes give it.
    pub device: String,
    /// Whether that is the CPU, whose cores the reading of pictures shares.
    pub is_cpu: bool,
    /// What it computed with.
    pub precision: String,
    /// Copies of it on all devices together.
    pub instances: usize,
    /// Threads inside each.
    pub threads: usize,
    /// Pictures that went through together.
    pub batch: usize,
    /// Pictures a second.
    pub rate: f64,
    /// How long one picture by itself takes: the median.
    pub one: Duration,
}

/// Whether large pages are done without by our own wish.
static WITHOUT_LARGE_PAGES: AtomicBool = AtomicBool::new(false);

/// Tells the system that this process wants no large pages. Where it cannot be told, all is as before.
pub extern "C" fn without_large_pages() {
    if matches!(transparent_huge_pages_are_disabled(), Ok(false)) {
        WITHOUT_LARGE_PAGES.store(disable_transparent_huge_pages(true).is_ok(), Ordering::Relaxed);
    }
}

/// The command: everything from its arguments to its end, which it does not come back from unless it is the child of a task.
pub fn main(vision: Option<Vision>) -> ExitCode {
    // Before anything else: a child of a task `process.*` is this command too.
    if let Some(code) = tidemill_tasks::process::main_if_child() {
        return code;
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are errors to clap too, and go to standard output; whoever closed that wants no more.
            end(match error.print() {
                _ if error.use_stderr() => Ok(Exit::Usage),
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(CliError::fault(format!("cannot print: {error}")))
                }
                _ => Ok(Exit::Ok),
            });
        }
    };
    end(dispatch(args, vision))
}

/// Says the last word and ends the process.
fn end(ended: Result<Exit, CliError>) -> ! {
    let exit = ended.unwrap_or_else(|error| {
        // Whatever has shown it may have ended in the middle.
        printer::clear();
        // Nothing can be done where even standard error is closed.
        drop(write!(std::io::stderr().lock(), "{error}"));
        error.exit
    });
    exit.end_process()
}

fn dispatch(args: Args, vision: Option<Vision>) -> Result<Exit, CliError> {
    let wants_settings = matches!(args.shared.config, Some(None));
    if wants_settings && !matches!(args.command, Command::Doctor) {
        return Err(
            CliError::usage("--config: a file is missing").hint("`tidemill doctor --config` prints the settings")
        );
    }
    let loaded = Settings::load(Sources {
        config_file: args.shared.config.clone().flatten(),
        env: Sources::environment(),
        overrides: args.overrides(),
    })
    .map_err(|error| CliError::new(Exit::Configuration, error.to_string()))?;
    let settings = &loaded.settings;
    telemetry::init(&settings.log, telemetry::TextStyle::for_stderr(), printer::stderr_beside_the_bar)
        .map_err(|error| CliError::fault(format!("cannot start the log: {error}")))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if args.command.computes_or_serves() && WITHOUT_LARGE_PAGES.load(Ordering::Relaxed) {
        // It has use for large pages, and so has whom it hands over to.
        disable_transparent_huge_pages(false).unwrap_or_default();
    }
    match args.command {
        Command::Run(run) => run::run(run, &args.shared, settings, vision),
        Command::Status(status) => status::status(&status, &args.shared, settings),
        Command::Results(results) => results::results(&results, &args.shared, settings, vision),
        Command::Cancel(cancel) => cancel::cancel(&cancel, settings),
        Command::Verify(verify) => verify::verify(&verify, settings),
        Command::Dead(dead) => dead::dead(&dead, settings),
        Command::Workers(workers) => workers::workers(&workers, settings),
        Command::Submit(submit) => submit::submit(submit, &args.shared, settings, vision),
        Command::Worker(_) => worker::worker(settings, vision),
        Command::Bench(bench) => bench::bench(&bench, settings, vision),
        Command::Serve(_) => serve::serve(&args.shared, settings, vision),
        Command::ResultsApi(_) => results_api::results_api(settings),
        Command::Health(health) => worker::health(&health),
        Command::Tasks(tasks) => tasks::tasks(&tasks, &register(settings, None)),
        Command::Models(models) => models::models(&models, settings, vision),
        Command::Doctor if wants_settings => doctor::settings(&loaded),
        Command::Doctor => doctor::doctor(settings, vision),
        Command::Completions { shell } => args::completions(shell),
        Command::Devices => doctor::devices(vision),
    }
}

/// A runtime of two threads: an interrupt is heard also while the other one is held up by whoever reads our output. Roles
/// have a [larger one](cluster::runtime).
fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::fault(format!("cannot start the runtime: {error}")))
}

/// Waits for what a command asks of the cluster.
fn block_on<T>(asking: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = runtime()?;
    let asked = runtime.block_on(asking);
    runtime.shutdown_background();
    asked
}

fn register(settings: &Settings, engine: Option<Arc<dyn Engine>>) -> Register {
    register_in(settings, engine, Place::Anywhere)
}

/// Every task, with models trained in that place.
fn register_in(settings: &Settings, engine: Option<Arc<dyn Engine>>, training: Place) -> Register {
    let image_limits = image_limits(settings);
    let net_limits = net::Limits::from(&settings.net);
    let children = handover::children();
    let models = models_of(settings);
    tidemill_tasks::register(&House { image_limits, net_limits, models, engine, training, children })
}

/// How large a picture may be.
fn image_limits(settings: &Settings) -> image::Limits {
    image::Limits { max_pixels: settings.image.max_pixels, max_bytes: settings.image.max_bytes }
}

/// What inputs may be fetched.
fn fetch_limits(settings: &Settings) -> FetchLimits {
    FetchLimits { max_bytes: settings.fetch.max_bytes, timeout: settings.fetch.timeout }
}

/// The folders of the settings, then those beside the executable, so that an installed or freshly built command finds
/// its models wherever it is called.
fn models_of(settings: &Settings) -> Models {
    let mut folders = settings.vision.models.clone();
    if let Ok(here) = std::env::current_exe() {
        let beside = |path: &str| here.parent().map(|folder| folder.join(path));
        let usual: Vec<PathBuf> = ["../share/tidemill/models", "../../models"].into_iter().filter_map(beside).collect();
        folders.extend(usual.into_iter().filter(|folder| folder.is_dir()));
    }
    Models { folders, default: settings.vision.default_model.clone() }
}
