//! `results`: the outcomes of a batch.

use tidemill_core::settings::Settings;

use crate::args::{Results, Shared};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::follow::{Following, follow};

/// Prints them.
pub(crate) fn results(args: &Results, shared: &Shared, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    let following = Following {
        order: args.order.into(),
        format: args.format,
        from: args.from,
        limit: args.limit,
        waits: args.follow,
        is_patient: false,
        download: args.download.as_deref(),
        is_quiet: shared.quiet > 0,
    };
    crate::block_on(follow(&client, &args.batch, following))
}
