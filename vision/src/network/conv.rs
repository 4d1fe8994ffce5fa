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
    /// What is subtracted from the output, which then has a border of a pixel whose values stand for 0.
    lowered: f64,
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
        Ok(Self { weight, bias, form, run, lowered: 0.0, is_packed: false })
    }

    /// Multiplies what each of the three input channels is weighted with.
    pub(super) fn scale_input(&mut self, scale: [f32; 3]) -> Result<(), TchError> {
        self.weight = self.weight.f_mul(&Tensor::f_from_slice(&scale)?.f_reshape([1, 3, 1, 1])?)?;
        Ok(())
    }

    /// Subtracts a number from its output, and puts a border around it. Of one with stride 2 and a limit.
    pub(super) fn lower(&mut self, by: f64) -> Result<(), TchError> {
        self.bias = self.bias.f_sub_scalar(by)?;
        // One more row and column at either end: with stride 2 those are two of the input.
        self.run.padding += 2;
        self.lowered = by;
        Ok(())
    }

    /// Takes an input from which a number was subtracted, and that has a border already. Of one whose kernel is 3 wide.
    pub(super) fn lowered_by(&mut self, by: f64) -> Result<(), TchError> {
        let each = self.weight.f_sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float)?;
        self.bias = self.bias.f_add(&each.f_mul_scalar(by)?)?;
        self.run.padding -= 1;
        Ok(())
    }

    /// What the output will lack, on the average, once the weights are rounded to a kind, by channel.
    ///
    /// # Shape
    ///
    /// in: as for [`Conv::forward`] · out: `[c']`
    pub(super) fn loss(&self, input: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let rounded = self.weight.f_to_kind(kind)?.f_to_kind(Kind::Float)?;
        let lost = self.weight.f_sub(&rounded)?.f_sum_dim_intlist([2, 3].as_slice(), false, Kind::Float)?;
        let mean = input.f_mean_dim([0, 2, 3].as_slice(), false, Kind::Float)?;
        if self.form.depthwise { lost.f_squeeze_dim(1)?.f_mul(&mean) } else { lost.f_mv(&mean) }
    }

    /// Adds to its output, by channel.
    pub(super) fn raise(&mut self, by: &Tensor) -> Result<(), TchError> {
        self.bias = self.bias.f_add(by)?;
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
            let low = -self.lowered;
            output = if self.form.relu6 { output.f_clamp(low, 6.0 + low)? } else { output.f_contiguous()? };
            if self.lowered != 0.0 {
                fill_border(&output, low)?;
            }
            return Ok(output);
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

/// Gives the first and the last of the rows and columns one value.
fn fill_border(tensor: &Tensor, value: f64) -> Result<(), TchError> {
    for dimension in [2, 3] {
        for at in [0, tensor.size()[dimension] - 1] {
            drop(tensor.f_narrow(dimension as i64, at, 1)?.f_fill_(value)?);
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: tch::Device = tch::Device::Cpu;

    /// A convolution of random weights, laid out as it is told.
    fn conv(shape: [i64; 4], form: Form) -> Conv {
        let [channels, ..] = shape;
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, CPU));
        let one = |name: &str, tensor: Tensor| (name.to_owned(), tensor);
        let weights = [
            one("c.weight", random(&shape)),
            one("n.weight", random(&[channels]) + 2.0),
            one("n.bias", random(&[channels]) + 2.0),
            one("n.running_mean", random(&[channels])),
            one("n.running_var", random(&[channels]).square() + 1.0),
        ];
        Conv::fold(&mut Weights(weights.into()), "c", "n", form).unwrap()
    }

    fn apart(one: &Tensor, other: &Tensor) -> f64 {
        assert_eq!(one.size(), other.size());
        (one - other).abs().max().double_value(&[])
    }

    #[test]
    fn a_lowered_output_changes_nothing_for_the_next_that_knows_of_it() {
        tch::manual_seed(1);
        let stem = Form { stride: 2, depthwise: false, relu6: true };
        let (mut first, mut next) =
            (conv([8, 3, 3, 3], stem), conv([8, 1, 3, 3], Form { stride: 1, depthwise: true, relu6: false }));
        let input = Tensor::randn([2, 3, 16, 16], (Kind::Float, CPU));
        let both = |first: &Conv, next: &Conv| next.forward(&first.forward(&input).unwrap()).unwrap();
        let expected = both(&first, &next);

        first.lower(2.75).unwrap();
        next.lowered_by(2.75).unwrap();

        assert_eq!(first.forward(&input).unwrap().size(), [2, 8, 10, 10], "with a border");
        assert!(apart(&both(&first, &next), &expected) < 1e-4);
        for conv in [&mut first, &mut next] {
            conv.place(CPU, Kind::Float).unwrap();
        }
        assert!(apart(&both(&first, &next), &expected) < 1e-4, "as oneDNN runs it");
    }

    #[test]
    fn what_rounding_takes_from_an_even_picture_can_be_given_back() {
        tch::manual_seed(2);
        for (shape, depthwise) in [([4, 6, 3, 3], false), ([6, 1, 3, 3], true)] {
            let mut conv = conv(shape, Form { stride: 1, depthwise, relu6: false });
            let input = Tensor::randn([1, 6, 1, 1], (Kind::Float, CPU)).expand([1, 6, 5, 5], false);
            // Where the padding does not reach.
            let middle = |conv: &Conv| conv.forward(&input).unwrap().narrow(2, 1, 3).narrow(3, 1, 3).contiguous();
            let expected = middle(&conv);
            let loss = conv.loss(&input, Kind::BFloat16).unwrap();

            conv.weight = conv.weight.to_kind(Kind::BFloat16).to_kind(Kind::Float);
            let rounded = apart(&middle(&conv), &expected);
            conv.raise(&loss).unwrap();

            assert!(rounded > 1e-3, "{rounded}");
            assert!(apart(&middle(&conv), &expected) < rounded / 100.0);
        }
    }
}
