//! Where tests play exercises: a job of the register, its output as a value, and a machine that is busy.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::compute::Pool;
use tidemill_core::failure::Failure;
use tidemill_core::task::{Invalid, Job, Tools, raw};
use tidemill_tasks::{House, register};

/// How often a test plays what must come out the same.
pub(crate) const TIMES: u64 = 20;

/// Every task that a test may ask for, ready to run.
#[derive(Clone)]
pub(crate) struct Stage {
    tools: Tools,
}

impl Stage {
    /// With a thread to compute.
    pub(crate) fn new() -> Self {
        let limits = FetchLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(1) };
        Self { tools: Tools::new(Pool::new(1).unwrap(), Blobs::without_store(limits)) }
    }

    /// Plays one item.
    pub(crate) async fn try_play(&self, task: &str, item: &Value) -> Result<Value, Failure> {
        let job = prepare(task, &serde_json::json!({})).unwrap();
        let output = job.wait(&raw_value(item), self.tools.clone()).running.await?;
        Ok(serde_json::from_str(output.get()).unwrap())
    }

    /// Plays one item that must come out well.
    pub(crate) async fn play(&self, task: &str, item: &Value) -> Value {
        self.try_play(task, item).await.unwrap_or_else(|failure| panic!("{task} {item}: {failure}"))
    }
}

/// The job of a batch with those options.
pub(crate) fn prepare(task: &str, options: &Value) -> Result<Arc<dyn Job>, Invalid> {
    register(&House::default()).find(task).unwrap().prepare(&raw_value(options))
}

/// A value as it travels.
pub(crate) fn raw_value(value: &Value) -> Box<RawValue> {
    raw(value)
}

/// What was said.
pub(crate) fn messages(output: &Value) -> Vec<&str> {
    output["messages"].as_array().unwrap().iter().map(|message| message.as_str().unwrap()).collect()
}

/// When each thread or process began and ended, in the order of beginning.
pub(crate) fn runs(output: &Value) -> Vec<(f64, f64)> {
    let times = |run: &Value| (run["from_ms"].as_f64().unwrap(), run["to_ms"].as_f64().unwrap());
    output["runs"].as_array().unwrap().iter().map(times).collect()
}

/// Whether there was a moment at which all ran.
pub(crate) fn all_overlap(runs: &[(f64, f64)]) -> bool {
    let last_begin = runs.iter().map(|run| run.0).fold(0.0, f64::max);
    runs.iter().all(|run| last_begin < run.1)
}

/// Whether each ended before the next began.
pub(crate) fn none_overlap(runs: &[(f64, f64)]) -> bool {
    runs.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Keeps twice as many threads busy as there are cores, until it is dropped.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins.
    pub(crate) fn begin() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().unwrap().get();
        let spin = || {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..2 * cores).map(|_| spin()).collect();
        Self { is_over, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}
