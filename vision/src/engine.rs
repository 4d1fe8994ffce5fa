//! The engine behind the vision tasks: models, each started when it is first asked for and unloaded when others need its
//! room. `compute.map` runs its expressions through it, too.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tidemill_core::broker::NetworkWork;
use tidemill_core::compute::available_cores;
use tidemill_core::failure::{Failure, chain};
use tidemill_core::settings::{self, VisionSettings};
use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_tasks::vision::train::{Output, Training};
use tidemill_tasks::vision::{Engine, Label, Pixels, Segmented};

use crate::device::{self, Device, DeviceError};
use crate::lost::Lost;
use crate::map::Mapper;
use crate::model::{InstanceConfig, Model, ModelError, Tally};
use crate::network::{NetworkError, usable_precisions};
use crate::shelf::{InUse, Shelf};
use crate::threads::AtWork;
use crate::train::Conditions;
use crate::trainer::Trainer;
use crate::{sys, torch};

/// Copies of a network on a GPU: one batch is put together, and another's answers are read, while the device computes. The
/// device itself takes them in turn: all are in its one stream.
const INSTANCES_ON_A_GPU: usize = 2;
/// Pictures that go through together: what fills a core, and what begins to fill a GPU.
const BATCH_ON_A_CPU: usize = 8;
const BATCH_ON_A_GPU: usize = 64;

/// Runs networks and expressions through libtorch.
#[derive(Debug)]
pub struct Torch {
    config: Arc<InstanceConfig>,
    /// By the card's folder, as two folders may hold models of one name, and its digest, as a card may change.
    models: Shelf<(PathBuf, String), Model>,
    /// By the model's name; they outlive its being unloaded.
    done: Mutex<BTreeMap<String, Done>>,
    lost: Lost,
    mapper: Mapper,
    trainer: Trainer,
}

/// What a model has done, and what it computes with.
#[derive(Debug)]
struct Done {
    tally: Arc<Tally>,
    /// None before it is loaded.
    precision: Option<Precision>,
}

impl Torch {
    /// Chooses the devices. To be called before any thread is started.
    ///
    /// # Errors
    /// Where a device that was asked for is not there, or where more threads are asked for than there are cores.
    pub fn start(settings: &VisionSettings) -> Result<Self, String> {
        // Whatever the networks run on, a batch of compute.map may ask for CUDA later, when it can no longer be loaded.
        // Where it is not there, that batch is told.
        if let Err(reason) = sys::load_cuda() {
            tracing::debug!(reason, "no CUDA");
        }
        let models = Shelf::new(settings.model_memory_bytes);
        let config = Arc::new(config(settings)?);
        // One training has all cores of the first device.
        let device = first_device(settings)?;
        let threads = if settings.threads == 0 { available_cores() } else { settings.threads };
        let lost = Lost::default();
        let trainer = Trainer::new(Conditions { device, threads, settings: settings.clone() }, lost.clone());
        Ok(Self { config, models, done: Mutex::default(), lost, mapper: Mapper::default(), trainer })
    }

    /// The model of a card, loaded if need be.
    async fn model(&self, card: &Card) -> Result<InUse<Model>, Failure> {
        let key = (card.folder().to_owned(), card.digest().to_owned());
        let (tally, lost) = (self.tally(&card.name), self.lost.clone());
        let (card, config) = (Arc::new(card.clone()), Arc::clone(&self.config));
        let look = {
            let (card, config) = (Arc::clone(&card), Arc::clone(&config));
            move || thought(&card, &config)
        };
        let load = move || load(&card, &config, tally, &lost);
        let model = self.models.get(&key, look, load).await?;
        if let Some(done) = self.done().get_mut(&model.card().name) {
            done.precision = Some(model.precision());
        }
        Ok(model)
    }

    /// The model of a card, for a picture. Where a device is lost there is none: the picture is not answered any more.
    async fn model_for_picture(&self, card: &Card) -> Result<InUse<Model>, Failure> {
        match self.model(card).await {
            Err(_) if self.lost.is_told() => std::future::pending().await,
            model => model,
        }
    }

    fn tally(&self, model: &str) -> Arc<Tally> {
        let mut all = self.done();
        let new = || Done { tally: Arc::new(Tally::new(model)), precision: None };
        Arc::clone(&all.entry(model.to_owned()).or_insert_with(new).tally)
    }

