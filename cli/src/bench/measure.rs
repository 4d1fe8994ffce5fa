//! What is measured beside the network: the reading of pictures, and both together through the whole mill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use serde_json::value::RawValue;
use tidemill_core::batch::{Batch, BatchId, Priority};
use tidemill_core::blobs::Blobs;
use tidemill_core::broker::{self, Broker};
use tidemill_core::compute::Pool;
use tidemill_core::outcome::Status;
use tidemill_core::retry::RetryPolicy;
use tidemill_core::settings::Settings;
use tidemill_core::store::{self, Order, Store};
use tidemill_core::task::{Engine as Hand, Hands, Job, Tools, raw};
use tidemill_producer::inputs::{Inputs, Source};
use tidemill_producer::{Cut, Producer, Span, UnderWay, Window};
use tidemill_results_api::{Stream, collect};
use tidemill_tasks::image::prepare;
use tidemill_tasks::vision::Engine;
use tidemill_tasks::vision::card::{Card, Question};
use tidemill_worker::{OwnNetworks, Setup, Worker};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::CliError;
use crate::prepared::cut_by_cost;

/// Pictures that go through the mill one by one.
const ONE_BY_ONE: usize = 20;
/// Pictures of the measured batch, at most: what is known of each takes memory.
const MOST: f64 = 1e6;

/// A picture to measure with.
#[derive(Debug)]
pub(super) struct Picture {
    /// Where it is.
    pub(super) path: String,
    /// The file.
    pub(super) bytes: Vec<u8>,
    /// Pixels of the upright picture.
    pub(super) pixels: u64,
}

/// Those that can be read, and how many cannot.
pub(super) fn readable(pictures: Vec<Picture>, card: &Card, settings: &Settings) -> (Vec<Picture>, usize) {
    let (preparation, limits) = (card.input.preparation(), crate::image_limits(settings));
    let found = pictures.len();
    let read = |mut picture: Picture| {
        let prepared = prepare(&picture.bytes, &preparation, &limits, &mut Vec::new()).ok()?;
        picture.pixels = u64::from(prepared.width) * u64::from(prepared.height);
        Some(picture)
    };
    let pictures: Vec<Picture> = pictures.into_iter().filter_map(read).collect();
    let unreadable = found - pictures.len();
    (pictures, unreadable)
}

/// How many pictures a second are decoded and resized on all computing threads.
pub(super) async fn decode(
    pictures: &[Picture],
    card: &Card,
    settings: &Settings,
    pool: &Pool,
    time: Duration,
) -> Result<f64, CliError> {
    let files: Arc<[Vec<u8>]> = pictures.iter().map(|picture| picture.bytes.clone()).collect();
    let (preparation, limits) = (card.input.preparation(), crate::image_limits(settings));
    let started = Instant::now();
    let threads = (0..pool.threads()).map(|number| {
        let files = Arc::clone(&files);
        pool.run(move |_| {
            let mut done = 0_u64;
            // Each thread begins elsewhere, so that all have pictures of all kinds.
            for bytes in files.iter().cycle().skip(number * files.len() / 7) {
                let mut pixels = Vec::new();
                // Those that cannot be read were left out before.
                drop(prepare(bytes, &preparation, &limits, &mut pixels));
                done += 1;
                if started.elapsed() >= time {
                    break;
                }
            }
            done
        })
    });
    let done = try_join_all(threads).await.map_err(CliError::fault)?;
    Ok(done.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64())
}

/// The mill, as `run` puts it together.
pub(super) struct EndToEnd {
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    job: Arc<dyn Job>,
    task: &'static str,
    options: Box<RawValue>,
    cut: Cut,
    window: Arc<Window>,
    timeout: Duration,
    _stops: tokio_util::sync::DropGuard,
}

/// What came out of it.
pub(super) struct Whole {
    /// Pictures a second.
    pub(super) rate: f64,
    /// How long one picture takes that finds nobody before it: the median.
    pub(super) one: Duration,
}

