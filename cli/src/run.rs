//! `run`: broker, worker, collector and store inside this process, and the way of every item through them.

mod kept;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tidemill_core::batch::{Batch, BatchId, ItemIndex, Priority};
use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::broker::{self, Broker, Notice};
use tidemill_core::compute::Pool;
use tidemill_core::nearest::{did_you_mean, nearest};
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::retry::RetryPolicy;
use tidemill_core::settings::{RetrySettings, Settings};
use tidemill_core::store::{self, Progress, Store};
use tidemill_core::task::{Engine, Hands, Job, Kind, Lane, Register, Tools, raw};
use tidemill_core::web::Web;
use tidemill_producer::inputs::Inputs;
use tidemill_producer::{Cut, ProduceError, Produced, Producer, Span, UnderWay, Window};
use tidemill_results_api::{Stream, collect};
use tidemill_tasks::vision::DEFAULT_MODEL;
use tidemill_worker::{OwnNetworks, Setup, Worker};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::kept::{Begin, Kept, Plan};
use crate::args::{Run, Shared, Work};
use crate::cluster::own_name;
use crate::error::{CliError, Exit};
use crate::follow::counts;
use crate::printer::{self, Bar, Printer, clear};
use crate::{Vision, handover, networks, out, words};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Runs a task over inputs.
pub(crate) fn run(run: Run, shared: &Shared, settings: &Settings, vision: Option<Vision>) -> Result<Exit, CliError> {
    let plain = crate::register(settings, None);
    let Prepared { kind, job, options } = prepare(&run.work, &plain)?;
    let engine = match (job.lane(), vision) {
        (Lane::Vision, None) => return Err(handover::hand_over(settings)),
        (Lane::Vision, Some(vision)) => Some(networks::start(vision, settings)?),
        (Lane::Cpu | Lane::Wait | Lane::Process, _) => None,
    };
    let register = crate::register(settings, engine.clone());
    let sources = words::sources(&run.work, kind, &job)?;
    let plan = Plan::of(&run, kind, &options, settings, vision.as_ref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Exit::Fault, format!("cannot start the runtime: {error}")))?;
    let exit = runtime.block_on(async {
        let (kept, inputs) = match plan.begin(&run, sources).await? {
            Begin::Run(kept, inputs) => (*kept, inputs),
            Begin::Whole(progress) => {
                say(shared, "the file of --out is complete; there is nothing to go on with");
                let is_all_ok = progress.recorded() == progress.count(Status::Ok);
                return Ok(if is_all_ok { Exit::Ok } else { Exit::NotAllOk });
            }
        };
        Mill::new(&run, &options, settings, register, engine, &*job, kept)?.grind(&run, shared, &*job, inputs).await
    });
    // Threads that block (a terminal that is read from, an item over its timeout) are not waited for.
    runtime.shutdown_background();
    exit
}

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

/// All that works on the batch.
struct Mill {
    batch: Arc<Batch>,
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    worker: Worker,
    blobs: Blobs,
    kept: Kept,
    cut: Cut,
    window: Arc<Window>,
    device: Device,
}

impl Mill {
    fn new(
        run: &Run,
        options: &Map<String, Value>,
        settings: &Settings,
        register: Register,
        engine: Option<Arc<dyn networks::Engine>>,
        job: &dyn Job,
        kept: Kept,
    ) -> Result<Self, CliError> {
        let pool = Pool::new(settings.worker.threads).map_err(|error| CliError::new(Exit::Fault, error.to_string()))?;
        let limits = FetchLimits { max_bytes: settings.fetch.max_bytes, timeout: settings.fetch.timeout };
        let blobs = kept.blobs(limits)?.with_web(Web::new(settings.net.clone()));
        let broker: Arc<dyn Broker> = Arc::new(broker::embedded::Embedded::new(settings.broker.queue_bytes));
        let cut = cut_of(&run.work, settings, job, pool.threads());
        let setup = Setup {
            name: settings.worker.name.clone().unwrap_or_else(own_name),
            lanes: vec![job.lane()],
            permits: match job.engine() {
                // One runs, one is ready when it ends.
                Engine::Compute => |_, setup| 2 * setup.threads,
                Engine::Wait(_) => |_, setup| setup.waiting,
            },
            threads: pool.threads(),
            waiting: match job.engine() {
                Engine::Wait(Hands::PerCore(hands)) => hands * pool.threads(),
                Engine::Wait(Hands::AtMost(items)) => items.min(settings.worker.waiting).div_ceil(cut.max_items),
                _ => settings.worker.waiting.div_ceil(cut.max_items),
            },
            grace: settings.worker.grace,
            stuck_after: settings.worker.stuck_after,
            max_output_bytes: usize::MAX,
            isolation: None,
            heartbeat: None,
            networks: OwnNetworks::default(),
        };
        let tools = Tools::new(pool, blobs.clone());
        let batch = batch_of(&run.work, options, settings, job, BatchId::new());
        Ok(Self {
            batch: Arc::new(batch),
            worker: Worker::new(setup, Arc::clone(&broker), Arc::new(register), tools),
            broker,
            store: Arc::new(store::embedded::Embedded::default()),
            blobs,
            kept,
            cut,
            window: Arc::new(Window::new(settings.run.window_bytes)),
            device: Device { engine, lost: Arc::default() },
        })
    }

