//! `workers`: who works.

use serde_json::json;
use tidemill_core::broker::Heartbeat;
use tidemill_core::settings::{Settings, format_size};
use tidemill_core::task::Lane;

use crate::args::Workers;
use crate::client::Client;
use crate::columns::{ago, columns};
use crate::error::{CliError, Exit};
use crate::tasks::{pretty, print};

/// Lists them.
pub(crate) fn workers(args: &Workers, settings: &Settings) -> Result<Exit, CliError> {
    let client = Client::new(settings)?;
    let workers = crate::block_on(async { Ok(client.workers().await?) })?;
    print(&if args.json { pretty(&json!(workers)) } else { listed(&workers) })
}

fn listed(workers: &[Heartbeat]) -> String {
    if workers.is_empty() {
        return "no workers; `tidemill worker` starts one\n".into();
    }
    let row = |worker: &Heartbeat| {
        let lanes: Vec<&str> = worker.lanes.iter().copied().map(Lane::as_str).collect();
        [
            format!("{}{}", worker.name, if worker.is_stopping { " (stops)" } else { "" }),
            lanes.join(" "),
            worker.threads.to_string(),
            format_size(worker.memory_bytes),
            worker.devices.join(" "),
            worker.held.to_string(),
            worker.items.to_string(),
            ago(worker.started),
            ago(worker.at),
        ]
    };
    columns(["worker", "lanes", "threads", "memory", "devices", "held", "items", "up", "seen"], workers.iter().map(row))
}
