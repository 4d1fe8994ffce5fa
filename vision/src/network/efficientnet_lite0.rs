//! EfficientNet-Lite0: a small classifier without squeeze-and-excite, limited by ReLU6 throughout.
//!
//! # Source
//!
//! Layers and their names as in the PyPI package `efficientnet-lite-pytorch` 0.1.0, padding as TensorFlow's "same".

use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::card::{Card, Precision};

use super::conv::{Conv, Form, Weights};
use super::{NetworkError, Normalise, normalise, weights};
use crate::device::Device;
use crate::{golden, torch};

/// The stages: how many blocks, the stride of the first one, and the factor by which blocks widen inside.
const STAGES: [(usize, i64, i64); 7] = [(1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6)];

/// What is subtracted from what the stem gives, in half precision on a CPU. One of its channels lies near 2.7 on every
/// picture, where bf16 has steps of 1/64, and the next layer looks at small differences of it with large weights. With
/// [`EfficientNetLite0::compensate`] this makes 0.045 of 0.121, by which the distance of the two most probable classes'
/// logarithms was off on 256 pictures of noise (each alone: 0.076 and 0.066).
const LOWERED: f64 = 2.75;

/// The network halves the size of a picture five times.
const REDUCTION: u32 = 32;

/// The network.
#[derive(Debug)]
pub(super) struct EfficientNetLite0 {
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
    classify: [Tensor; 2],
    bytes: u64,
}

/// Widens, looks at the neighbourhood, narrows; and adds the input where it has the output's shape.
#[derive(Debug)]
struct Block {
    expand: Option<Conv>,
    depthwise: Conv,
    project: Conv,
    skip: bool,
}

impl EfficientNetLite0 {
    /// Reads the weights of a card's file and folds what can be folded: normalisations into convolutions, the scale of the
    /// card's input into the first of them.
    pub(super) fn load(card: &Card, device: Device, precision: Precision) -> Result<Self, NetworkError> {
        let model = || card.name.clone();
        if !card.input.width.is_multiple_of(REDUCTION) || !card.input.height.is_multiple_of(REDUCTION) {
            let what = format!("input.width and input.height must be multiples of {REDUCTION}");
            return Err(NetworkError::misfit(card, what));
        }
        let refused = |error: TchError| NetworkError::Torch { model: model(), reason: torch::reason(&error) };
        let mut weights = Weights(weights::read(&card.network_path()).map_err(refused)?);
        let mut network = Self::fold(&mut weights).map_err(refused)?;
        if let Some(name) = weights.0.keys().min() {
            let what = format!("its file holds a tensor `{name}` that the architecture does not know");
            return Err(NetworkError::misfit(card, what));
        }
        network.stem.scale_input(normalise::scale(&card.input)).map_err(refused)?;
        if device == Device::Cpu && precision != Precision::Fp32 {
            network.lower_stem().map_err(refused)?;
            match golden::inputs(card) {
                Ok(pixels) => network.compensate(card, &pixels, precision).map_err(refused)?,
                // Whoever compares the network with fp32 meets the same, and says so.
                Err(reason) => tracing::debug!(model = %card.name, reason, "nothing to make up for rounded weights by"),
            }
        }
        network.place(device, precision).map_err(refused)?;
        Ok(network)
    }

    /// Lowers what the stem gives.
    fn lower_stem(&mut self) -> Result<(), TchError> {
        self.stem.lower(LOWERED)?;
        self.blocks.first_mut().map_or(Ok(()), |first| first.depthwise.lowered_by(LOWERED))
    }

    /// Makes up for what is lost on the average where weights are rounded, which is most of what that is off by.
    fn compensate(&mut self, card: &Card, pixels: &Tensor, precision: Precision) -> Result<(), TchError> {
        let exact = Normalise::new(&card.input, false, Device::Cpu, Precision::Fp32)?;
        let mut losses = Vec::new();
        let features = self.features(exact.apply(&pixels.f_permute([0, 3, 1, 2])?)?, &mut |conv, input| {
            losses.push(conv.loss(input, torch::kind(precision))?);
            conv.forward(input)
        });
        drop(features?);
        self.convs().zip(&losses).try_for_each(|(conv, loss)| conv.raise(loss))
    }

