//! A model at work: requests from any number of tasks, gathered into batches, run by a thread per instance.

mod again;
mod answer;
mod counts;
mod gather;
mod infer;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidemill_core::batch::Priority;
use tidemill_core::telemetry::events::ModelLoaded;
use tidemill_tasks::vision::Pixels;
use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_tasks::vision::segment::Scores;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use again::Again;
use answer::{Answer, Said};
pub use counts::Counts;
pub(crate) use counts::Tally;
use gather::Gatherer;
use infer::{Forward, Instance};

use crate::device::{Device, names};
use crate::labels::labels;
use crate::lost::Lost;
use crate::network::NetworkError;
use crate::precision::{self, Exact, Loaded};
use crate::threads::{OwnThread, PATIENCE};

/// How many batches may wait for each instance beside the one it is at: enough that it never waits for pixels.
const BATCHES_WAITING: usize = 2;

/// How many bytes may come out of a network at once: all of a batch's maps are in this machine's memory before the first is
/// somebody's.
const OUTPUT_BYTES: u64 = 256 << 20;

/// How a model is run.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// Where: on all of these, each with weights of its own.
    pub devices: Vec<Device>,
    /// In which precision; `None` for the best that the card allows there and that holds against fp32.
    pub precision: Option<Precision>,
    /// How many threads run the network on each device, each a batch of its own. Share the device's weights.
    pub instances: usize,
    /// How many threads libtorch uses inside one instance, on a CPU. `instances × threads` is best kept at or below the
    /// number of cores; many instances of one thread get the most done, one instance of many threads answers soonest.
    pub threads: usize,
    /// The most pictures in a batch; fewer where a network gives so much for each that 256 MiB would not hold it.
    pub max_batch: usize,
    /// How long the first picture of a batch may wait for others while its device is busy. Zero, which is best unless
    /// requests come one by one from few clients: whatever came while the last batch was computed is the next batch.
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
    /// The device is lost, with all that it was to compute.
    #[error("the device is lost: {0}")]
    Lost(String),
    /// The model was unloaded before it came to this picture.
    #[error("the model was unloaded")]
    Stopped,
}

/// A model at work. Dropping it waits for the batches being computed, some seconds at most: what takes longer keeps its
/// network until it is done.
#[derive(Debug)]
pub struct Model {
    card: Card,
    labels: Arc<[String]>,
    devices: Vec<Device>,
    precision: Precision,
    weight_bytes: u64,
    picture_bytes: usize,
    tally: Arc<Tally>,
    lost: Lost,
    capacity: Arc<Semaphore>,
    /// Places of those that go before others: a batch for each instance.
    first: Arc<Semaphore>,
    gatherer: Arc<Gatherer>,
    instances: Vec<OwnThread>,
}

/// One picture on its way.
#[derive(Debug)]
struct Request {
    pixels: Vec<u8>,
    priority: Priority,
    top: usize,
    arrived: Instant,
    /// Held by [`Model::ask`].
    /// The answer travels with the place, which is for whoever holds what is large in it.
    answer: oneshot::Sender<(Answer, OwnedSemaphorePermit)>,
    /// Its place among those that wait, are computed or hold maps.
    place: OwnedSemaphorePermit,
}

impl Model {
    /// Loads a card's network and starts its instances. Blocks while it loads.
    ///
    /// # Errors
    ///
    /// Those of [`Network::load`](crate::Network::load).
    pub fn start(card: Card, config: &InstanceConfig) -> Result<Self, NetworkError> {
        let tally = Arc::new(Tally::new(&card.name));
        Self::start_counting(card, config, tally, Lost::default())
    }

    /// As [`Model::start`]; counts with what counted for the model before, and tells where a device is lost.
    pub(crate) fn start_counting(
        card: Card,
        config: &InstanceConfig,
        tally: Arc<Tally>,
        lost: Lost,
    ) -> Result<Self, NetworkError> {
        let started = Instant::now();
        let mut precision = config.precision;
        let (mut weight_bytes, mut output_bytes) = (0, 0);
        let mut networks: Vec<(usize, Box<dyn Forward>)> = Vec::new();
        for (number, device) in config.devices.iter().enumerate() {
            let Loaded { network, exact } = precision::load(&card, *device, precision, config.threads)?;
            if number == 0 {
                let exact = exact.as_ref().map_or(0, |exact| exact.network.weight_bytes());
                (weight_bytes, output_bytes) = (network.weight_bytes() + exact, network.output_bytes());
            }
            // All devices give the same: what the first is good at.
            precision = Some(network.precision());
            for _ in 0..config.instances.max(1) {
                let quick = Box::new(network.clone());
                networks.push((
                    number,
                    match &exact {
                        None => quick,
                        Some(Exact { network, doubt }) => {
                            Box::new(Again { quick, exact: Box::new(network.clone()), doubt: *doubt })
                        }
                    },
                ));
            }
        }
        let no_device = || NetworkError::Torch { model: card.name.clone(), reason: "it is to run on no device".into() };
        let precision = precision.filter(|_| !networks.is_empty()).ok_or_else(no_device)?;
        let config = InstanceConfig { max_batch: fitting(config.max_batch, output_bytes), ..config.clone() };
        let mut model = Self::with(card, networks, &config, tally, lost)?;
        (model.precision, model.weight_bytes) = (precision, weight_bytes);
        ModelLoaded {
            model: &model.card.name,
            device: &names(&model.devices),
            precision: &precision.to_string(),
            instances: model.instances.len(),
            took: started.elapsed(),
        }
        .emit();
        Ok(model)
    }

