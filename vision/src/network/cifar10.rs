//! The small network for CIFAR-10: convolutions of 3×3 with 32, 64 and 64 channels, a pooling after the first and the
//! second, a dense layer of 64 and one with an output for each class.
//!
//! # Source
//!
//! The convolutional network of TensorFlow's tutorial, "Convolutional Neural Network (CNN)",
//! <https://www.tensorflow.org/tutorials/images/cnn>: for 32×32 pixels and 10 classes it has 122,570 weights.

use tch::nn::{self, ConvConfig, LinearConfig, ModuleT, Path};

/// The smallest side that leaves something to flatten.
pub(crate) const LEAST: u32 = 18;

/// What is left of a side after three convolutions without padding and two poolings.
fn left(side: i64) -> i64 {
    ((side - 2) / 2 - 2) / 2 - 2
}

/// Makes the layers for pictures of a height and a width.
///
/// # Shape
///
/// in: `[n, 3, height, width]`, at least 18 each · out: `[n, classes]`, logits
pub(super) fn cifar10(path: &Path, [height, width]: [i64; 2], classes: i64) -> impl ModuleT + use<> {
    let conv = |name: &str, from, to| nn::conv2d(path / name, from, to, 3, ConvConfig::default());
    let dense = |name: &str, from, to| nn::linear(path / name, from, to, LinearConfig::default());
    nn::seq_t()
        .add(conv("conv1", 3, 32))
        .add_fn(|x| x.relu().max_pool2d_default(2))
        .add(conv("conv2", 32, 64))
        .add_fn(|x| x.relu().max_pool2d_default(2))
        .add(conv("conv3", 64, 64))
        .add_fn(|x| x.relu().flatten(1, -1))
        .add(dense("dense1", 64 * left(height) * left(width), 64))
        .add_fn(|x| x.relu())
        .add(dense("dense2", 64, classes))
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn it_has_as_many_weights_as_the_tutorials() {
        let store = VarStore::new(Device::Cpu);
        let layers = cifar10(&store.root(), [32, 32], 10);

        let weights: usize = store.variables().values().map(Tensor::numel).sum();
        assert_eq!(weights, 122_570);
        let small = i64::from(LEAST);
        let least = cifar10(&(store.root() / "least"), [small, 40], 3);
        for (layers, size, classes) in [(&layers as &dyn ModuleT, [32, 32], 10), (&least, [small, 40], 3)] {
            let pictures = Tensor::zeros([2, 3, size[0], size[1]], (Kind::Float, Device::Cpu));
            assert_eq!(layers.forward_t(&pictures, false).size(), [2, classes]);
        }
    }
}