    fn fold(weights: &mut Weights) -> Result<Self, TchError> {
        let stem = Form { stride: 2, depthwise: false, relu6: true };
        let head = Form { stride: 1, ..stem };
        let mut blocks = Vec::new();
        for (count, stride, widen) in STAGES {
            for repeat in 0..count {
                let stride = if repeat == 0 { stride } else { 1 };
                blocks.push(Block::fold(weights, blocks.len(), stride, widen, repeat > 0)?);
            }
        }
        Ok(Self {
            stem: Conv::fold(weights, "_conv_stem", "_bn0", stem)?,
            blocks,
            head: Conv::fold(weights, "_conv_head", "_bn1", head)?,
            classify: [weights.take("_fc.weight")?, weights.take("_fc.bias")?],
            bytes: 0,
        })
    }

    fn place(&mut self, device: Device, precision: Precision) -> Result<(), TchError> {
        let (device, kind) = (torch::device(device), torch::kind(precision));
        let mut bytes = 0;
        for conv in self.convs() {
            conv.place(device, kind)?;
            bytes += conv.bytes();
        }
        self.bytes += bytes;
        // The last layer stays in fp32: it costs a thousandth of the whole, and rounding the logits themselves to 8 bits
        // is what swaps two labels that are nearly as probable.
        for tensor in &mut self.classify {
            self.bytes += (tensor.numel() * Kind::Float.elt_size_in_bytes()) as u64;
            *tensor = tensor.f_to_device(device)?.f_to_kind(Kind::Float)?;
        }
        Ok(())
    }

    /// Its convolutions, from the first to the last.
    fn convs(&mut self) -> impl Iterator<Item = &mut Conv> {
        let blocks = self.blocks.iter_mut().flat_map(Block::convs);
        std::iter::once(&mut self.stem).chain(blocks).chain([&mut self.head])
    }

    /// Returns how many bytes its weights take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Computes the logits.
    ///
    /// # Shape
    ///
    /// in: `[n, 3, h, w]`, mean subtracted but not scaled, channels last · out: `[n, 1000]`
    pub(super) fn forward(&self, input: Tensor) -> Result<Tensor, TchError> {
        let features = self.features(input, &mut Conv::forward)?;
        let [weight, bias] = &self.classify;
        features.f_mean_dim([2, 3].as_slice(), false, Some(Kind::Float))?.f_linear(weight, Some(bias))
    }

    /// Goes through its convolutions, each of which is to be `run`.
    fn features(
        &self,
        input: Tensor,
        run: &mut impl FnMut(&Conv, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let mut x = run(&self.stem, &input)?;
        drop(input);
        for block in &self.blocks {
            x = block.forward(x, run)?;
        }
        run(&self.head, &x)
    }
}

impl Block {
    fn fold(weights: &mut Weights, index: usize, stride: i64, widen: i64, skip: bool) -> Result<Self, TchError> {
        let name = |part: &str| format!("_blocks.{index}.{part}");
        let dense = Form { stride: 1, depthwise: false, relu6: true };
        let expand = match widen {
            1 => None,
            _ => Some(Conv::fold(weights, &name("_expand_conv"), &name("_bn0"), dense)?),
        };
        let depthwise = Form { stride, depthwise: true, relu6: true };
        Ok(Self {
            expand,
            depthwise: Conv::fold(weights, &name("_depthwise_conv"), &name("_bn1"), depthwise)?,
            project: Conv::fold(weights, &name("_project_conv"), &name("_bn2"), Form { relu6: false, ..dense })?,
            skip,
        })
    }

    fn convs(&mut self) -> impl Iterator<Item = &mut Conv> {
        self.expand.iter_mut().chain([&mut self.depthwise, &mut self.project])
    }

    fn forward(
        &self,
        input: Tensor,
        run: &mut impl FnMut(&Conv, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let widened = self.expand.as_ref().map(|conv| run(conv, &input)).transpose()?;
        let seen = run(&self.depthwise, widened.as_ref().unwrap_or(&input))?;
        drop(widened);
        let mut output = run(&self.project, &seen)?;
        if self.skip { output.f_add_(&input) } else { Ok(output) }
    }
}
