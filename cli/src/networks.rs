//! The network engine, as commands start it and workers see it.

use std::sync::Arc;

use futures::future::BoxFuture;
use tidemill_core::broker::NetworkWork;
use tidemill_core::settings::Settings;
pub(crate) use tidemill_tasks::vision::Engine;
use tidemill_tasks::vision::card::Card;
use tidemill_worker::{Networks, OwnNetworks};

use crate::Vision;
use crate::error::{CliError, Exit};

/// Starts the engine on the devices that the settings ask for.
pub(crate) fn start(vision: Vision, settings: &Settings) -> Result<Arc<dyn Engine>, CliError> {
    (vision.start)(&settings.vision)
        .map_err(|error| CliError::new(Exit::Configuration, format!("cannot run networks: {error}")))
}

/// What a worker sees of the engine.
pub(crate) fn of(engine: Option<&Arc<dyn Engine>>) -> OwnNetworks {
    OwnNetworks(engine.map(|engine| Arc::new(Seen(Arc::clone(engine))) as _))
}

struct Seen(Arc<dyn Engine>);

impl Networks for Seen {
    fn work(&self) -> Vec<NetworkWork> {
        self.0.work()
    }

    fn lost(&self) -> BoxFuture<'_, String> {
        self.0.lost()
    }
}

/// The error of a command whose device is lost.
pub(crate) fn device_lost(reason: &str) -> CliError {
    CliError::fault(format!("the device is lost to this process: {reason}"))
}

/// Loads the models of `vision.preload`, else the default one. One that cannot be loaded is told of when it is asked for,
/// too: the worker may serve others.
pub(crate) async fn preload(settings: &Settings, engine: &dyn Engine) {
    let models = crate::models_of(settings);
    let named = &settings.vision.preload;
    let names = if named.is_empty() { std::slice::from_ref(&models.default) } else { named };
    let mut cards = Card::list(&models.folders);
    for name in names {
        let loaded = match cards.remove(name) {
            Some(Ok(card)) => engine.load(&card).await.map_err(|failure| failure.to_string()),
            Some(Err(error)) => Err(tidemill_core::failure::chain(&error)),
            None => Err("no model is called that; `tidemill models` lists them".to_owned()),
        };
        if let Err(reason) = loaded {
            tracing::warn!(model = name, reason, "a model is not loaded");
        }
    }
}
