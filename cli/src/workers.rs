//! `workers`: who works.

use tidemill_core::broker::Heartbeat;
use tidemill_core::notes::Note;
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
    print(&if args.json { pretty(&workers) } else { listed(&workers) })
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
    let heads = ["worker", "lanes", "threads", "memory", "devices", "held", "items", "up", "seen"];
    columns(heads, workers.iter().map(row)) + &networks(workers) + &notes(workers)
}

/// What their networks did: pictures, the mean batch, and the mean time of each stage.
fn networks(workers: &[Heartbeat]) -> String {
    let rows = workers.iter().flat_map(|worker| worker.networks.iter().map(move |work| (worker, work)));
    let rows = rows.map(|(worker, work)| {
        let pictures = work.items + work.failures;
        [
            worker.name.clone(),
            work.model.clone(),
            work.device.clone(),
            work.precision.clone(),
            work.items.to_string(),
            work.failures.to_string(),
            mean(pictures, work.executions),
            mean(work.queue_ms, pictures),
            mean(work.input_ms, pictures),
            mean(work.compute_ms, work.executions),
            mean(work.output_ms, work.executions),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = [
        "worker",
        "network",
        "device",
        "precision",
        "items",
        "failed",
        "batch",
        "queue ms",
        "input ms",
        "compute ms",
        "output ms",
    ];
    format!("\n{}", columns(heads, rows.into_iter()))
}

/// How far the items have come that say so.
fn notes(workers: &[Heartbeat]) -> String {
    let notes = workers.iter().flat_map(|worker| worker.notes.iter().map(move |note| (worker, note)));
    let row = |(worker, note): (&Heartbeat, &Note)| {
        [worker.name.clone(), note.batch.to_string(), note.index.0.to_string(), note.text.clone()]
    };
    let mut rows = notes.map(row).peekable();
    if rows.peek().is_none() {
        return String::new();
    }
    format!("\n{}", columns(["worker", "batch", "item", "how far"], rows))
}

/// `-` where nothing was done yet.
fn mean(sum: u64, count: u64) -> String {
    if count == 0 { "-".to_owned() } else { format!("{:.1}", sum as f64 / count as f64) }
}
