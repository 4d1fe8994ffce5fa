//! A world of its own for each test: producer, workers, collector and store, and a task that does as it is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidemill_core::batch::{Batch, BatchId, Priority};
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::broker::{self, Broker};
use tidemill_core::compute::Pool;
use tidemill_core::failure::Failure;
use tidemill_core::outcome::Outcome;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::store::{self, Order, Store};
use tidemill_core::task::{
    About, Arguments, Compute, Cost, Invalid, Job, Lane, Register, Stop, Task, Tools, Wait, raw,
};
use tidemill_producer::inputs::{Inputs, Source};
use tidemill_producer::{Cut, Produced, Producer, Span, UnderWay, Window};
use tidemill_results_api::{Stream, collect};
use tidemill_worker::{OwnNetworks, Setup, Worker};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How long a test waits before it says that something never came.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What an item asks of [`Mischief`].
#[derive(Clone, Debug, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Deed {
    /// Gives this back.
    Echo(u64),
    /// Fails for good.
    Fail(u64),
    /// Fails for a passing reason this often, then gives the number back.
    FailTimes { id: u64, times: u32 },
    /// Panics.
    Panic,
    /// Runs until it is asked to stop.
    Hang,
    /// The same the first time; then gives this back.
    HangOnce(u64),
}

/// What the items of a test share with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) failed: Arc<Mutex<HashMap<u64, u32>>>,
    pub(crate) begun: Arc<Notify>,
    pub(crate) runs: Arc<AtomicU32>,
    pub(crate) was_asked_to_stop: Arc<AtomicBool>,
}

impl Shared {
    pub(crate) fn fails_again(&self, id: u64, times: u32) -> bool {
        let mut failed = self.failed.lock().unwrap();
        let count = failed.entry(id).or_default();
        *count += 1;
        *count <= times
    }

    pub(crate) fn quick(&self, deed: &Deed) -> Option<Result<u64, Failure>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        match *deed {
            Deed::Echo(number) => Some(Ok(number)),
            Deed::Fail(number) => Some(Err(Failure::permanent("told_to", format!("told to fail on {number}")))),
            Deed::FailTimes { id, times } if self.fails_again(id, times) => {
                Some(Err(Failure::transient("busy", "busy")))
            }
            Deed::FailTimes { id, .. } => Some(Ok(id)),
            Deed::Panic => panic!("as told"),
            Deed::Hang => None,
            Deed::HangOnce(id) => (!self.fails_again(id, 1)).then_some(Ok(id)),
        }
    }
}

/// A task of which every item does as it is told; computing under one name, waiting under another.
#[derive(Clone, Debug)]
pub(crate) struct Mischief {
    name: &'static str,
    shared: Shared,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {}

impl Task for Mischief {
    type Input = Deed;
    type Options = Options;
    type Output = u64;
    type Plan = ();

    fn about(&self) -> About {
        About {
            name: self.name,
            summary: "Do as told",
            details: "",
            examples: &[],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, _options: Options) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::micros(1)
    }
}

impl Compute for Mischief {
    fn run(&self, (): &(), deed: Deed, stop: &Stop<'_>) -> Result<u64, Failure> {
        self.shared.quick(&deed).unwrap_or_else(|| {
            self.shared.begun.notify_one();
            while !stop.is_asked() {
                std::thread::yield_now();
            }
            self.shared.was_asked_to_stop.store(true, Ordering::SeqCst);
            Err(Failure::permanent("stopped", "stopped"))
        })
    }
}

impl Wait for Mischief {
    async fn run(self: Arc<Self>, _plan: Arc<()>, deed: Deed, _tools: Tools) -> Result<u64, Failure> {
        match self.shared.quick(&deed) {
            Some(result) => result,
            None => {
                self.shared.begun.notify_one();
                std::future::pending().await
            }
        }
    }
}

pub(crate) const COMPUTE: &str = "test.compute";
pub(crate) const WAIT: &str = "test.wait";

/// A world of its own for each test.
pub(crate) struct World {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) register: Arc<Register>,
    pub(crate) shared: Shared,
    pub(crate) window: Window,
    pub(crate) stop: CancellationToken,
}

