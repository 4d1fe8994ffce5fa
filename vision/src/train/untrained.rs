//! A backbone to begin with where there are no trained weights: VGG-19's features, untrained, that see something all the same.
//!
//! Sixteen layers of the usual random weights make all pictures alike (seen here: a head on them never learned anything),
//! and with every layer brought to mean 0 and deviation 1, what is alike becomes as different as what is not (a head
//! learned slowly and little). Layers that *look linear* keep near what is near: each comes in pairs of a filter and its
//! opposite, so that what one ReLU takes away, the other lets pass. What sees more than colours is then the poolings.
//!
//! # Source
//!
//! Looks-linear: Balduzzi et al., "The Shattered Gradients Problem" (2017), <https://arxiv.org/abs/1702.08591>, section 3. One
//! scale for each layer by a batch of the data: Mishkin, Matas, "All you need is a good init" (2016),
//! <https://arxiv.org/abs/1511.06422>.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

/// How often each block of VGG-19 convolves before the size is halved.
const BLOCKS: [usize; 5] = [2, 2, 4, 4, 4];

/// The number of the last convolution among the features' layers.
const LAST: i64 = 34;

/// Filters weigh what is near more: a random one that does not smears a picture over itself in sixteen layers.
const NEAR: [f32; 9] = [0.25, 0.5, 0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 0.25];

/// Keeps channels that are the same everywhere from being divided by nothing.
const LEAST: f64 = 1e-5;

/// Fills the convolutions `features.N`, from libtorch's present seed and some pictures of the data set. At the end each
/// channel of the last one has mean 0 and deviation 1 over them.
///
/// # Shape
///
/// `input`: `[n, 3, h, w]`, normalised
pub(super) fn settle(variables: &HashMap<String, Tensor>, input: &Tensor) -> Result<(), TchError> {
    let _no_grad = tch::no_grad_guard();
    let variable = |number: i64, part: &str| {
        let name = format!("features.{number}.{part}");
        let found = variables.get(&name).map(Tensor::shallow_clone);
        found.ok_or_else(|| TchError::FileFormat(format!("the network has no {name}")))
    };
    let (mut x, mut number) = (input.shallow_clone(), 0);
    for convolutions in BLOCKS {
        for _ in 0..convolutions {
            let (mut weight, mut bias) = (variable(number, "weight")?, variable(number, "bias")?);
            weight.f_copy_(&looks_linear(&weight.size(), number == 0)?)?;
            drop(bias.f_zero_()?);
            let out = x.f_conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?;
            let (mean, deviation) = if number == LAST {
                let over = [0_i64, 2, 3];
                let mean = out.f_mean_dim(over.as_slice(), true, Kind::Float)?;
                (mean, out.f_std_dim(over.as_slice(), true, true)?.f_clamp_min(LEAST)?)
            } else {
                let scale = out.f_square()?.f_mean(Kind::Float)?.f_sqrt()?.f_clamp_min(LEAST)?;
                (scale.f_zeros_like()?, scale)
            };
            // Those of one layer are one number, of the last one a number for each channel.
            let (each, column) = (|tensor: &Tensor| tensor.f_reshape([-1]), deviation.f_reshape([-1, 1, 1, 1])?);
            drop(weight.f_div_(&column)?);
            drop(bias.f_sub_(&each(&mean)?)?.f_div_(&each(&deviation)?)?);
            x = out.f_sub(&mean)?.f_div(&deviation)?.f_relu()?;
            number += 2;
        }
        x = x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
        number += 1;
    }
    Ok(())
}

/// Random filters and their opposites; on inputs that come in such pairs themselves, unless they are pictures.
fn looks_linear(shape: &[i64], are_pictures: bool) -> Result<Tensor, TchError> {
    let &[to, from, height, width] = shape else {
        return Err(TchError::Shape(format!("{shape:?} is no convolution's")));
    };
    let from = if are_pictures { from } else { from / 2 };
    let near = Tensor::f_from_slice(&NEAR)?.f_reshape([1, 1, height, width])?;
    let some = Tensor::f_randn([to / 2, from, height, width], (Kind::Float, tch::Device::Cpu))?.f_mul(&near)?;
    let against = some.f_neg()?;
    if are_pictures {
        return Tensor::f_cat(&[some, against], 0);
    }
    let rows = [Tensor::f_cat(&[&some, &against], 1)?, Tensor::f_cat(&[&against, &some], 1)?];
    Tensor::f_cat(&rows, 0)
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::{ModuleT as _, VarStore};

    use super::*;
    use crate::network::fcn32s;

    #[test]
    fn pictures_come_out_as_different_as_they_are() {
        tch::set_num_threads(1);
        tch::manual_seed(1);
        let store = VarStore::new(Device::Cpu);
        let layers = fcn32s::features(&store.root());
        let colours = Tensor::randn([4, 3, 1, 1], (Kind::Float, Device::Cpu));
        let pictures = colours + Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu)) * 0.2;
        let of_one = |number: i64| {
            let input = pictures.get(number) + Tensor::randn([3, 32, 32], (Kind::Float, Device::Cpu)) * 0.05;
            tch::no_grad(|| layers.forward_t(&input.unsqueeze(0), false))
        };
        let apart = |one: i64, other: i64| (of_one(one) - of_one(other)).square().mean(Kind::Float).double_value(&[]);

        settle(&store.variables(), &pictures).unwrap();

        for (one, other) in [(0, 1), (1, 2), (2, 3)] {
            assert!(apart(one, one) < apart(one, other) / 3.0, "{} {}", apart(one, one), apart(one, other));
        }
    }
}
