//! Letters: what the commands about the dead need of the broker itself.

use tidemill_core::settings::Settings;
use tidemill_core::store::DeadItem;

use crate::client::Client;
use crate::error::{CliError, Exit};

/// Publishes items again.
#[derive(Debug)]
pub(crate) struct Publisher;

impl Publisher {
    /// Connects, so that nothing is taken back while the broker is away.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, CliError> {
        Err(not_yet(settings))
    }

    /// Publishes one item of its batch, as its first attempt; it returns once the broker has it.
    pub(crate) async fn publish(&self, _client: &Client, item: &DeadItem) -> Result<(), CliError> {
        Err(CliError::new(Exit::Fault, format!("item {} cannot be published", item.index)))
    }
}

/// Throws away the messages that nobody could read.
pub(crate) async fn drop_all(settings: &Settings) -> Result<Exit, CliError> {
    Err(not_yet(settings))
}

fn not_yet(settings: &Settings) -> CliError {
    CliError::new(Exit::Fault, format!("this version cannot speak to the broker at {} itself", settings.broker.url))
}
