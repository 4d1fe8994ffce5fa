//! The engine behind the vision tasks: models, each started when it is first asked for and unloaded when others need its
//! room. `compute.map` runs its expressions through it, too.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_core::compute::available_cores;
use tidemill_core::failure::{Failure, chain};
use tidemill_core::settings::{self, VisionSettings};
use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_tasks::vision::segment::Scores;
use tidemill_tasks::vision::train::{Output, Training};
use tidemill_tasks::vision::{Engine, Label};

use crate::device::{Device, DeviceChoice};
use crate::map::Mapper;
use crate::model::{InstanceConfig, Model, ModelError};
use crate::shelf::{InUse, Shelf};
use crate::sys;
use crate::train::Conditions;
use crate::trainer::Trainer;

/// Runs networks and expressions through libtorch.
#[derive(Debug)]
pub struct Torch {
    config: InstanceConfig,
    /// By the card's folder, as two folders may hold models of one name, and its digest, as a card may change.
    models: Shelf<(PathBuf, String), Model>,
    mapper: Mapper,
    trainer: Trainer,
}

impl Torch {
    /// Chooses the device. To be called before any thread is started.
    ///
    /// # Errors
    /// Where the device that was asked for is not there.
    pub fn start(settings: &VisionSettings) -> Result<Self, String> {
        // Whatever the networks run on, a batch of compute.map may ask for CUDA later, when it can no longer be loaded.
        // Where it is not there, that batch is told.
        if let Err(reason) = sys::load_cuda() {
            tracing::debug!(reason, "no CUDA");
        }
        let device = device(settings)?;
        let (instances, threads) = share_cores(device, settings.instances, settings.threads);
        let precision = match settings.precision {
            settings::Precision::Auto => None,
            settings::Precision::Fp32 => Some(Precision::Fp32),
            settings::Precision::Bf16 => Some(Precision::Bf16),
            settings::Precision::Fp16 => Some(Precision::Fp16),
        };
        let (max_batch, max_delay) = (settings.max_batch, settings.max_delay);
        let config = InstanceConfig { device, precision, instances, threads, max_batch, max_delay };
        // One training has all cores.
        let (_, threads) = share_cores(device, 1, settings.threads);
        let trainer = Trainer::new(Conditions { device, threads, settings: settings.clone() });
        let models = Shelf::new(settings.model_memory_bytes);
        Ok(Self { config, models, mapper: Mapper::default(), trainer })
    }

    /// The model of a card, loaded if need be.
    async fn model(&self, card: &Card) -> Result<InUse<Model>, Failure> {
        let key = (card.folder().to_owned(), card.network.sha256.clone());
        let thought = std::fs::metadata(card.network_path()).map_or(0, |file| file.len());
        let (card, config) = (card.clone(), self.config);
        let load = move || {
            let model = Model::start(card, config).map_err(|error| chain(&error))?;
            let bytes = model.weight_bytes();
            Ok((model, bytes))
        };
        self.models.get(&key, thought, load).await.map_err(|reason| Failure::permanent("model", reason))
    }
}

/// The device that the settings ask for.
///
/// # Errors
/// Where it is not there.
pub(crate) fn device(settings: &VisionSettings) -> Result<Device, String> {
    let choice = match settings.device {
        settings::Device::Auto => DeviceChoice::Auto,
        settings::Device::Cpu => DeviceChoice::Cpu,
        settings::Device::Cuda(index) => DeviceChoice::Cuda(index as usize),
    };
    choice.resolve().map_err(|error| error.to_string())
}

fn failure(error: ModelError) -> Failure {
    match &error {
        ModelError::WrongSize { .. } => Failure::invalid_input(error.to_string()),
        // Memory that another batch held may be free by then.
        ModelError::Failed(_) | ModelError::Stopped => Failure::transient("network", error.to_string()),
    }
}

/// Instances and threads in each: on a CPU, one instance of one thread per core gets the most done.
fn share_cores(device: Device, instances: usize, threads: usize) -> (usize, usize) {
    let cores = if device == Device::Cpu { available_cores() } else { 1 };
    match (instances, threads) {
        (0, 0) => (cores, 1),
        (0, threads) => ((cores / threads).max(1), threads),
        (instances, 0) => (instances, (cores / instances).max(1)),
        both => both,
    }
}

#[async_trait]
impl Engine for Torch {
    async fn classify(&self, card: &Card, pixels: Vec<u8>, top: usize) -> Result<Vec<Label>, Failure> {
        let model = self.model(card).await?;
        let scored = model.classify(pixels, top).await.map_err(failure)?;
        let name = |class: u32| model.labels().get(class as usize).cloned().unwrap_or_else(|| class.to_string());
        Ok(scored.iter().map(|one| Label { label: name(one.class), probability: one.probability }).collect())
    }

    async fn segment(&self, card: &Card, pixels: Vec<u8>) -> Result<(Arc<[String]>, Scores), Failure> {
        let model = self.model(card).await?;
        let scores = model.segment(pixels).await.map_err(failure)?;
        Ok((Arc::clone(model.labels()), scores))
    }

    async fn train(&self, training: Training) -> Result<Output, Failure> {
        self.trainer.train(training).await
    }

    fn map(&self, expression: &str, device: &str, xs: &[f64]) -> Result<Vec<f64>, Failure> {
        let device = device
            .parse()
            .and_then(DeviceChoice::resolve)
            .map_err(|error| Failure::permanent("device", error.to_string().replace('\n', "; ")))?;
        self.mapper.map(expression, device, xs)
    }

    fn device(&self) -> String {
        self.config.device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_times_threads_stay_within_the_cores() {
        let cores = available_cores();
        for (instances, threads) in [(0, 0), (1, 0), (0, 1), (0, 2)] {
            let (instances, threads) = share_cores(Device::Cpu, instances, threads);
            assert!(instances >= 1 && threads >= 1);
            assert!(instances * threads <= cores.max(threads), "{instances} × {threads} on {cores} cores");
        }
        assert_eq!(share_cores(Device::Cpu, 3, 2), (3, 2), "what was asked for is done");
    }
}