    fn done(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The failure for an error. Where a device is lost there is none: the picture is not answered any more.
    async fn failure(&self, error: ModelError) -> Failure {
        match &error {
            ModelError::WrongSize { .. } => Failure::invalid_input(error.to_string()),
            ModelError::Lost(_) => std::future::pending().await,
            // Memory that another batch held may be free by then.
            ModelError::Failed(_) | ModelError::Stopped => Failure::transient("network", error.to_string()),
        }
    }
}

/// How many bytes a model is thought to take that was never loaded: as many as its file has, which is mostly in fp32, or half
/// of them where a GPU is to run it in half precision. On a CPU some are there in both.
///
/// # Errors
/// Where the file is not there, or is another one than the card means.
fn thought(card: &Card, config: &InstanceConfig) -> Result<u64, Failure> {
    card.verify().map_err(|error| Failure::permanent("model", chain(&error)))?;
    let bytes = std::fs::metadata(card.network_path()).map_or(0, |file| file.len());
    let is_half = |device: &Device| {
        let precision = config.precision.unwrap_or_else(|| usable_precisions(card, *device)[0]);
        *device != Device::Cpu && precision != Precision::Fp32
    };
    Ok(if config.devices.first().is_some_and(is_half) { bytes / 2 } else { bytes })
}

/// Loads a model; the second is how many bytes it takes. Where a device is found to be lost, that is told.
///
/// # Errors
/// One that may pass where memory or a thread was lacking, which others held.
fn load(card: &Card, config: &InstanceConfig, tally: Arc<Tally>, lost: &Lost) -> Result<(Model, u64), Failure> {
    let _at_work = AtWork::begin();
    // The library's layers panic where libtorch refuses. Nothing half done is seen again: it is dropped.
    let start = AssertUnwindSafe(|| Model::start_counting(card.clone(), config, tally, lost.clone()));
    let error = match catch_unwind(start) {
        Ok(Ok(model)) => {
            let bytes = model.weight_bytes();
            return Ok((model, bytes));
        }
        Ok(Err(error)) => error,
        Err(panic) => NetworkError::Torch { model: card.name.clone(), reason: torch::panicked(&*panic) },
    };
    let reason = chain(&error);
    if error.is_transient() {
        return Err(Failure::transient("model", reason));
    }
    if !matches!(error, NetworkError::Card(_))
        && let Some(device) = config.devices.iter().find(|device| is_dead(**device))
    {
        lost.tell(&format!("{device}: {reason}"));
    }
    Err(Failure::permanent("model", reason))
}

/// Whether a device answers nothing any more; one without memory does.
pub(crate) fn is_dead(device: Device) -> bool {
    torch::probe(device).is_err_and(|error| !torch::is_about_memory(&torch::reason(&error)))
}

/// How models are run, by the settings.
///
/// # Errors
/// In words for people.
pub(crate) fn config(settings: &VisionSettings) -> Result<InstanceConfig, String> {
    let devices = device::devices(&settings.device).map_err(|error| error.to_string())?;
    let is_gpu = devices.iter().any(|device| *device != Device::Cpu);
    let (instances, threads) = if is_gpu {
        (if settings.instances == 0 { INSTANCES_ON_A_GPU } else { settings.instances }, 1)
    } else {
        share_cores(available_cores(), settings.instances, settings.threads)?
    };
    let max_batch = match settings.max_batch {
        0 if is_gpu => BATCH_ON_A_GPU,
        0 => BATCH_ON_A_CPU,
        most => most,
    };
    let precision = match settings.precision {
        settings::Precision::Auto => None,
        settings::Precision::Fp32 => Some(Precision::Fp32),
        settings::Precision::Bf16 => Some(Precision::Bf16),
        settings::Precision::Fp16 => Some(Precision::Fp16),
    };
    Ok(InstanceConfig { devices, precision, instances, threads, max_batch, max_delay: settings.max_delay })
}

/// The first of the devices that the settings ask for.
///
/// # Errors
/// Where it is not there.
pub(crate) fn first_device(settings: &VisionSettings) -> Result<Device, String> {
    device::first(&settings.device).map_err(|error| error.to_string())
}

/// Instances and threads in each on the CPU: one instance of one thread per core gets the most done. Never more threads
/// than cores: they would only take turns.
fn share_cores(cores: usize, instances: usize, threads: usize) -> Result<(usize, usize), String> {
    let (all, each) = match (instances, threads) {
        (0, 0) => (cores, 1),
        (0, threads) => ((cores / threads).max(1), threads),
        (instances, 0) => (instances, (cores / instances).max(1)),
        both => both,
    };
    if all.saturating_mul(each) <= cores {
        return Ok((all, each));
    }
    Err(format!(
        "vision.instances and vision.threads ask for {all} × {each} threads, and this process may use {cores} cores\n\
         set one of them to 0, and it is chosen to fit"
    ))
}

#[async_trait]
impl Engine for Torch {
    async fn classify(&self, card: &Card, pixels: Pixels, top: usize) -> Result<Vec<Label>, Failure> {
        let model = self.model_for_picture(card).await?;
        self.tally(&card.name).prepared(pixels.took);
        let scored = match model.classify(pixels, top).await {
            Ok(scored) => scored,
            Err(error) => return Err(self.failure(error).await),
        };
        let name = |class: u32| model.labels().get(class as usize).cloned().unwrap_or_else(|| class.to_string());
        Ok(scored.iter().map(|one| Label { label: name(one.class), probability: one.probability }).collect())
    }

