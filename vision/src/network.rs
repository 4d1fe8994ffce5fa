//! Networks: pixels in, probabilities out.

mod alexnet;
mod builtin;
mod cifar10;
mod conv;
mod densenet;
mod efficientnet;
mod efficientnet_lite0;
pub(crate) mod fcn32s;
mod normalise;
mod state_dict;
mod torchscript;
mod vgg;
pub(crate) mod weights;

use std::path::Path;
use std::sync::Arc;

use tch::nn::VarStore;
use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::card::{Activation, Architecture, Card, CardError, Precision, Question};

use crate::device::{self, Device};
use crate::sys::{self, ReadOnly};
use crate::torch;
use builtin::Builtin;
pub(crate) use builtin::{Layers, make, size_fits};
pub(crate) use cifar10::LEAST;
use efficientnet_lite0::EfficientNetLite0;
pub(crate) use normalise::Normalise;
use torchscript::TorchScript;

/// A loaded network that fits its card. A clone, for another instance, runs over the same weights.
#[derive(Debug, Clone)]
pub struct Network {
    parts: Arc<ReadOnly<Parts>>,
    activation: Activation,
    device: Device,
    precision: Precision,
    size: [i64; 2],
    classes: i64,
    question: Question,
    output_bytes: u64,
}

/// What pictures go through. Several threads may be at it at once.
#[derive(Debug)]
struct Parts {
    normalise: Normalise,
    layers: Kept,
}

#[derive(Debug)]
enum Kept {
    Builtin(Builtin),
    EfficientNetLite0(Box<EfficientNetLite0>),
    TorchScript(TorchScript),
}

/// Says why a network cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The card itself is at fault.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Card and network are each well, but not for one another.
    #[error("the card of `{model}` does not fit its network: {what}")]
    Misfit {
        /// The card's name.
        model: String,
        /// What differs.
        what: String,
        /// Whether that is how many classes there are, and nothing else.
        is_classes: bool,
    },
    /// libtorch refused.
    #[error("cannot load the network of `{model}`: {reason}")]
    Torch {
        /// The card's name.
        model: String,
        /// libtorch's reason, in one line.
        reason: String,
    },
    /// The system has no thread to run it on.
    #[error("cannot load the network of `{model}`: no thread for it: {reason}")]
    NoThread {
        /// The card's name.
        model: String,
        /// The system's reason.
        reason: String,
    },
}

impl NetworkError {
    /// Something about the network is not as its card says, other than how many classes there are.
    fn misfit(card: &Card, what: String) -> Self {
        Self::Misfit { model: card.name.clone(), what, is_classes: false }
    }

    /// Whether the same network may be loaded at another time: where it lacked memory or a thread, which others held.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Torch { reason, .. } | Self::Misfit { what: reason, .. } => torch::is_about_memory(reason),
            Self::NoThread { .. } => true,
            Self::Card(_) => false,
        }
    }
}

impl Network {
    /// Loads a card's network, in a precision or in the best of those that the card allows on the device.
    ///
    /// Runs it once on an empty picture and compares what comes out with the card, and once for each of the card's warm-up
    /// sizes. Takes a tenth of a second for a small network on a CPU; blocks.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Card`] where the network's file is missing or another one, [`NetworkError::Misfit`] where it gives
    /// something else than the card says, [`NetworkError::Torch`] where libtorch cannot make sense of it.
    pub fn load(card: &Card, device: Device, precision: Option<Precision>) -> Result<Self, NetworkError> {
        card.verify()?;
        if device == Device::Cpu {
            sys::keep_freed_memory();
        }
        let _no_grad = tch::no_grad_guard();
        let precision = precision.unwrap_or_else(|| usable_precisions(card, device)[0]);
        let layers = match card.network.architecture {
            Architecture::EfficientnetLite0 => {
                Kept::EfficientNetLite0(Box::new(EfficientNetLite0::load(card, device, precision)?))
            }
            Architecture::Torchscript => Kept::TorchScript(TorchScript::load(card, device, precision)?),
            _ => Kept::Builtin(Builtin::load(card, device, precision)?),
        };
        // One network takes the scale into the weights of its first layer.
        let scaled = !matches!(layers, Kept::EfficientNetLite0(_));
        let refused = |error: TchError| NetworkError::Torch { model: card.name.clone(), reason: torch::reason(&error) };
        let normalise = Normalise::new(&card.input, scaled, device, precision).map_err(refused)?;
        let mut network = Self {
            parts: Arc::new(ReadOnly::new(Parts { normalise, layers })),
            activation: card.output.activation,
            device,
            precision,
            size: [i64::from(card.input.height), i64::from(card.input.width)],
            classes: i64::from(card.output.classes),
            question: card.task,
            output_bytes: 0,
        };
        network.output_bytes = network.fits(card)?;
        for &batch in &card.warm_up {
            // Three times: the executor of TorchScript looks at the first two runs and compiles for the third.
            for _ in 0..3 {
                drop(network.forward(&network.empty(i64::from(batch))).map_err(refused)?);
            }
        }
        Ok(network)
    }

