//! `results-api`: the role that collects outcomes into the store and hands them back.

mod answers;
mod express;
mod publish;

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::blobs::Blobs;
use tidemill_core::broker::Broker;
use tidemill_core::settings::Settings;
use tidemill_core::store::{Shared, Store};
use tidemill_results_api::http::{Access, Api, Catalogue, ServeError, install_metrics, serve};
use tidemill_results_api::{collect, sweep, tend};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::answers::Answers;
use self::express::Express;
use self::publish::Publisher;
use crate::cluster::{self, Signals};
use crate::error::{CliError, Exit};

/// How long it goes on when it is told to stop: what is asked of a store that is away would wait as long as that is. Longer
/// than answers are given to end.
const STOP_WITHIN: Duration = Duration::from_secs(12);

/// Collects and serves until it is told to stop.
pub(crate) fn results_api(settings: &Settings) -> Result<Exit, CliError> {
    match cluster::run_role(cluster::waiting_threads(), run(settings))? {
        Some(()) => Ok(Exit::Ok),
        None => Ok(Exit::Interrupted),
    }
}

async fn run(settings: &Settings) -> Result<Option<()>, CliError> {
    let mut signals = Signals::listen()?;
    // Before anything is connected.
    Access::from(&settings.api).check(settings.api.listen).map_err(|error| serve_error(&error))?;
    let listener = listen(settings).await?;
    let broker = Arc::new(cluster::broker(settings, "results-api", None, None)?);
    let store = cluster::store(settings)?;
    let blobs = settings.blobs.url.is_some().then(|| cluster::blobs(settings)).transpose()?;
    let answers = Answers::default();
    let stop = CancellationToken::new();
    // Whoever asks over HTTP does not wait for ever for a broker that is there and confirms nothing.
    let asked = Arc::new(broker.with_patience(settings.submit.patience));
    let api = api(settings, asked, store.clone(), blobs.clone(), answers.clone(), stop.clone());
    let collecting = async {
        let (store, told): (&dyn Store, _) = (&*store, stop.clone());
        collect(&*broker, store, |_| {}, told).await.map_err(|error| cluster::broker_error(&error))
    };
    let listening =
        async { answers.listen(&*broker, stop.clone()).await.map_err(|error| cluster::broker_error(&error)) };
    let tending = async { tend(&*broker, &*store, stop.clone()).await.map_err(|error| cluster::broker_error(&error)) };
    let serving = async { serve(listener, api, stop.clone()).await.map_err(|error| serve_error(&error)) };
    let sweeping = async {
        sweep(&*store, blobs.as_ref(), stop.clone()).await;
        Ok(())
    };
    let all = async {
        let working = async { tokio::try_join!(collecting, listening, tending, serving, sweeping).map(drop) };
        let is_late = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        let ended = tokio::select! {
            ended = working => ended,
            () = is_late => {
                tracing::warn!("the store or the broker is away; what was to be written comes again from the broker");
                Ok(())
            }
        };
        broker.flush().await;
        ended
    };
    signals.govern(&stop, all).await.transpose()
}

/// Where the API is to be reached.
pub(crate) async fn listen(settings: &Settings) -> Result<TcpListener, CliError> {
    let address = settings.api.listen;
    TcpListener::bind(address).await.map_err(|error| {
        CliError::new(Exit::Configuration, format!("cannot listen on {address}: {error}"))
            .hint("is another results API running there? set api.listen")
    })
}

/// The API over these, with what the settings say of it.
pub(crate) fn api(
    settings: &Settings,
    broker: Arc<dyn Broker>,
    store: Arc<dyn Shared>,
    blobs: Option<Blobs>,
    answers: Answers,
    stop_taking: CancellationToken,
) -> Api {
    Api {
        store: Arc::clone(&store),
        broker: Arc::clone(&broker),
        is_broker_shared: true,
        blobs,
        submitter: Some(Arc::new(Publisher {
            broker,
            store,
            register: crate::register(settings, None),
            settings: settings.clone(),
            answers,
            stop: stop_taking.clone(),
            express: Express::default(),
        })),
        catalogue: catalogue(settings),
        metrics: install_metrics().inspect_err(|error| tracing::warn!(%error, "no metrics")).ok(),
        access: (&settings.api).into(),
        stop_taking,
    }
}

/// Why it is not served, for people.
pub(crate) fn serve_error(error: &ServeError) -> CliError {
    let exit = match error {
        ServeError::Unguarded(_) => Exit::Configuration,
        ServeError::System(_) => Exit::Fault,
    };
    CliError::new(exit, error.to_string())
}

/// What `/v1/tasks` and `/v1/models` tell.
fn catalogue(settings: &Settings) -> Catalogue {
    let register = crate::register(settings, None);
    Catalogue { tasks: crate::tasks::values(&register), models: crate::models::values(&crate::models_of(settings)) }
}