    async fn segment(&self, card: &Card, pixels: Pixels) -> Result<Segmented, Failure> {
        let model = self.model_for_picture(card).await?;
        self.tally(&card.name).prepared(pixels.took);
        match model.segment(pixels).await {
            Ok((scores, place)) => Ok(Segmented { labels: Arc::clone(model.labels()), scores, place: Box::new(place) }),
            Err(error) => Err(self.failure(error).await),
        }
    }

    async fn load(&self, card: &Card) -> Result<(), Failure> {
        self.model(card).await.map(drop)
    }

    async fn train(&self, training: Training) -> Result<Output, Failure> {
        match self.trainer.train(training).await {
            // As with pictures: it goes on from its last epoch, where a device is left to it.
            Err(_) if self.lost.is_told() => std::future::pending().await,
            trained => trained,
        }
    }

    fn map(&self, expression: &str, device: &str, xs: &[f64]) -> Result<Vec<f64>, Failure> {
        let asked = device.parse::<settings::Device>().map_err(|_| DeviceError::Unknown(device.to_owned()));
        let device = asked
            .and_then(|asked| device::first(&asked))
            .map_err(|error| Failure::permanent("device", error.to_string().replace('\n', "; ")))?;
        let mapped = self.mapper.map(expression, device, xs);
        if let Err(failure) = &mapped
            && failure.kind == "device"
            && is_dead(device)
        {
            self.lost.tell(&failure.message);
            // As with pictures there is no answer any more: who holds the chunk gives it back, and the process ends, this
            // thread with it.
            loop {
                std::thread::park();
            }
        }
        mapped
    }

    fn device(&self) -> String {
        device::names(&self.config.devices)
    }

    fn work(&self) -> Vec<NetworkWork> {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let work = |(model, done): (&String, &Done)| {
            let counts = done.tally.read();
            NetworkWork {
                model: model.clone(),
                device: self.device(),
                precision: done.precision.map(|precision| precision.to_string()).unwrap_or_default(),
                items: counts.pictures,
                failures: counts.failures,
                executions: counts.executions,
                queue_ms: millis(counts.queue),
                input_ms: millis(counts.input),
                compute_ms: millis(counts.compute),
                output_ms: millis(counts.output),
            }
        };
        self.done().iter().map(work).collect()
    }

    async fn lost(&self) -> String {
        self.lost.told().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_tasks::vision::card::{Precisions, Question, sha256_of};

    use super::*;

    #[test]
    fn a_model_is_thought_to_take_its_file_or_half_of_it_and_another_file_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("mine");
        std::fs::create_dir(&folder).unwrap();
        let weights = folder.join("weights.pt");
        std::fs::write(&weights, [7_u8; 100]).unwrap();
        let mut card = Card::draft("mine", Question::Classify);
        (card.network.file, card.network.sha256) = ("weights.pt".to_owned(), sha256_of(&weights).unwrap());
        card.precision = Precisions { cpu: vec![Precision::Bf16], cuda: vec![Precision::Fp16, Precision::Fp32] };
        let card = card.write(&folder).unwrap();
        let bytes = |device, precision| {
            let (instances, threads, max_batch, max_delay) = (1, 1, 1, Duration::ZERO);
            let config = InstanceConfig { devices: vec![device], precision, instances, threads, max_batch, max_delay };
            thought(&card, &config)
        };

        for (device, precision, expected) in [
            (Device::Cpu, None, 100),
            (Device::Cpu, Some(Precision::Bf16), 100),
            (Device::Cuda(0), None, 50),
            (Device::Cuda(0), Some(Precision::Bf16), 50),
            (Device::Cuda(0), Some(Precision::Fp32), 100),
        ] {
            assert_eq!(bytes(device, precision), Ok(expected), "{precision:?} on {device}");
        }
        std::fs::write(&weights, b"others").unwrap();
        let refused = bytes(Device::Cpu, None).unwrap_err();
        assert!(!refused.retryable && refused.message.contains("network.sha256"), "{refused}");
    }

    #[test]
    fn instances_times_threads_are_within_the_cores_or_refused() {
        for (cores, asked, shared) in
            [(8, (0, 0), (8, 1)), (8, (0, 3), (2, 3)), (8, (2, 0), (2, 4)), (8, (2, 3), (2, 3)), (1, (0, 0), (1, 1))]
        {
            assert_eq!(share_cores(cores, asked.0, asked.1), Ok(shared), "{asked:?} on {cores}");
        }
        for asked in [(5, 0), (2, 3), (0, 5), (usize::MAX, 2)] {
            let refused = share_cores(4, asked.0, asked.1).unwrap_err();
            assert!(refused.contains("this process may use 4 cores\nset one of them to 0"), "{refused}");
        }
    }
}