    /// Computes the probabilities for a batch of pictures.
    ///
    /// # Shape
    ///
    /// in: `[n, 3, height, width]`, `u8`, channels in the card's order, best with the strides of interleaved pixels (`[h·w·3, 1, w·3, 3]`) ·
    /// out: `[n, classes]` to classify, `[n, classes, h, w]` to segment, `f32`, on the network's device. A network that
    /// segments into two classes may give one map alone, the probability of the second.
    ///
    /// # Errors
    ///
    /// libtorch's, for example where a device has no memory left.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        self.probabilities(self.output(pixels)?)
    }

    /// What the layers give, in fp32.
    fn output(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let Parts { normalise, layers } = self.parts.get();
        let pixels = pixels.f_to_device(torch::device(self.device))?;
        layers.forward(normalise.apply(&pixels)?)?.f_to_kind(Kind::Float)
    }

    /// What the layers' output means.
    fn probabilities(&self, output: Tensor) -> Result<Tensor, TchError> {
        let output = match self.activation {
            Activation::None => output,
            Activation::Softmax => output.f_softmax(1, Kind::Float)?,
            Activation::Sigmoid => output.f_sigmoid()?,
        };
        if self.is_one_map(&output) {
            return Tensor::f_cat(&[&output.f_neg()?.f_add_scalar(1.0)?, &output], 1);
        }
        Ok(output)
    }

    /// Whether an output is the map of the second of two classes alone.
    fn is_one_map(&self, output: &Tensor) -> bool {
        self.question == Question::Segment && self.classes == 2 && output.dim() == 4 && output.size()[1] == 1
    }

    /// Returns the device that the network runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the precision that it computes in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns height and width of its input in pixels.
    pub fn size(&self) -> [i64; 2] {
        self.size
    }

    /// Returns how many bytes its weights take where it runs.
    pub fn weight_bytes(&self) -> u64 {
        match &self.parts.get().layers {
            Kept::Builtin(network) => network.bytes(),
            Kept::EfficientNetLite0(network) => network.bytes(),
            Kept::TorchScript(network) => network.bytes(),
        }
    }

    /// Returns how many bytes [`Network::forward`] gives for a picture.
    pub(crate) fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    /// Returns how many classes it tells apart.
    pub fn classes(&self) -> i64 {
        self.classes
    }

    fn empty(&self, batch: i64) -> Tensor {
        let [height, width] = self.size;
        Tensor::zeros([batch, height, width, 3], (Kind::Uint8, tch::Device::Cpu)).permute([0, 3, 1, 2])
    }

    /// Runs the network on two empty pictures, and says what differs from the card. Returns how many bytes it gives for one.
    fn fits(&self, card: &Card) -> Result<u64, NetworkError> {
        let [height, width] = self.size;
        let refused = |error: TchError| match torch::reason(&error) {
            reason if torch::is_about_memory(&reason) => NetworkError::Torch { model: card.name.clone(), reason },
            reason => NetworkError::misfit(card, format!("it does not take a picture of {width}x{height}: {reason}")),
        };
        let output = self.output(&self.empty(2)).map_err(refused)?;
        if self.is_one_map(&output) && self.activation == Activation::Softmax {
            let what = "it gives one map, and softmax over one class is 1 everywhere: say activation = \"sigmoid\", or \
                        \"none\" where it gives probabilities; an import has --activation for it";
            return Err(NetworkError::misfit(card, what.to_owned()));
        }
        let output = self.probabilities(output).map_err(refused)?;
        let (found, classes) = (output.size(), self.classes);
        let is_of_its_task = match self.question {
            Question::Classify => found.len() == 2 && found[0] == 2,
            Question::Segment => found.len() == 4 && found[0] == 2,
        };
        if is_of_its_task && found[1] == classes {
            if found.contains(&0) {
                let what = format!("for 2 pictures it gives an output of shape {found:?}, which has no place in it");
                return Err(NetworkError::misfit(card, what));
            }
            return Ok((output.numel() / 2 * Kind::Float.elt_size_in_bytes()) as u64);
        }
        let wanted = match self.question {
            Question::Classify => format!("[2, {classes}]"),
            Question::Segment => format!("[2, {classes}, height, width]"),
        };
        let what =
            format!("for 2 pictures it gives an output of shape {found:?}, but task and output.classes say {wanted}");
        Err(NetworkError::Misfit { model: card.name.clone(), what, is_classes: is_of_its_task })
    }
}

