//! `serve`: broker, workers and store inside this process, behind the results API.

mod folder;

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::broker::{self, Broker, Queue};
use tidemill_core::compute::{Pool, available_cores};
use tidemill_core::settings::Settings;
use tidemill_core::store::{self, Shared, Store};
use tidemill_core::task::{Lane, Tools};
use tidemill_core::web::Web;
use tidemill_results_api::http::{Api, serve as serve_http};
use tidemill_results_api::{collect, sweep, tend};
use tidemill_tasks::vision::Engine;
use tidemill_worker::{Ended, Setup, Worker};
use tokio_util::sync::CancellationToken;

use self::folder::Folder;
use crate::args;
use crate::cluster::{self, Signals};
use crate::error::{CliError, Exit};
use crate::{Vision, handover, networks, printer, results_api, worker};

/// How often is looked whether the collector has taken all that was reported.
const LOOK: Duration = Duration::from_millis(10);

/// Serves until it is told to stop.
pub(crate) fn serve(shared: &args::Shared, settings: &Settings, vision: Option<Vision>) -> Result<Exit, CliError> {
    let mut settings = settings.clone();
    settings.worker.lanes = Lane::ALL.to_vec();
    if vision.is_none() {
        match handover::find() {
            Ok(_) => return Err(handover::hand_over(&settings)),
            Err(missing) => {
                tracing::warn!("no networks are served: {missing}");
                settings.worker.lanes.retain(|lane| *lane != Lane::Vision);
            }
        }
    }
    let engine = worker::engine(&settings, vision)?;
    let served = cluster::run_role(available_cores(), run(shared, &settings, engine))?;
    Ok(if served.is_some() { Exit::Ok } else { Exit::Interrupted })
}

async fn run(
    shared: &args::Shared,
    settings: &Settings,
    engine: Option<Arc<dyn Engine>>,
) -> Result<Option<()>, CliError> {
    let mut signals = Signals::listen()?;
    let register = crate::register_in(settings, engine.clone(), worker::training(settings));
    let listener = results_api::listen(settings).await?;
    let address = listener.local_addr().unwrap_or(settings.api.listen);
    let broker: Arc<dyn Broker> = Arc::new(broker::embedded::Embedded::new(settings.broker.queue_bytes));
    let store: Arc<dyn Shared> = Arc::new(store::embedded::Embedded::keeping(settings.serve.keep_bytes));
    // What is produced is gone, as the outcomes that name it, when this process ends.
    let folder = Folder::make(&std::env::temp_dir(), settings.serve.keep_files);
    let unusable = |error: &dyn std::fmt::Display| {
        CliError::new(Exit::Configuration, format!("no temporary folder can hold blobs: {error}"))
            .hint("set blobs.url, or TMPDIR to a folder with room")
    };
    let folder = folder.map_err(|error| unusable(&error))?;
    let blobs = match &settings.blobs.url {
        Some(_) => cluster::blobs(settings)?,
        None => {
            let limits = FetchLimits { max_bytes: settings.fetch.max_bytes, timeout: settings.fetch.timeout };
            let url = format!("file://{}", folder.path().display()).parse().map_err(|error| unusable(&error))?;
            let blobs = Blobs::at(&url, limits, Some(settings.blobs.keep));
            let blobs = blobs.map_err(|error| unusable(&error))?;
            blobs.with_web(Web::new(settings.net.clone()))
        }
    };
    let pool = Pool::new(settings.worker.threads).map_err(|error| CliError::new(Exit::Fault, error.to_string()))?;
    let setup = Setup {
        max_output_bytes: usize::MAX,
        // What ends a worker ends this process, and with it whatever could be found out.
        isolation: None,
        ..worker::setup(settings, pool.threads(), engine.as_ref())
    };
    let tools = Tools::new(pool, blobs.clone());
    let worker = Worker::new(setup, Arc::clone(&broker), Arc::new(register), tools);
    let stop = CancellationToken::new();
    let (carrier, kept) = (Arc::clone(&broker), Arc::clone(&store));
    let api =
        results_api::api(settings, carrier, kept, Some(blobs.clone()), results_api::Answers::default(), stop.clone());
    let api = Api { is_broker_shared: false, ..api };

    if let Some(engine) = &engine {
        let loading = stop.run_until_cancelled(networks::preload(settings, &**engine));
        match signals.govern(&stop, loading).await {
            Some(Some(())) => {}
            // It was told to stop before it served: once, or twice.
            told => return Ok(told.map(drop)),
        }
    }
    // The worker first, then whoever takes its outcomes, then whoever reads them: nothing that was begun is lost to a
    // reader that waits for it.
    let (worked, collected) = (CancellationToken::new(), CancellationToken::new());
    let working = async {
        let ended = worker.run(stop.clone()).await.map_err(|error| cluster::broker_error(&error));
        // A collector that is told to end takes nothing more, not even what has been reported already.
        while broker.depth(Queue::Results).await.is_ok_and(|waiting| waiting > 0) {
            tokio::time::sleep(LOOK).await;
        }
        worked.cancel();
        match ended? {
            Ended::DeviceLost(reason) => Err(networks::device_lost(&reason).hint("start it again")),
            Ended::Stopped | Ended::ThreadsLost => Ok(()),
        }
    };
    let collecting = async {
        let (store, told): (&dyn Store, _) = (&*store, worked.clone());
        let ended = collect(&*broker, store, |_| {}, told).await.map_err(|error| cluster::broker_error(&error));
        collected.cancel();
        ended
    };
    let tending =
        async { tend(&*broker, &*store, worked.clone()).await.map_err(|error| cluster::broker_error(&error)) };
    let serving =
        async { serve_http(listener, api, collected.clone()).await.map_err(|error| results_api::serve_error(&error)) };
    let say = |text: &str| {
        if shared.quiet == 0 {
            printer::say(text);
        }
    };
    let telling = async {
        say(&format!("tidemill serves at http://{address} until it is stopped (Ctrl-C)"));
        stop.cancelled().await;
        say("stopping: what is under way is finished; Ctrl-C once more ends it at once");
        Ok(())
    };
    let sweeping = async {
        let bounding = async {
            if settings.blobs.url.is_none() {
                folder.bound(&blobs, stop.clone()).await;
            }
        };
        tokio::join!(sweep(&*store, Some(&blobs), stop.clone()), bounding);
        Ok(())
    };
    // It is told after it is served: that may be refused.
    let all = async { tokio::try_join!(serving, telling, working, collecting, tending, sweeping).map(drop) };
    signals.govern(&stop, all).await.transpose()
}
