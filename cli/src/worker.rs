//! `worker`: the role that runs items for the cluster.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tidemill_core::batch::unix_millis;
use tidemill_core::broker::Heartbeat;
use tidemill_core::broker::rabbitmq::RabbitMq;
use tidemill_core::compute::Pool;
use tidemill_core::settings::Settings;
use tidemill_core::task::{Lane, Tools};
use tidemill_results_api::http::{PrometheusHandle, Role, install_metrics, serve_role};
use tidemill_tasks::vision::Engine;
use tidemill_tasks::vision::card::Card;
use tidemill_tasks::vision::train::Place;
use tidemill_worker::{Ended, Isolation, Setup, Worker};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::Health;
use crate::cluster::{self, Signals, own_name};
use crate::error::{CliError, Exit};
use crate::{Vision, handover, networks};

/// Deliveries a core in the lanes that compute: enough for the hungriest of their tasks where each has one item. Of larger ones
/// no more items are begun than their task says (see `Hands::PerCore`).
const CPU_HANDS: usize = 4;
const VISION_HANDS: usize = 24;
const PROCESS_HANDS: usize = 4;
/// The largest output that travels, beside the input; see `submit`.
const MAX_OUTPUT_BYTES: usize = 8 << 20;
/// How long a role may take to answer whether it is ready.
const HEALTH_WITHIN: Duration = Duration::from_secs(3);

/// Works until it is told to stop.
pub(crate) fn worker(settings: &Settings, vision: Option<Vision>) -> Result<Exit, CliError> {
    let engine = engine(settings, vision)?;
    match cluster::run_role(cluster::waiting_threads(), work(settings, engine))? {
        None => Ok(Exit::Interrupted),
        Some(Ended::Stopped) => Ok(Exit::Ok),
        Some(Ended::ThreadsLost) => Err(again()),
        Some(Ended::DeviceLost(reason)) => Err(networks::device_lost(&reason).hint(
            "what it held was given back and runs elsewhere; start it again, and see `nvidia-smi` if this recurs",
        )),
    }
}

/// What runs the networks of the lanes. Where they need networks and this command has none, it becomes the one that has.
pub(crate) fn engine(settings: &Settings, vision: Option<Vision>) -> Result<Option<Arc<dyn Engine>>, CliError> {
    match (settings.worker.lanes.contains(&Lane::Vision), vision) {
        (true, None) => Err(handover::hand_over(settings)),
        (true, Some(vision)) => networks::start(vision, settings).map(Some),
        (false, _) => Ok(None),
    }
}

async fn work(settings: &Settings, engine: Option<Arc<dyn Engine>>) -> Result<Option<Ended>, CliError> {
    let mut signals = Signals::listen()?;
    let register = crate::register_in(settings, engine.clone(), training(settings));
    let broker = cluster::broker(settings, "worker", None, None)?;
    let pool = Pool::new(settings.worker.threads).map_err(CliError::fault)?;
    let threads = pool.threads();
    let setup = setup(settings, threads, engine.as_ref());
    let name = setup.name.clone();
    let tools = Tools::new(pool, cluster::blobs(settings)?);
    let stop = CancellationToken::new();
    // From here on whoever asks whether it is ready is kept waiting until the models are loaded.
    let listening = listen(settings).await?;
    let mut answering = None;
    let running = async {
        if let Some(engine) = &engine {
            // Whoever stops it meanwhile does not wait for a model, which may take long.
            let preloading = networks::preload(settings, &**engine);
            if stop.run_until_cancelled(preloading).await.is_none() {
                return Ok(Ended::Stopped);
            }
        }
        answering = listening.map(|listening| answer(listening, &broker));
        tracing::info!(worker = name, broker = broker.addresses(), threads, "the worker starts");
        if stop.run_until_cancelled(cluster::ready(&broker, None)).await.transpose()?.is_none() {
            return Ok(Ended::Stopped);
        }
        let worker = Worker::new(setup, Arc::new(broker.clone()), Arc::new(register), tools)
            .where_results_are_kept_for(settings.results.ttl);
        let ended = worker.run(stop.clone()).await.map_err(|error| cluster::broker_error(&error));
        broker.flush().await;
        ended
    };
    let ended = signals.govern(&stop, running).await.transpose()?;
    if let Some(answering) = answering {
        // It is asked until the last moment: a worker that is finishing what it holds is alive.
        answering.abort();
    }
    tracing::info!(worker = name, "the worker has ended");
    // Whoever told it to stop wants no new one.
    Ok(ended.map(|ended| if stop.is_cancelled() { Ended::Stopped } else { ended }))
}

