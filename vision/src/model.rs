//! A model at work: requests from any number of tasks, gathered into batches, run by one thread per instance.

mod answer;
mod counts;
mod gather;
mod infer;

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_tasks::vision::segment::Scores;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use answer::{Answer, Said};
use counts::Counters;
pub use counts::Counts;
use gather::Gatherer;
use infer::Instance;

use crate::device::Device;
use crate::labels::labels;
use crate::network::{Network, NetworkError};

/// How many batches may wait for each instance beside the one it is at: enough that it never waits for pixels.
const BATCHES_WAITING: usize = 2;

/// How a model is run.
#[derive(Debug, Clone, Copy)]
pub struct InstanceConfig {
    /// Where.
    pub device: Device,
    /// In which precision; `None` for the best that the card allows there.
    pub precision: Option<Precision>,
    /// How many threads run the network, each a batch of its own. Share the same weights.
    pub instances: usize,
    /// How many threads libtorch uses inside one instance, on a CPU. `instances × threads` is best kept at or below the
    /// number of cores; many instances of one thread get the most done, one instance of many threads answers soonest.
    pub threads: usize,
    /// The most pictures in a batch.
    pub max_batch: usize,
    /// How long the first picture of a batch may wait for others. Zero, which is best unless requests come one by one from
    /// few clients: whatever came while the last batch was computed is the next batch.
    pub max_delay: Duration,
}

/// One class and how probable it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The class's number, from 0.
    pub class: u32,
    /// From 0 to 1.
    pub probability: f32,
}

/// Says why a picture has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The pixels are not those of a picture of the network's size.
    #[error("a picture of {expected} bytes is needed, this one has {found}")]
    WrongSize {
        /// `height × width × 3` of the network.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The network failed on this picture, alone as well as among others.
    #[error("the network failed: {0}")]
    Failed(String),
    /// The model was unloaded before it came to this picture.
    #[error("the model was unloaded")]
    Stopped,
}

/// A model at work. Dropping it waits for the batches being computed.
#[derive(Debug)]
pub struct Model {
    card: Card,
    labels: Arc<[String]>,
    device: Device,
    precision: Precision,
    weight_bytes: u64,
    picture_bytes: usize,
    counters: Arc<Counters>,
    capacity: Arc<Semaphore>,
    /// Held by the instances through the [`Gatherer`]; `None` only while dropping.
    requests: Option<Sender<Request>>,
    instances: Vec<JoinHandle<()>>,
}

/// One picture on its way.
#[derive(Debug)]
struct Request {
    pixels: Vec<u8>,
    top: usize,
    arrived: Instant,
    /// Held by [`Model::ask`].
    answer: oneshot::Sender<Answer>,
    /// Its place among those that may wait or be computed; free again once it is answered.
    _place: OwnedSemaphorePermit,
}

impl Model {
    /// Loads a card's network and starts its instances. Blocks while it loads.
    ///
    /// # Errors
    ///
    /// Those of [`Network::load`].
    pub fn start(card: Card, config: InstanceConfig) -> Result<Self, NetworkError> {
        let instances = config.instances.max(1);
        let labels = labels(&card)?.into();
        let network = Network::load(&card, config.device, config.precision)?;
        let (precision, [height, width]) = (network.precision(), network.size());
        let weight_bytes = network.weight_bytes();
        let (requests, queue) = mpsc::channel();
        let gatherer = Arc::new(Gatherer::new(queue, config.max_batch.max(1), config.max_delay));
        let counters = Arc::new(Counters::default());
        let networks = (1..instances).map(|_| network.share()).collect::<Vec<_>>();
        let handles = networks.into_iter().chain([network]).enumerate().map(|(number, network)| {
            let instance = Instance::new(network, Arc::clone(&counters));
            let (gatherer, threads) = (Arc::clone(&gatherer), config.threads.max(1));
            let thread = thread::Builder::new().name(format!("{}-{number}", card.name));
            thread.spawn(move || instance.run(&gatherer, threads)).map_err(|error| NetworkError::Torch {
                model: card.name.clone(),
                reason: format!("no thread for it: {error}"),
            })
        });
        let instances_started = handles.collect::<Result<_, _>>()?;
        let places = instances * config.max_batch.max(1) * (1 + BATCHES_WAITING);
        tracing::info!(model = %card.name, device = %config.device, ?precision, instances, "model loaded");
        Ok(Self {
            labels,
            device: config.device,
            precision,
            weight_bytes,
            picture_bytes: usize::try_from(height * width * 3).unwrap_or(usize::MAX),
            counters,
            capacity: Arc::new(Semaphore::new(places)),
            requests: Some(requests),
            instances: instances_started,
            card,
        })
    }

    /// Returns the `top` most probable classes of a picture, most probable first.
    ///
    /// Waits while as many pictures as the instances can use are on their way already, so memory stays bounded however many
    /// tasks call it. Dropping the future is safe: a picture that nobody waits for any more is passed over.
    ///
    /// # Shape
    ///
    /// `pixels`: `height × width × 3` bytes of the card's input, row by row, channels in the card's order.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongSize`] at once; [`ModelError::Failed`] where the network fails on this picture. That others
    /// of the same batch fail does no harm to this one.
    pub async fn classify(&self, pixels: Vec<u8>, top: usize) -> Result<Vec<Scored>, ModelError> {
        match self.ask(pixels, top).await? {
            Said::Classes(classes) => Ok(classes),
            Said::Maps(_) => Err(ModelError::Failed("its task is to segment".to_owned())),
        }
    }

    /// Returns what the network says of each place of a picture. As with [`Model::classify`] otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`Model::classify`].
    pub async fn segment(&self, pixels: Vec<u8>) -> Result<Scores, ModelError> {
        match self.ask(pixels, 1).await? {
            Said::Maps(scores) => Ok(scores),
            Said::Classes(_) => Err(ModelError::Failed("its task is to classify".to_owned())),
        }
    }

    async fn ask(&self, pixels: Vec<u8>, top: usize) -> Answer {
        if pixels.len() != self.picture_bytes {
            return Err(ModelError::WrongSize { expected: self.picture_bytes, found: pixels.len() });
        }
        let place = Arc::clone(&self.capacity).acquire_owned().await.map_err(|_| ModelError::Stopped)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { pixels, top, arrived: Instant::now(), answer, _place: place };
        let requests = self.requests.as_ref().ok_or(ModelError::Stopped)?;
        requests.send(request).map_err(|_| ModelError::Stopped)?;
        answered.await.unwrap_or(Err(ModelError::Stopped))
    }

    /// Returns the card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Returns the classes' names, by class number.
    pub fn labels(&self) -> &Arc<[String]> {
        &self.labels
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns how many bytes the weights take, which the instances share.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Returns what was done so far.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.requests = None;
        for instance in self.instances.drain(..) {
            if instance.join().is_err() {
                tracing::error!(model = %self.card.name, "an instance of a model panicked");
            }
        }
    }
}

/// Locks a mutex whose holders leave nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