impl Kept {
    fn forward(&self, input: Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Builtin(network) => network.forward(&input),
            Self::EfficientNetLite0(network) => network.forward(input),
            Self::TorchScript(network) => network.forward(&input),
        }
    }
}

/// Height and width of CIFAR-10's pictures.
const CIFAR10: [i64; 2] = [32, 32];

/// Writes random weights of a built-in architecture, as training would begin with, as safetensors. `head` is how wide
/// FCN-32s is before its last layer; without, as wide as in its paper.
///
/// # Errors
///
/// Where the architecture has no layers of its own here, or the file cannot be written.
pub fn write_random(architecture: Architecture, classes: i64, head: Option<i64>, file: &Path) -> Result<(), String> {
    let store = VarStore::new(tch::Device::Cpu);
    let _layers = match (architecture, head) {
        (Architecture::Fcn32sVgg19, Some(width)) => Box::new(fcn32s::fcn32s(&store.root(), width, classes)) as _,
        _ => builtin::make(architecture, &store.root(), CIFAR10, classes, &weights::Tensors::new())?,
    };
    store.save(file).map_err(|error| torch::reason(&error))
}

/// Returns the card's precisions that the device is good at, best first; fp32 where none is.
pub(crate) fn usable_precisions(card: &Card, device: Device) -> Vec<Precision> {
    let (allowed, good): (_, fn(&Precision) -> bool) = match device {
        Device::Cpu => (&card.precision.cpu, |precision| match precision {
            Precision::Fp32 => true,
            Precision::Bf16 => device::cpu_has_bf16(),
            Precision::Fp16 => false,
        }),
        Device::Cuda(_) => (&card.precision.cuda, |_| true),
    };
    let usable: Vec<Precision> = allowed.iter().copied().filter(good).collect();
    if usable.is_empty() { vec![Precision::Fp32] } else { usable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_held_may_be_had_at_another_time() {
        let model = || "any".to_owned();
        let torch = |reason: &str| NetworkError::Torch { model: model(), reason: reason.to_owned() };

        assert!(torch("CUDA out of memory. Tried to allocate 20.00 MiB").is_transient());
        assert!(torch("Cannot allocate memory (os error 12)").is_transient());
        assert!(NetworkError::NoThread { model: model(), reason: "try again".to_owned() }.is_transient());
        assert!(!torch("file not found").is_transient());
        let misfit = NetworkError::Misfit { model: model(), what: "it lacks fc.bias".to_owned(), is_classes: false };
        assert!(!misfit.is_transient());
    }
}