/// Where models may be trained: whoever may send work should not choose where this machine writes.
pub(crate) fn training(settings: &Settings) -> Place {
    settings.vision.train_in.clone().map_or(Place::Nowhere, Place::Below)
}

/// How a worker of these lanes works.
pub(crate) fn setup(settings: &Settings, threads: usize, engine: Option<&Arc<dyn Engine>>) -> Setup {
    Setup {
        name: settings.worker.name.clone().unwrap_or_else(own_name),
        lanes: settings.worker.lanes.clone(),
        permits,
        threads,
        waiting: settings.worker.waiting,
        grace: settings.worker.grace,
        stuck_after: settings.worker.stuck_after,
        max_output_bytes: MAX_OUTPUT_BYTES,
        isolation: Some(Isolation {
            suspect_after: settings.worker.suspect_after,
            crash_limit: settings.worker.crash_limit,
        }),
        heartbeat: Some(about(settings, threads, engine)),
        networks: networks::of(engine),
    }
}

/// Where it answers whether it is ready, and what it counts with, where the settings say so.
async fn listen(settings: &Settings) -> Result<Option<(TcpListener, Option<PrometheusHandle>)>, CliError> {
    let Some(address) = settings.worker.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        CliError::new(Exit::Configuration, format!("cannot listen on {address}: {error}"))
            .hint("is another worker listening there? set worker.listen")
    })?;
    Ok(Some((listener, install_metrics().inspect_err(|error| tracing::warn!(%error, "no metrics")).ok())))
}

/// Answers whether it is ready.
fn answer((listener, metrics): (TcpListener, Option<PrometheusHandle>), broker: &RabbitMq) -> JoinHandle<()> {
    let role = Role { broker: Arc::new(broker.clone()), metrics };
    tokio::spawn(async move {
        if let Err(error) = serve_role(listener, role, CancellationToken::new()).await {
            tracing::warn!(%error, "cannot answer whether the worker is ready");
        }
    })
}

/// How many deliveries of a lane it holds.
fn permits(lane: Lane, setup: &Setup) -> usize {
    match lane {
        Lane::Cpu => CPU_HANDS * setup.threads,
        Lane::Vision => VISION_HANDS * setup.threads,
        Lane::Process => PROCESS_HANDS * setup.threads,
        Lane::Wait => setup.waiting,
    }
}

fn about(settings: &Settings, threads: usize, engine: Option<&Arc<dyn Engine>>) -> Heartbeat {
    let models = if settings.worker.lanes.contains(&Lane::Vision) {
        let folders = crate::models_of(settings).folders;
        Card::list(&folders).into_values().flatten().map(|card| card.name).collect()
    } else {
        Vec::new()
    };
    Heartbeat {
        name: settings.worker.name.clone().unwrap_or_else(own_name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: unix_millis(),
        every: u64::try_from(settings.worker.heartbeat.as_millis()).unwrap_or(u64::MAX),
        lanes: settings.worker.lanes.clone(),
        threads: threads as u64,
        memory_bytes: memory_bytes(),
        devices: engine.map_or_else(|| "cpu".into(), |engine| engine.device()).split(',').map(str::to_owned).collect(),
        models,
        ..Heartbeat::default()
    }
}

/// The memory of the container, where one limits it, or of the machine; 0 where nobody says.
fn memory_bytes() -> u64 {
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let machine = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    };
    limit.or_else(machine).unwrap_or(0)
}

/// Becomes itself anew, which frees the threads that an item would not give back. It returns only if that does not work.
fn again() -> CliError {
    tracing::warn!("starting anew, to have all computing threads again");
    let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let error = Command::new(own).args(std::env::args_os().skip(1)).exec();
    CliError::fault(format!("an item keeps a computing thread, and the worker cannot start anew: {error}"))
}

/// Asks a role whether it is ready.
pub(crate) fn health(health: &Health) -> Result<Exit, CliError> {
    let runtime = cluster::runtime(1)?;
    let asking = async {
        tidemill_core::blobs::choose_cryptography();
        // The role itself is asked, which is often this very host: no proxy reaches that.
        let client = reqwest::Client::builder().no_proxy().timeout(HEALTH_WITHIN).build()?;
        client.get(&health.url).send().await?.error_for_status()
    };
    match runtime.block_on(asking) {
        Ok(_) => Ok(Exit::Ok),
        Err(error) => {
            let reason = tidemill_core::failure::chain(&error.without_url());
            Err(CliError::new(Exit::Unreachable, format!("{} is not ready: {reason}", health.url)))
        }
    }
}
