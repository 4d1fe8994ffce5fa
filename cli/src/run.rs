//! `run`: broker, worker, collector and store inside this process, and the way of every item through them.

mod kept;
mod tally;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tidemill_core::batch::{Batch, BatchId, ItemIndex};
use tidemill_core::blobs::Blobs;
use tidemill_core::broker::{self, Broker, Notice};
use tidemill_core::compute::Pool;
use tidemill_core::outcome::{Outcome, Status};
use tidemill_core::settings::Settings;
use tidemill_core::store::{self, Progress, Store};
use tidemill_core::task::{Engine, Hands, Job, Lane, Register, Tools};
use tidemill_core::web::Web;
use tidemill_producer::inputs::Inputs;
use tidemill_producer::{Cut, Producer, Span, UnderWay, Window};
use tidemill_results_api::{Stream, collect};
use tidemill_worker::{OwnNetworks, Setup, Worker};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::kept::{Begin, Kept, Plan};
use self::tally::Tally;
use crate::args::{Run, Shared};
use crate::cluster::{Signals, own_name};
use crate::error::{CliError, Exit};
use crate::interrupt::end_at_once;
use crate::prepared::{Prepared, batch_of, cut_of, not_produced, prepare};
use crate::printer::{Bar, Printer, clear};
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
    let runtime = crate::runtime()?;
    let exit = runtime.block_on(async {
        let (kept, inputs) = match plan.begin(&run, sources).await? {
            Begin::Run(kept, inputs) => (*kept, inputs),
            Begin::Whole(progress) => {
                shared.say("the file of --out is complete; there is nothing to go on with");
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
        let pool = Pool::new(settings.worker.threads).map_err(CliError::fault)?;
        let blobs = kept.blobs(crate::fetch_limits(settings))?.with_web(Web::new(settings.net.clone()));
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
        // Before anything runs: one that nobody hears ends the process, whatever is under way.
        let signals = Signals::listen();
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
            signals,
            cancel.clone(),
            Arc::clone(&self.broker),
            Arc::clone(&self.store),
            self.batch.id.clone(),
            self.kept.staging(),
            self.device.clone(),
        ));
        // Opened before anybody reads of it; the producer's word opens it once more, which changes nothing.
        self.store.open(&self.batch).await.map_err(CliError::fault)?;

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
        let mut tally = Tally::new(before.clone());
        // Outcomes in a file are printed too where somebody says how.
        let is_printed = kept.ledger.is_none() || run.show.format.is_some();
        let mut printer = is_printed.then(|| Printer::new(run.show.format));
        let mut bar = Bar::new(&run.work.task, total, shared.is_quiet());
        let mut stream = Stream::new(Arc::clone(&self.store), self.batch.id.clone(), run.show.order.into(), 0);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let page = tokio::select! {
                page = stream.next() => page.map_err(CliError::fault)?,
                _ = tick.tick() => {
                    bar.update(&together(&before, self.store.progress(&self.batch.id).await.map_err(CliError::fault)?));
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
            stream.forget().await.map_err(CliError::fault)?;
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

/// The first signal cancels the batch, and so does the loss of the device; the next one ends the process at once.
async fn interrupts(
    signals: Result<Signals, CliError>,
    cancel: CancellationToken,
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    batch: BatchId,
    staging: Option<PathBuf>,
    device: Device,
) {
    let Ok(mut signals) = signals else {
        tracing::warn!("signals cannot be heard; an interrupt ends the command at once");
        return;
    };
    tokio::select! {
        () = signals.next() => {}
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
    signals.next().await;
    out::remove_at_once(staging.as_deref());
    end_at_once();
}
