//! The network that learns.

use std::collections::HashMap;
use std::path::Path;

use tch::nn::VarStore;
use tch::{Kind, TchError, Tensor};
use tidemill_core::failure::Failure;
use tidemill_tasks::vision::card::{Architecture, Card, Precision};
use tidemill_tasks::vision::train::{Batch, Recipe, Size};

use super::checkpoint::plain;
use super::{failed, untrained};
use crate::device::Device;
use crate::network::{Layers, Normalise, fcn32s, make, weights};
use crate::{sys, torch};

/// Outputs of a backbone that stays as it is are kept up to this, so that they are computed once and not in every epoch.
const KEPT_BYTES: usize = 1 << 30;

/// The names of a backbone's variables begin so.
const FEATURES: &str = "features.";

/// A network, with what comes before it.
pub(super) struct Trainee {
    store: VarStore,
    /// Layers that stay as they are.
    backbone: Option<Layers>,
    layers: Layers,
    normalise: Normalise,
    size: Size,
    device: tch::Device,
    /// What the backbone gave for pictures that never change, by place.
    kept: HashMap<usize, Tensor>,
    kept_bytes: usize,
}

impl Trainee {
    /// Makes a card's network, with random weights that follow from the recipe's seed.
    pub(super) fn new(card: &Card, recipe: &Recipe, device: Device) -> Result<Self, Failure> {
        tch::manual_seed(recipe.seed.cast_signed());
        let architecture = card.network.architecture;
        let size = Size { width: card.input.width, height: card.input.height };
        let classes = i64::from(card.output.classes);
        let normalise = Normalise::new(&card.input, true, device, Precision::Fp32).map_err(failed)?;
        let device = torch::device(device);
        // Made on the CPU: there a seed gives the same numbers on every machine.
        let mut store = VarStore::new(tch::Device::Cpu);
        let root = store.root();
        let (backbone, layers): (Option<Layers>, Layers) = match architecture {
            Architecture::Fcn32sVgg19 => {
                let head = fcn32s::head(&root, i64::from(recipe.head), classes);
                let features = fcn32s::features(&root);
                if recipe.freeze {
                    (Some(Box::new(features)), Box::new(head))
                } else {
                    (None, Box::new(features.add(head)))
                }
            }
            _ => {
                let sides = [i64::from(size.height), i64::from(size.width)];
                let made = make(architecture, &root, sides, classes, &weights::Tensors::new());
                (None, made.map_err(|what| Failure::permanent("architecture", what))?)
            }
        };
        store.set_device(device);
        Ok(Self { store, backbone, layers, normalise, size, device, kept: HashMap::new(), kept_bytes: 0 })
    }

    /// Takes what fits out of a file of weights; what its names lack or have in another shape stays random.
    ///
    /// # Errors
    ///
    /// Where nothing fits, or a part of a backbone is missing.
    pub(super) fn begin_with(&self, file: &Path) -> Result<(), Failure> {
        let refused = |what: String| Failure::permanent("weights", format!("weights: {}: {what}", file.display()));
        let mut tensors = weights::read(file).map_err(|error| refused(torch::reason(&error)))?;
        let _no_grad = tch::no_grad_guard();
        let (mut taken, mut missing) = (0, Vec::new());
        for (name, variable) in self.store.variables() {
            match tensors.remove(&name).filter(|tensor| tensor.size() == variable.size()) {
                Some(tensor) => {
                    variable.shallow_clone().f_copy_(&tensor).map_err(failed)?;
                    taken += 1;
                }
                None => missing.push(name),
            }
        }
        missing.sort();
        if let Some(name) = missing.iter().find(|name| name.starts_with(FEATURES) && self.backbone.is_some()) {
            return Err(refused(format!("it has no {name} of the shape that the network's has")));
        }
        if taken == 0 {
            return Err(refused("it has nothing of the names and shapes that the network has".to_owned()));
        }
        tracing::info!(taken, random = missing.len(), "weights to begin with");
        Ok(())
    }

    /// Fills every variable from a file that [`Trainee::save`] wrote.
    pub(super) fn load(&self, file: &Path) -> Result<(), Failure> {
        let refused = |what: String| Failure::permanent("checkpoint", format!("{}: {what}", file.display()));
        let tensors = weights::read(file).map_err(|error| refused(torch::reason(&error)))?;
        weights::fill(&self.store, tensors).map_err(|unfit| refused(unfit.what))
    }

    /// Writes every variable to a file of safetensors.
    pub(super) fn save(&self, file: &Path) -> Result<(), String> {
        let tensors = self.store.variables().into_iter().map(|(name, variable)| Ok((name, plain(&variable)?)));
        let tensors = tensors.collect::<Result<Vec<_>, TchError>>().map_err(|error| torch::reason(&error))?;
        Tensor::write_safetensors(&tensors, file).map_err(|error| torch::reason(&error))
    }

