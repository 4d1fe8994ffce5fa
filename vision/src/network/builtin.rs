//! Networks whose layers are built in, with torchvision's names for their weights.

use tch::nn::{ModuleT, Path, VarStore};
use tch::vision::{inception, mobilenet, resnet, squeezenet};
use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::card::{Architecture, Card, Precision};

use super::{NetworkError, alexnet, cifar10, densenet, efficientnet, fcn32s, vgg, weights};
use crate::device::Device;
use crate::torch;

/// Layers as a library makes them.
pub(crate) type Layers = Box<dyn ModuleT>;

/// A built-in network with its weights.
#[derive(Debug)]
pub(super) struct Builtin {
    layers: Layers,
    bytes: u64,
}

impl Builtin {
    /// Makes the layers and fills them with the weights of the card's file.
    ///
    /// Batch normalisations stay in fp32, whatever the precision: their variances need its digits and they cost nothing.
    pub(super) fn load(card: &Card, device: Device, precision: Precision) -> Result<Self, NetworkError> {
        let model = || card.name.clone();
        let refused = |error: TchError| NetworkError::Torch { model: model(), reason: torch::reason(&error) };
        size_fits(card).map_err(|what| NetworkError::misfit(card, what))?;
        let tensors = weights::read(&card.network_path()).map_err(refused)?;
        let store = VarStore::new(tch::Device::Cpu);
        let size = [i64::from(card.input.height), i64::from(card.input.width)];
        let classes = i64::from(card.output.classes);
        let layers = make(card.network.architecture, &store.root(), size, classes, &tensors);
        let layers = layers.map_err(|what| NetworkError::misfit(card, what))?;
        weights::fill(&store, tensors).map_err(|unfit| {
            let is_classes = unfit.rows == Some(classes);
            NetworkError::Misfit { model: model(), what: unfit.what, is_classes }
        })?;
        let bytes = place(&store, card.network.architecture, torch::device(device), torch::kind(precision));
        let bytes = bytes.map_err(refused)?;
        Ok(Self { layers, bytes })
    }

    /// Returns how many bytes its weights take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs it. The library's layers panic where libtorch refuses; here that is an error again.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        torch::caught(|| self.layers.forward_t(input, false))
    }
}

/// Makes an architecture's layers, with random weights, below a path. `size`, height and width of its input, matters to
/// those that flatten what they have of it.
///
/// # Errors
///
/// Where there is no such built-in network of this kind, or `tensors` cannot be its weights at all.
pub(crate) fn make(
    architecture: Architecture,
    path: &Path,
    size: [i64; 2],
    classes: i64,
    tensors: &weights::Tensors,
) -> Result<Layers, String> {
    use Architecture as A;
    Ok(match architecture {
        A::Alexnet => Box::new(alexnet::alexnet(path, classes)),
        A::Cifar10Cnn => Box::new(cifar10::cifar10(path, size, classes)),
        A::Densenet121 => Box::new(densenet::densenet(path, 121, classes)),
        A::Densenet161 => Box::new(densenet::densenet(path, 161, classes)),
        A::Densenet169 => Box::new(densenet::densenet(path, 169, classes)),
        A::Densenet201 => Box::new(densenet::densenet(path, 201, classes)),
        A::EfficientnetB0 => Box::new(efficientnet::efficientnet(path, 0, classes)),
        A::EfficientnetB1 => Box::new(efficientnet::efficientnet(path, 1, classes)),
        A::EfficientnetB2 => Box::new(efficientnet::efficientnet(path, 2, classes)),
        A::EfficientnetB3 => Box::new(efficientnet::efficientnet(path, 3, classes)),
        A::EfficientnetB4 => Box::new(efficientnet::efficientnet(path, 4, classes)),
        A::EfficientnetB5 => Box::new(efficientnet::efficientnet(path, 5, classes)),
        A::EfficientnetB6 => Box::new(efficientnet::efficientnet(path, 6, classes)),
        A::EfficientnetB7 => Box::new(efficientnet::efficientnet(path, 7, classes)),
        A::Fcn32sVgg19 => Box::new(fcn32s::fcn32s(path, fcn32s::head_width(tensors)?, classes)),
        A::InceptionV3 => Box::new(inception::v3(path, classes)),
        A::MobilenetV2 => Box::new(mobilenet::v2(path, classes)),
        A::Resnet18 => Box::new(resnet::resnet18(path, classes)),
        A::Resnet34 => Box::new(resnet::resnet34(path, classes)),
        A::Resnet50 => Box::new(resnet::resnet50(path, classes)),
        A::Resnet101 => Box::new(resnet::resnet101(path, classes)),
        A::Resnet152 => Box::new(resnet::resnet152(path, classes)),
        A::Squeezenet10 => Box::new(squeezenet::v1_0(path, classes)),
        A::Squeezenet11 => Box::new(squeezenet::v1_1(path, classes)),
        A::Vgg11 => Box::new(vgg::vgg(path, 11, false, classes)),
        A::Vgg11Bn => Box::new(vgg::vgg(path, 11, true, classes)),
        A::Vgg13 => Box::new(vgg::vgg(path, 13, false, classes)),
        A::Vgg13Bn => Box::new(vgg::vgg(path, 13, true, classes)),
        A::Vgg16 => Box::new(vgg::vgg(path, 16, false, classes)),
        A::Vgg16Bn => Box::new(vgg::vgg(path, 16, true, classes)),
        A::Vgg19 => Box::new(vgg::vgg(path, 19, false, classes)),
        A::Vgg19Bn => Box::new(vgg::vgg(path, 19, true, classes)),
        A::EfficientnetLite0 | A::Torchscript => return Err(format!("{architecture} has layers of its own")),
    })
}