impl EndToEnd {
    /// Starts broker, worker and collector.
    pub(super) fn start(
        card: &Card,
        settings: &Settings,
        engine: Arc<dyn Engine>,
        pool: Pool,
    ) -> Result<Self, CliError> {
        let (task, options) = match card.task {
            Question::Classify => ("vision.classify", serde_json::json!({ "model": folder(card) })),
            // What is drawn is not the network's.
            Question::Segment => ("vision.segment", serde_json::json!({ "model": folder(card), "pictures": [] })),
        };
        let options = raw(&options);
        let register = crate::register(settings, Some(engine));
        let job = register.find(task).map_err(CliError::fault)?.prepare(&options).map_err(CliError::fault)?;
        let cut = cut_by_cost(settings, &*job, pool.threads());
        let hands = match job.engine() {
            Hand::Wait(Hands::PerCore(hands)) => hands * pool.threads(),
            _ => settings.worker.waiting,
        };
        let broker: Arc<dyn Broker> = Arc::new(broker::embedded::Embedded::new(settings.broker.queue_bytes));
        let store: Arc<dyn Store> = Arc::new(store::embedded::Embedded::default());
        let window = Arc::new(Window::new(settings.run.window_bytes));
        let setup = Setup {
            name: "bench".to_owned(),
            lanes: vec![job.lane()],
            permits: |_, setup| setup.waiting,
            threads: pool.threads(),
            waiting: hands,
            grace: settings.worker.grace,
            stuck_after: settings.worker.stuck_after,
            max_output_bytes: usize::MAX,
            isolation: None,
            heartbeat: None,
            networks: OwnNetworks::default(),
        };
        let tools = Tools::new(pool, Blobs::without_store(crate::fetch_limits(settings)));
        let stop = CancellationToken::new();
        let worker = Worker::new(setup, Arc::clone(&broker), Arc::new(register), tools);
        tokio::spawn(worker.run(stop.clone()));
        tokio::spawn({
            let (broker, store, stop) = (Arc::clone(&broker), Arc::clone(&store), stop.clone());
            async move { collect(&*broker, &*store, |_| {}, stop).await }
        });
        let timeout = settings.task.timeout;
        Ok(Self { broker, store, job, task, options, cut, window, timeout, _stops: stop.drop_guard() })
    }

    /// Sends pictures through for about so long, if they go through at the rate that is expected.
    pub(super) async fn measure(&self, pictures: &[Picture], expected: f64, time: Duration) -> Result<Whole, CliError> {
        // The model is loaded, and every file has been read once.
        self.grind(pictures, pictures.len()).await?;
        let mut singly = Vec::with_capacity(ONE_BY_ONE);
        for number in 0..ONE_BY_ONE {
            singly.push(self.grind(&pictures[number % pictures.len()..], 1).await?);
        }
        singly.sort_unstable();
        let count = (expected * time.as_secs_f64()).clamp(pictures.len() as f64, MOST) as usize;
        let took = self.grind(pictures, count).await?;
        Ok(Whole { rate: count as f64 / took.as_secs_f64(), one: singly[ONE_BY_ONE / 2] })
    }

    /// Sends so many pictures through, over and over the same, and says how long the batch took.
    async fn grind(&self, pictures: &[Picture], count: usize) -> Result<Duration, CliError> {
        let batch = Arc::new(Batch {
            id: BatchId::new(),
            task: self.task.to_owned(),
            options: self.options.clone(),
            retry: RetryPolicy { attempts: 1, base: Duration::ZERO, max: Duration::ZERO },
            timeout: self.timeout,
            priority: Priority::default(),
            expires: None,
        });
        let inputs = pictures.iter().cycle().take(count).map(|picture| raw(&picture.path)).collect();
        let producer = Producer {
            broker: &*self.broker,
            store: None,
            cut: self.cut,
            window: Some(&self.window),
            under_way: UnderWay { messages: 4, bytes: u64::MAX },
            max_input_bytes: usize::MAX,
            ready: None,
            accepted: watch::Sender::new(0),
        };
        let started = Instant::now();
        self.store.open(&batch).await.map_err(CliError::fault)?;
        let span = Span { from: 0, seal_when_stopped: true };
        let never = CancellationToken::new();
        let inputs = Inputs::walk(vec![Source::Values(inputs)]);
        let producing = async {
            let produced = producer.produce(Arc::clone(&batch), &*self.job, inputs, span, &never).await;
            produced.map(drop).map_err(CliError::fault)
        };
        tokio::try_join!(producing, self.read(&batch.id))?;
        Ok(started.elapsed())
    }

    /// Reads a batch's outcomes to their end.
    async fn read(&self, batch: &BatchId) -> Result<(), CliError> {
        let mut stream = Stream::new(Arc::clone(&self.store), batch.clone(), Order::Completion, 0);
        while let Some(page) = stream.next().await.map_err(CliError::fault)? {
            for outcome in &page {
                if outcome.status() != Status::Ok {
                    let what = outcome.failure().map_or_else(|| outcome.status().to_string(), ToString::to_string);
                    return Err(CliError::fault(format!("a picture was not answered: {what}")));
                }
            }
            stream.forget().await.map_err(CliError::fault)?;
            self.window.give(page.iter().map(|outcome| outcome.weight_bytes()).sum());
        }
        Ok(())
    }
}

/// The card's folder, such that it is taken for one.
fn folder(card: &Card) -> String {
    let folder = card.folder().to_string_lossy();
    if folder.contains('/') { folder.into_owned() } else { format!("./{folder}") }
}