    /// Fills a backbone for which there are no trained weights, by some pictures: see [`untrained`].
    pub(super) fn settle(&self, batch: &Batch) -> Result<(), TchError> {
        let input = self.input(batch)?;
        untrained::settle(&self.store.variables(), &input)
    }

    /// Lays the weights out as pictures are, channels last, and says which of them learn.
    pub(super) fn ready(&self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        for (name, variable) in self.store.variables() {
            let mut variable = variable.shallow_clone();
            if variable.dim() == 4 {
                variable.set_data(&torch::channels_last(&variable.f_detach()?)?);
            }
            if self.backbone.is_some() && name.starts_with(FEATURES) {
                drop(variable.f_set_requires_grad(false)?);
            }
        }
        Ok(())
    }

    /// The variables that learning changes, by name: weights, and the statistics of normalisations.
    pub(super) fn variables(&self) -> HashMap<String, Tensor> {
        let mut variables = self.store.variables();
        variables.retain(|name, _| self.backbone.is_none() || !name.starts_with(FEATURES));
        variables
    }

    /// Whether layers are normalised by the mean and the variance of a batch, so that one picture alone says nothing.
    pub(super) fn normalises_batches(&self) -> bool {
        self.variables().keys().any(|name| name.ends_with("running_var"))
    }

    /// The weights that the optimiser moves, by name, in the order of their names.
    pub(super) fn weights(&self) -> Vec<(String, Tensor)> {
        let mut weights: Vec<_> =
            self.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
        weights.sort_by(|(one, _), (other, _)| one.cmp(other));
        weights
    }

    /// Computes what the network says of a batch. Where pictures never change (`is_fixed`), the backbone sees each once.
    ///
    /// # Shape
    ///
    /// out: `[n, classes]`, or `[n, classes, h, w]` to segment; logits
    pub(super) fn forward(&mut self, batch: &Batch, learns: bool, is_fixed: bool) -> Result<Tensor, TchError> {
        torch::alive()?;
        let input = match &self.backbone {
            None => self.input(batch)?,
            Some(_) if is_fixed => self.features_once(batch)?,
            Some(backbone) => {
                let input = self.input(batch)?;
                as_it_is(backbone, &input)?
            }
        };
        // The library's layers panic where libtorch refuses, most often because there is no memory: that may pass.
        torch::caught(|| self.layers.forward_t(&input, learns))
    }

    /// The backbone's outputs: those that are kept, or else computed and, as far as there is room, kept.
    fn features_once(&mut self, batch: &Batch) -> Result<Tensor, TchError> {
        let kept: Vec<&Tensor> = batch.places.iter().filter_map(|place| self.kept.get(place)).collect();
        if kept.len() == batch.places.len() {
            return Tensor::f_stack(&kept, 0);
        }
        let input = self.input(batch)?;
        let Some(backbone) = &self.backbone else { return Ok(input) };
        let features = as_it_is(backbone, &input)?;
        for (place, feature) in batch.places.iter().zip(0..) {
            let feature = features.f_get(feature)?.f_detach_copy()?;
            let bytes = feature.numel() * feature.kind().elt_size_in_bytes();
            if self.kept_bytes + bytes <= KEPT_BYTES && self.kept.insert(*place, feature).is_none() {
                self.kept_bytes += bytes;
            }
        }
        Ok(features)
    }

    /// A batch's pixels as the layers take them: exactly as when the model is used.
    fn input(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let shape = [batch.places.len() as i64, i64::from(self.size.height), i64::from(self.size.width)];
        // Copied on the CPU too: the layers may keep it for the way back, and the bytes go with the batch.
        let pixels = sys::with_pixels(&batch.pixels, shape, |pixels| match self.device {
            tch::Device::Cpu => pixels.f_detach_copy(),
            device => pixels.f_to_device(device),
        })?;
        self.normalise.apply(&pixels)
    }

    /// What should be said of a batch, on the device.
    ///
    /// # Shape
    ///
    /// out: `[n]`, or `[n, h, w]` to segment; `i64`
    pub(super) fn target(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let target = if batch.masks.is_empty() {
            Tensor::f_from_slice(&batch.classes)?
        } else {
            let shape = [batch.places.len() as i64, i64::from(self.size.height), i64::from(self.size.width)];
            Tensor::f_from_slice(&batch.masks)?.f_view(shape)?
        };
        target.f_to_device(self.device)?.f_to_kind(Kind::Int64)
    }
}

/// What layers give that do not learn.
fn as_it_is(layers: &Layers, input: &Tensor) -> Result<Tensor, TchError> {
    torch::caught(|| {
        // A guard, which goes where it panics as well.
        let _no_grad = tch::no_grad_guard();
        layers.forward_t(input, false)
    })
}
