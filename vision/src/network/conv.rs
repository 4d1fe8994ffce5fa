//! A convolution with its batch normalisation folded in, laid out for channels-last pictures.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use crate::sys::{self, Run};
use crate::torch;

/// Added to the variance in every batch normalisation of the EfficientNet family.
const EPSILON: f64 = 1e-3;

/// What a convolution is, as far as the weights do not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// 1 or 2.
    pub(super) stride: i64,
    /// Whether each channel has a kernel of its own.
    pub(super) depthwise: bool,
    /// Whether the output is limited to 0 to 6.
    pub(super) relu6: bool,
}

/// A convolution, its normalisation and its limit.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
    form: Form,
    run: Run,
    /// Whether the weights are laid out for [`sys::convolve`].
    is_packed: bool,
}

impl Conv {
    /// Takes the weights `conv` and the normalisation `norm` out of `weights` and makes one convolution of them.
    ///
    /// # Source
    ///
    /// y = γ (w ∗ x − μ) / √(σ² + ε) + β = (γ / √(σ² + ε)) w ∗ x + (β − γ μ / √(σ² + ε)), computed in fp32
    pub(super) fn fold(weights: &mut Weights, conv: &str, norm: &str, form: Form) -> Result<Self, TchError> {
        let weight = weights.take(&format!("{conv}.weight"))?;
        let gamma = weights.take(&format!("{norm}.weight"))?;
        let beta = weights.take(&format!("{norm}.bias"))?;
        let mean = weights.take(&format!("{norm}.running_mean"))?;
        let variance = weights.take(&format!("{norm}.running_var"))?;
        let scale = gamma.f_div(&variance.f_add_scalar(EPSILON)?.f_sqrt()?)?;
        let bias = beta.f_sub(&mean.f_mul(&scale)?)?;
        let weight = weight.f_mul(&scale.f_reshape([-1, 1, 1, 1])?)?;
        let kernel = *weight.size().last().unwrap_or(&1);
        let groups = if form.depthwise { weight.size()[0] } else { 1 };
        let run = Run { padding: padding(kernel, form.stride), stride: form.stride, groups };
        Ok(Self { weight, bias, form, run, is_packed: false })
    }

    /// Multiplies what each of the three input channels is weighted with.
    pub(super) fn scale_input(&mut self, scale: [f32; 3]) -> Result<(), TchError> {
        self.weight = self.weight.f_mul(&Tensor::f_from_slice(&scale)?.f_reshape([1, 3, 1, 1])?)?;
        Ok(())
    }

    /// Brings it to where and how it will run: the weights channels last, as the pictures are, and on the CPU as oneDNN
    /// wants them. There the bias stays in fp32: rounded to 8 bits it does a third of the harm that bf16 does to a logit.
    pub(super) fn place(&mut self, device: tch::Device, kind: Kind) -> Result<(), TchError> {
        self.weight = torch::channels_last(&self.weight.f_to_device(device)?.f_to_kind(kind)?)?;
        self.bias = self.bias.f_to_device(device)?;
        if device == tch::Device::Cpu {
            match self.packed(kind) {
                Ok(packed) => {
                    (self.weight, self.is_packed) = (packed, true);
                    return Ok(());
                }
                Err(error) => tracing::debug!(%error, "a convolution runs as libtorch does it"),
            }
        }
        self.bias = self.bias.f_to_kind(kind)?;
        Ok(())
    }

    /// The weights laid out for oneDNN, where it can run them: not every CPU has code for every kind of number.
    fn packed(&self, kind: Kind) -> Result<Tensor, TchError> {
        let packed = sys::pack(&self.weight, self.run)?;
        let (_, channels, height, width) = self.weight.size4()?;
        let shape = [1, channels * self.run.groups, height, width];
        let smallest = Tensor::f_zeros(shape, (kind, tch::Device::Cpu))?;
        drop(sys::convolve(&smallest, &packed, &self.bias, self.run, false)?);
        Ok(packed)
    }

    /// Returns how many bytes it takes.
    pub(super) fn bytes(&self) -> u64 {
        [&self.weight, &self.bias]
            .map(|tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64)
            .iter()
            .sum()
    }

    /// Computes the output.
    ///
    /// # Shape
    ///
    /// in: `[n, c, h, w]` · out: `[n, c', h / stride, w / stride]`; `h` and `w` are even where the stride is 2.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let mut output = if self.is_packed {
            // With stride 2 the limit is part of the copy below.
            let relu6 = self.form.relu6 && self.form.stride == 1;
            let output = sys::convolve(input, &self.weight, &self.bias, self.run, relu6)?;
            if self.form.stride == 1 {
                return Ok(output);
            }
            output
        } else {
            let Run { padding, stride, groups } = self.run;
            input.f_conv2d(&self.weight, Some(&self.bias), [stride; 2], [padding; 2], [1, 1], groups)?
        };
        if self.form.stride == 2 {
            output = without_first(&output)?;
            // Not in place: this makes the part that was cut out dense again, at no cost of its own.
            return if self.form.relu6 { output.f_clamp(0.0, 6.0) } else { output.f_contiguous() };
        }
        if self.form.relu6 { output.f_clamp_(0.0, 6.0) } else { Ok(output) }
    }
}

/// Returns the padding to ask for on each side.
///
/// With stride 2 and an even size, TensorFlow's "same" padding has one row more at the end than at the beginning, which
/// libtorch can only do by copying the input into a larger one first. Two rows more at the beginning give the same output
/// with one more row in front, which [`without_first`] cuts off: that is 2 % more to compute instead of one more pass over
/// the largest tensors of the network (measured: 143 instead of 122 images a second).
fn padding(kernel: i64, stride: i64) -> i64 {
    if stride == 1 { kernel / 2 } else { (kernel - 2) / 2 + 2 }
}

/// Cuts off the first row and the first column.
fn without_first(tensor: &Tensor) -> Result<Tensor, TchError> {
    let (_, _, height, width) = tensor.size4()?;
    tensor.f_narrow(2, 1, height - 1)?.f_narrow(3, 1, width - 1)
}

/// The tensors of a file, each taken once.
#[derive(Debug)]
pub(super) struct Weights(pub(super) HashMap<String, Tensor>);

impl Weights {
    /// Takes one out, in fp32.
    pub(super) fn take(&mut self, name: &str) -> Result<Tensor, TchError> {
        let missing = || TchError::FileFormat(format!("the file holds no tensor `{name}`"));
        self.0.remove(name).ok_or_else(missing)?.f_to_kind(Kind::Float)
    }
}
