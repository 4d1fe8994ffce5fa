//! The engine behind the vision tasks: a classifier for each model, started when it is first asked for. `compute.map` runs
//! its expressions through it, too.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tidemill_core::compute::available_cores;
use tidemill_core::failure::{Failure, chain};
use tidemill_core::settings::{self, VisionSettings};
use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_tasks::vision::{Engine, Label};
use tokio::sync::OnceCell;

use crate::classifier::{Classifier, ClassifyError, InstanceConfig};
use crate::device::{Device, DeviceChoice};
use crate::map::Mapper;
use crate::sys;

/// A classifier, or why there is none.
type Loaded = Result<Arc<Classifier>, String>;

/// Runs networks and expressions through libtorch.
#[derive(Debug)]
pub struct Torch {
    config: InstanceConfig,
    /// By the card's folder: two folders may hold models of one name.
    classifiers: Mutex<HashMap<PathBuf, Arc<OnceCell<Loaded>>>>,
    mapper: Mapper,
}

impl Torch {
    /// Chooses the device. To be called before any thread is started.
    ///
    /// # Errors
    /// Where the device that was asked for is not there.
    pub fn start(settings: &VisionSettings) -> Result<Self, String> {
        let choice = match settings.device {
            settings::Device::Auto => DeviceChoice::Auto,
            settings::Device::Cpu => DeviceChoice::Cpu,
            settings::Device::Cuda(index) => DeviceChoice::Cuda(index as usize),
        };
        // Whatever the networks run on, a batch of compute.map may ask for CUDA later, when it can no longer be loaded.
        // Where it is not there, that batch is told.
        if let Err(reason) = sys::load_cuda() {
            tracing::debug!(reason, "no CUDA");
        }
        let device = choice.resolve().map_err(|error| error.to_string())?;
        let (instances, threads) = share_cores(device, settings.instances, settings.threads);
        let precision = match settings.precision {
            settings::Precision::Auto => None,
            settings::Precision::Fp32 => Some(Precision::Fp32),
            settings::Precision::Bf16 => Some(Precision::Bf16),
            settings::Precision::Fp16 => Some(Precision::Fp16),
        };
        let (max_batch, max_delay) = (settings.max_batch, settings.max_delay);
        let config = InstanceConfig { device, precision, instances, threads, max_batch, max_delay };
        Ok(Self { config, classifiers: Mutex::default(), mapper: Mapper::default() })
    }

    async fn classifier(&self, card: &Card) -> Result<Arc<Classifier>, Failure> {
        let cell = {
            let mut classifiers = self.classifiers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(classifiers.entry(card.folder().to_owned()).or_default())
        };
        let load = || async {
            let (card, config) = (card.clone(), self.config);
            match tokio::task::spawn_blocking(move || Classifier::start(card, config)).await {
                Ok(Ok(classifier)) => Ok(Arc::new(classifier)),
                Ok(Err(error)) => Err(chain(&error)),
                Err(panicked) => Err(format!("loading it panicked: {panicked}")),
            }
        };
        // A model that cannot be loaded now cannot be loaded for the next item either.
        cell.get_or_init(load).await.clone().map_err(|reason| Failure::permanent("model", reason))
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
        let classifier = self.classifier(card).await?;
        let scored = classifier.classify(pixels, top).await.map_err(|error| match &error {
            ClassifyError::WrongSize { .. } => Failure::invalid_input(error.to_string()),
            // Memory that another batch held may be free by then.
            ClassifyError::Failed(_) | ClassifyError::Stopped => Failure::transient("network", error.to_string()),
        })?;
        let name = |class: u32| classifier.labels().get(class as usize).cloned().unwrap_or_else(|| class.to_string());
        Ok(scored.iter().map(|one| Label { label: name(one.class), probability: one.probability }).collect())
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
