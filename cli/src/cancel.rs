//! `cancel`: ends a batch before its end.

use tidemill_core::settings::Settings;
use tidemill_results_api::http::State;

use crate::args::Cancel;
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::follow::counts;
use crate::tasks::print;

/// Cancels it, and says where it stands.
pub(crate) fn cancel(args: &Cancel, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    let info = crate::block_on(async { Ok(client.cancel(&args.batch).await?) })?;
    let counts = counts(&info.progress);
    print(&match State::of(&info) {
        State::Complete => format!("{} was complete already: {counts}\n", args.batch),
        State::Cancelled => format!("{} is cancelled: {counts}\n", args.batch),
        _ => format!("{} is being cancelled, so far {counts}; `tidemill status {0} --watch`\n", args.batch),
    })
}