    /// Starts an instance for each network, beside the number of its device.
    fn with(
        card: Card,
        networks: Vec<(usize, Box<dyn Forward>)>,
        config: &InstanceConfig,
        tally: Arc<Tally>,
        lost: Lost,
    ) -> Result<Self, NetworkError> {
        let labels = labels(&card)?.into();
        let gatherer = Arc::new(Gatherer::new(config.devices.len(), config.max_batch, config.max_delay));
        let places = networks.len() * config.max_batch.max(1);
        let mut model = Self {
            labels,
            devices: config.devices.clone(),
            precision: Precision::Fp32,
            weight_bytes: 0,
            picture_bytes: card.input.height as usize * card.input.width as usize * 3,
            tally,
            lost,
            capacity: Arc::new(Semaphore::new(places * (1 + BATCHES_WAITING))),
            first: Arc::new(Semaphore::new(places)),
            gatherer,
            instances: Vec::with_capacity(networks.len()),
            card,
        };
        for (number, (device, network)) in networks.into_iter().enumerate() {
            let on = model.devices[device].to_string();
            let (tally, lost) = (Arc::clone(&model.tally), model.lost.clone());
            let instance = Instance { network, device, on, tally, lost };
            let (gatherer, threads) = (Arc::clone(&model.gatherer), config.threads.max(1));
            let name = format!("{}-{number}", model.card.name);
            let started = OwnThread::start(name, move || instance.run(&gatherer, threads));
            // Those that were started end with the model.
            model.instances.push(started.map_err(|error| NetworkError::NoThread {
                model: model.card.name.clone(),
                reason: error.to_string(),
            })?);
        }
        Ok(model)
    }

    /// Returns the `top` most probable classes of a picture, most probable first.
    ///
    /// Waits while as many pictures as the instances can use are on their way already, so memory stays bounded however many
    /// tasks call it; pictures of a priority go before those of a lower one. Dropping the future is safe: a picture that
    /// nobody waits for any more is passed over.
    ///
    /// # Shape
    ///
    /// `pixels`: `height × width × 3` bytes of the card's input, row by row, channels in the card's order.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongSize`] at once; [`ModelError::Failed`] where the network fails on this picture. That others
    /// of the same batch fail does no harm to this one.
    pub async fn classify(&self, pixels: impl Into<Pixels>, top: usize) -> Result<Vec<Scored>, ModelError> {
        match self.ask(pixels.into(), top).await?.0 {
            Said::Classes(classes) => Ok(classes),
            Said::Maps(_) => Err(ModelError::Failed("its task is to segment".to_owned())),
        }
    }

    /// Returns what the network says of each place of a picture, and the picture's place among those on their way, which is
    /// to be kept as long as the maps. As with [`Model::classify`] otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`Model::classify`].
    pub async fn segment(&self, pixels: impl Into<Pixels>) -> Result<(Scores, OwnedSemaphorePermit), ModelError> {
        match self.ask(pixels.into(), 1).await? {
            (Said::Maps(scores), place) => Ok((scores, place)),
            (Said::Classes(_), _) => Err(ModelError::Failed("its task is to classify".to_owned())),
        }
    }

    async fn ask(
        &self,
        Pixels { data: pixels, priority, .. }: Pixels,
        top: usize,
    ) -> Result<(Said, OwnedSemaphorePermit), ModelError> {
        if pixels.len() != self.picture_bytes {
            return Err(ModelError::WrongSize { expected: self.picture_bytes, found: pixels.len() });
        }
        let answered = async {
            let places = if priority > Priority::default() { &self.first } else { &self.capacity };
            let place = Arc::clone(places).acquire_owned().await.map_err(|_| ModelError::Stopped)?;
            let (answer, answered) = oneshot::channel();
            self.gatherer.push(Request { pixels, priority, top, arrived: Instant::now(), answer, place });
            let (answer, place) = answered.await.map_err(|_| ModelError::Stopped)?;
            Ok((answer?, place))
        };
        tokio::select! {
            biased;
            // Where the device is lost its instance ends, and what it was asked after that is not answered.
            answered = answered => match answered {
                Err(ModelError::Stopped) if self.lost.is_told() => Err(ModelError::Lost(self.lost.told().await)),
                answered => answered,
            },
            reason = self.lost.told() => Err(ModelError::Lost(reason)),
        }
    }

    /// Returns the card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Returns the classes' names, by class number.
    pub fn labels(&self) -> &Arc<[String]> {
        &self.labels
    }

    /// Returns the precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns how many bytes the weights take on each device, which its instances share.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Returns what was done so far.
    pub fn counts(&self) -> Counts {
        self.tally.read()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.gatherer.close();
        let moment = Instant::now() + PATIENCE;
        for instance in self.instances.drain(..) {
            instance.end_by(moment);
        }
    }
}

/// How many pictures go through a network together that gives so many bytes for each: one at least.
pub(crate) fn fitting(max_batch: usize, output_bytes: u64) -> usize {
    let most = OUTPUT_BYTES / output_bytes.max(1);
    max_batch.min(usize::try_from(most).unwrap_or(usize::MAX)).max(1)
}

/// Locks a mutex whose holders leave nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