    /// Runs the batch and prints its outcomes.
    async fn grind(mut self, run: &Run, shared: &Shared, job: &dyn Job, inputs: Inputs) -> Result<Exit, CliError> {
        let started = Instant::now();
        let cancel = CancellationToken::new();
        let stop = CancellationToken::new();
        let working = self.worker.clone().run(stop.clone());
        let worker = tokio::spawn(async { working.await.map(drop) });
        let collector = tokio::spawn({
            let (broker, store, stop) = (Arc::clone(&self.broker), Arc::clone(&self.store), stop.clone());
            let window = Arc::clone(&self.window);
            // An output takes its part of the window too, for as long as it waits to be printed.
            let landed = move |outcomes: &[Arc<Outcome>]| {
                window.take_now(outcomes.iter().map(|outcome| outcome.output_bytes()).sum());
            };
            async move { collect(&*broker, &*store, landed, stop).await }
        });
        let interrupts = tokio::spawn(interrupts(
            cancel.clone(),
            Arc::clone(&self.broker),
            Arc::clone(&self.store),
            self.batch.id.clone(),
            self.kept.staging(),
            self.device.clone(),
        ));
        // Opened before anybody reads of it; the producer's word opens it once more, which changes nothing.
        self.store.open(&self.batch).await.map_err(fault)?;

        let mut kept = std::mem::take(&mut self.kept);
        let (produced, tally) = {
            let producer = Producer {
                broker: &*self.broker,
                store: None,
                cut: self.cut,
                window: Some(&self.window),
                // Memory takes everything at once; the window is what bounds it.
                under_way: UnderWay { messages: 4, bytes: u64::MAX },
                max_input_bytes: usize::MAX,
                ready: None,
                accepted: watch::Sender::new(0),
                reply_to: None,
            };
            let span = Span { from: 0, seal_when_stopped: true };
            let total = inputs.total();
            let producing = producer.produce(Arc::clone(&self.batch), job, inputs, span, &cancel);
            let reading = self.read(run, shared, total, &mut kept, &cancel);
            // Each waits for the other; where one fails, the other would wait for ever.
            tokio::try_join!(async { producing.await.map_err(not_produced) }, reading)?
        };

        stop.cancel();
        interrupts.abort();
        for part in [worker, collector] {
            if let Ok(Err(error)) = part.await {
                tracing::warn!(%error, "a part of the mill ended badly");
            }
        }
        let is_complete = !cancel.is_cancelled() && self.device.lost.get().is_none();
        let unfinished = kept.end(is_complete).await?;
        if let Some(reason) = self.device.lost.get() {
            let recorded = tally.progress.recorded() - tally.progress.count(Status::Cancelled);
            let how = match unfinished {
                Some(unfinished) => format!("{unfinished}, here or on another --device"),
                None => "run it again, here or on another --device".to_owned(),
            };
            return Err(networks::device_lost(reason).hint(format!("{recorded} items had ended before; {how}")));
        }
        tally.end(started.elapsed(), produced, !is_complete, unfinished, shared)
    }

    /// Reads the outcomes in the order that was asked for, and prints them.
    async fn read(
        &self,
        run: &Run,
        shared: &Shared,
        total: Option<u64>,
        kept: &mut Kept,
        cancel: &CancellationToken,
    ) -> Result<Tally, CliError> {
        let before = kept.before.clone();
        let mut tally = Tally { progress: before.clone(), is_deaf: false };
        // Outcomes in a file are printed too where somebody says how.
        let is_printed = kept.ledger.is_none() || run.show.format.is_some();
        let mut printer = is_printed.then(|| Printer::new(run.show.format));
        let mut bar = Bar::new(&run.work.task, total, shared.quiet > 0);
        let mut stream = Stream::new(Arc::clone(&self.store), self.batch.id.clone(), run.show.order.into(), 0);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let page = tokio::select! {
                page = stream.next() => page.map_err(fault)?,
                _ = tick.tick() => {
                    bar.update(&together(&before, self.store.progress(&self.batch.id).await.map_err(fault)?));
                    continue;
                }
            };
            let Some(page) = page else { break };
            let mut weight = 0;
            for outcome in &page {
                weight += outcome.weight_bytes() + outcome.output_bytes();
                let moved = moved(outcome, before.recorded());
                let outcome: &Outcome = moved.as_ref().unwrap_or(outcome);
                let placed = kept.keep(outcome, &self.blobs)?;
                let outcome: &Outcome = placed.as_ref().unwrap_or(outcome);
                tally.progress.counts[outcome.status() as usize] += 1;
                if let Some(printer) = printer.as_mut().filter(|_| !tally.is_deaf) {
                    tally.hear(printer.print(outcome), cancel)?;
                }
            }
            kept.flush()?;
            if let Some(printer) = printer.as_mut().filter(|_| !tally.is_deaf) {
                tally.hear(printer.flush(), cancel)?;
            }
            stream.forget().await.map_err(fault)?;
            self.window.give(weight);
        }
        clear();
        if let Some(printer) = printer.as_mut().filter(|_| !tally.is_deaf) {
            tally.hear(printer.end(), cancel)?;
        }
        Ok(tally)
    }
}