pub(crate) fn sandbox() -> World {
    let shared = Shared::default();
    let register = Register::default()
        .compute(Mischief { name: COMPUTE, shared: shared.clone() })
        .wait(Mischief { name: WAIT, shared: shared.clone() });
    let broker: Arc<dyn Broker> = Arc::new(broker::embedded::Embedded::new(1 << 20));
    let store: Arc<dyn Store> = Arc::new(store::embedded::Embedded::default());
    let stop = CancellationToken::new();
    tokio::spawn({
        let (broker, store, stop) = (Arc::clone(&broker), Arc::clone(&store), stop.clone());
        async move { collect(&*broker, &*store, |_| {}, stop).await }
    });
    World { broker, store, register: Arc::new(register), shared, window: Window::new(1 << 20), stop }
}

impl World {
    pub(crate) fn worker(&self, name: &str, threads: usize) -> Worker {
        self.worker_with_grace(name, threads, PATIENCE)
    }

    pub(crate) fn worker_with_grace(&self, name: &str, threads: usize, grace: Duration) -> Worker {
        self.worker_with(name, threads, grace, OwnNetworks::default())
    }

    pub(crate) fn worker_with(&self, name: &str, threads: usize, grace: Duration, networks: OwnNetworks) -> Worker {
        let setup = Setup {
            name: name.into(),
            lanes: vec![Lane::Cpu, Lane::Wait],
            permits: |_, setup| 2 * setup.threads,
            threads,
            waiting: 1,
            grace,
            stuck_after: PATIENCE,
            max_output_bytes: usize::MAX,
            isolation: None,
            heartbeat: None,
            networks,
        };
        let limits = FetchLimits { max_bytes: 1, timeout: PATIENCE };
        let tools = Tools::new(Pool::new(threads).unwrap(), Blobs::without_store(limits));
        Worker::new(setup, Arc::clone(&self.broker), Arc::clone(&self.register), tools)
    }

    pub(crate) fn batch(&self, task: &str, timeout: Duration) -> Arc<Batch> {
        Arc::new(Batch {
            id: BatchId::new(),
            task: task.into(),
            options: raw(&serde_json::json!({})),
            retry: RetryPolicy { attempts: 3, base: Duration::from_millis(2), max: Duration::from_millis(5) },
            timeout,
            priority: Priority(0),
            expires: None,
        })
    }

    pub(crate) fn producer(&self, cut: Cut) -> Producer<'_> {
        Producer {
            broker: &*self.broker,
            store: None,
            cut,
            window: Some(&self.window),
            under_way: UnderWay { messages: 4, bytes: u64::MAX },
            max_input_bytes: usize::MAX,
            ready: None,
            accepted: watch::Sender::new(0),
        }
    }

    pub(crate) async fn produce(&self, batch: &Arc<Batch>, deeds: &[Deed], cut: Cut) {
        self.produce_values(batch, deeds.iter().map(raw).collect(), cut).await;
    }

    pub(crate) async fn produce_values(&self, batch: &Arc<Batch>, values: Vec<Box<RawValue>>, cut: Cut) {
        let total = values.len() as u64;
        let job: Arc<dyn Job> = self.register.find(&batch.task).unwrap().prepare(&batch.options).unwrap();
        let producer = self.producer(cut);
        let span = Span { from: 0, seal_when_stopped: true };
        let inputs = Inputs::walk(vec![Source::Values(values)]);
        let produced =
            producer.produce(Arc::clone(batch), &*job, inputs, span, &CancellationToken::new()).await.unwrap();
        assert_eq!(produced, Produced { total, is_whole: true });
    }

    /// Every outcome of the batch, in input order; gives the window back as a reader does.
    pub(crate) async fn read(&self, batch: &Batch) -> Vec<Arc<Outcome>> {
        let reading = async {
            let mut stream = Stream::new(Arc::clone(&self.store), batch.id.clone(), Order::Input, 0);
            let mut all = Vec::new();
            while let Some(page) = stream.next().await.unwrap() {
                self.window.give(page.iter().map(|outcome| outcome.weight_bytes()).sum());
                all.extend(page);
            }
            all
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the batch is completed")
    }

    /// Produces and reads at once.
    pub(crate) async fn grind(&self, task: &str, deeds: &[Deed], cut: Cut) -> Vec<Arc<Outcome>> {
        let batch = self.batch(task, PATIENCE);
        self.store.open(&batch).await.unwrap();
        tokio::join!(self.produce(&batch, deeds, cut), self.read(&batch)).1
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