/// Says what an architecture takes, where the card says something else.
pub(crate) fn size_fits(card: &Card) -> Result<(), String> {
    use Architecture as A;
    let (width, height) = (card.input.width, card.input.height);
    let (is_well, allowed) = match card.network.architecture {
        // The last map is flattened, as 7×7.
        A::Vgg11 | A::Vgg11Bn | A::Vgg13 | A::Vgg13Bn | A::Vgg16 | A::Vgg16Bn | A::Vgg19 | A::Vgg19Bn => {
            (width / 32 == 7 && height / 32 == 7, "within 224 and 255")
        }
        A::Cifar10Cnn => (width >= cifar10::LEAST && height >= cifar10::LEAST, "at least 18"),
        A::Fcn32sVgg19 => (width.is_multiple_of(32) && height.is_multiple_of(32), "multiples of 32"),
        A::InceptionV3 => (width >= 75 && height >= 75, "at least 75; it was trained with 299"),
        A::Alexnet => (width >= 63 && height >= 63, "at least 63"),
        _ => (width >= 32 && height >= 32, "at least 32"),
    };
    if is_well {
        return Ok(());
    }
    Err(format!("input.width and input.height must be {allowed} for {}", card.network.architecture))
}

/// Brings the weights to where and how they run: those of convolutions channels last, as the pictures are. Returns how
/// many bytes they take there.
fn place(store: &VarStore, architecture: Architecture, device: tch::Device, kind: Kind) -> Result<u64, TchError> {
    let variables = store.variables();
    let is_normalisation = |name: &str| {
        let parent = name.rsplit_once('.').map_or("", |(parent, _)| parent);
        variables.contains_key(&format!("{parent}.running_mean"))
    };
    // The library's MobileNet adds up its last map in fp32, whatever the map is in, and gives that to the last layer.
    let gets_fp32 = |name: &str| architecture == Architecture::MobilenetV2 && name.starts_with("classifier.");
    let mut bytes = 0;
    for (name, variable) in &variables {
        let kind = if is_normalisation(name) || gets_fp32(name) { Kind::Float } else { kind };
        let mut placed = variable.f_detach()?.f_to_device(device)?.f_to_kind(kind)?;
        if placed.dim() == 4 {
            placed = torch::channels_last(&placed)?;
        }
        bytes += (placed.numel() * kind.elt_size_in_bytes()) as u64;
        // The layers hold the same variable: its data are exchanged for all.
        variable.shallow_clone().set_data(&placed);
        drop(variable.f_set_requires_grad(false)?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