/// What networks run on, and why it is lost once it is.
#[derive(Clone)]
struct Device {
    engine: Option<Arc<dyn networks::Engine>>,
    lost: Arc<OnceLock<String>>,
}

impl Device {
    /// Resolves once it is lost.
    async fn lost(&self) {
        let Some(engine) = &self.engine else { return std::future::pending().await };
        // Only this comes here, once.
        self.lost.set(engine.lost().await).ok();
    }
}

/// What was read.
#[derive(Default)]
struct Tally {
    progress: Progress,
    /// Whoever read our output has closed it (`| head`): the rest is not printed, and not run.
    is_deaf: bool,
}

impl Tally {
    fn hear(&mut self, printed: io::Result<()>, cancel: &CancellationToken) -> Result<(), CliError> {
        match printed {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_deaf = true;
                cancel.cancel();
                Ok(())
            }
            Err(error) => Err(printer::not_printed(&error)),
        }
    }

    fn end(
        &self,
        took: Duration,
        produced: Produced,
        is_cancelled: bool,
        unfinished: Option<String>,
        shared: &Shared,
    ) -> Result<Exit, CliError> {
        if self.is_deaf {
            // Who has had enough of the output may still want the file.
            let Some(unfinished) = unfinished else { return Ok(Exit::Ok) };
            say(shared, &unfinished);
            return Ok(Exit::Interrupted);
        }
        let progress = &self.progress;
        let is_all_ok = progress.recorded() == progress.count(Status::Ok);
        let is_told = shared.quiet == 0 && (!is_all_ok || is_cancelled || io::IsTerminal::is_terminal(&io::stderr()));
        if is_told {
            let counts = if progress.recorded() == 0 { "nothing to do".to_owned() } else { counts(progress) };
            let interrupted = if is_cancelled { "interrupted: " } else { "" };
            let rest = if produced.is_whole { "" } else { "; the inputs after these were not read" };
            printer::say(&format!("{interrupted}{counts} in {:.1} s{rest}", took.as_secs_f64()));
        }
        if let Some(unfinished) = unfinished {
            say(shared, &unfinished);
        }
        Ok(match (is_cancelled, is_all_ok) {
            (true, _) => Exit::Interrupted,
            (false, true) => Exit::Ok,
            (false, false) => Exit::NotAllOk,
        })
    }
}

/// The progress of a run that goes on: what was there before, and what has come since.
fn together(before: &Progress, mut since: Progress) -> Progress {
    since.total = since.total.map(|total| total + before.recorded());
    for (count, before) in since.counts.iter_mut().zip(before.counts) {
        *count += before;
    }
    since
}

/// The same outcome, counted from the first item of all. The mill counts only what it runs.
fn moved(outcome: &Outcome, before: u64) -> Option<Outcome> {
    (before > 0).then(|| Outcome { index: ItemIndex(outcome.index.0 + before), ..outcome.clone() })
}

fn say(shared: &Shared, text: &str) {
    if shared.quiet == 0 {
        printer::say(text);
    }
}

/// The first signal cancels the batch, and so does the loss of the device; the next one ends the process at once.
async fn interrupts(
    cancel: CancellationToken,
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    batch: BatchId,
    staging: Option<PathBuf>,
    device: Device,
) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be heard; an interrupt ends the command at once");
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = cancel.cancelled() => {}
        () = device.lost() => {}
    }
    cancel.cancel();
    for told in [
        store.cancel(&batch).await.map_err(|error| error.to_string()),
        broker.announce(Notice::Cancel(batch)).await.map_err(|error| error.to_string()),
    ] {
        if let Err(error) = told {
            tracing::warn!(error, "the batch could not be cancelled");
        }
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    out::remove_at_once(staging.as_deref());
    end_at_once();
}

#[expect(clippy::disallowed_methods, reason = "this is the impolite stop: a second signal means now")]
fn end_at_once() {
    std::process::exit(i32::from(Exit::Interrupted as u8));
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
    let chunk = &settings.chunk;
    match work.chunk {
        Some(items) => Cut::fixed(items as usize, chunk.max_bytes),
        None => Cut::by_cost(job.cost(), chunk.target, chunk.max_items, chunk.max_bytes, cores),
    }
}

pub(crate) fn not_produced(error: ProduceError) -> CliError {
    let exit = match &error {
        ProduceError::Inputs(error) if !error.is_fault => Exit::Unreachable,
        _ => Exit::Fault,
    };
    CliError::new(exit, error.to_string())
}

fn fault(error: impl std::fmt::Display) -> CliError {
    CliError::new(Exit::Fault, error.to_string())
}
