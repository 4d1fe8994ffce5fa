//! Prepared: what was asked for, made ready: the task with its options, the batch that it becomes, how that is cut.

use std::sync::Arc;

use serde_json::{Map, Value};
use tidemill_core::batch::{Batch, BatchId, Priority};
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::settings::{RetrySettings, Settings};
use tidemill_core::task::{Job, Kind, Register, raw};
use tidemill_producer::{Cut, ProduceError};
use tidemill_tasks::vision::DEFAULT_MODEL;

use crate::args::Work;
use crate::error::{CliError, Exit};

/// The task that was asked for, with its options.
pub(crate) struct Prepared<'a> {
    pub(crate) kind: &'a dyn Kind,
    pub(crate) job: Arc<dyn Job>,
    /// As JSON.
    pub(crate) options: Map<String, Value>,
}

/// Finds the task and makes its options ready.
pub(crate) fn prepare<'a>(work: &Work, register: &'a Register) -> Result<Prepared<'a>, CliError> {
    let kind = register.find(&work.task).map_err(|unknown| {
        CliError::usage(format!("{unknown}{}", did_you_mean(&unknown.nearest))).hint("`tidemill tasks` lists them")
    })?;
    let options = work.options(kind.schemas().options.as_value());
    let job = kind.prepare(&raw(&options)).map_err(|invalid| {
        if invalid.0.starts_with(DEFAULT_MODEL) {
            return CliError::new(Exit::Configuration, invalid.0).hint(
                "name one that is there with -o model=NAME, or where models are: TIDEMILL__VISION__MODELS=FOLDER",
            );
        }
        let known = kind.schemas().options;
        let known = known.get("properties").and_then(Value::as_object);
        let known: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let unknown = options.keys().find(|key| !known.contains(&key.as_str()));
        let near = unknown.map(|key| did_you_mean(&nearest(key, known.iter().copied()))).unwrap_or_default();
        CliError::usage(format!("options of {}: {invalid}{near}", work.task))
            .hint(format!("`tidemill tasks {}` shows its options", work.task))
    })?;
    Ok(Prepared { kind, job, options })
}

/// The batch that the arguments describe.
pub(crate) fn batch_of(
    work: &Work,
    options: &Map<String, Value>,
    settings: &Settings,
    job: &dyn Job,
    id: BatchId,
) -> Batch {
    let RetrySettings { attempts, base, max } = settings.retry;
    Batch {
        id,
        task: work.task.clone(),
        options: raw(options),
        retry: RetryPolicy { attempts, base, max },
        timeout: work.timeout.or(job.timeout()).unwrap_or(settings.task.timeout),
        priority: Priority::default(),
        expires: None,
    }
}

/// How its chunks are cut.
pub(crate) fn cut_of(work: &Work, settings: &Settings, job: &dyn Job, cores: usize) -> Cut {
    match work.chunk {
        Some(items) => Cut::fixed(items as usize, settings.chunk.max_bytes),
        None => cut_by_cost(settings, job, cores),
    }
}

/// How chunks of a job are cut where nobody says how many items travel together.
pub(crate) fn cut_by_cost(settings: &Settings, job: &dyn Job, cores: usize) -> Cut {
    let chunk = &settings.chunk;
    Cut::by_cost(job.cost(), chunk.target, chunk.max_items, chunk.max_bytes, cores)
}

/// Why a batch was not produced whole, for people.
pub(crate) fn not_produced(error: ProduceError) -> CliError {
    let exit = match &error {
        ProduceError::Inputs(error) if !error.is_fault => Exit::Unreachable,
        _ => Exit::Fault,
    };
    CliError::new(exit, error.to_string())
}
