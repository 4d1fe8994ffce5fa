//! FCN-32s over VGG-19: a classifier's features, a head on its last pooling, and one step of 32 back to the picture.
//!
//! # Source
//!
//! Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation" (2015), <https://arxiv.org/abs/1411.4038>:
//! the head is a convolution of 7×7 and two of 1×1, and the way back is a transposed convolution that begins as bilinear
//! interpolation. The paper's head is 4,096 wide; here the file says how wide it is. The features are VGG-19's, under
//! torchvision's names.

use tch::nn::{self, ConvConfig, ConvTransposeConfig, Init, ModuleT, Path, SequentialT};
use tch::{Kind, Tensor};

use super::vgg;
use super::weights::Tensors;

/// From the last pooling back to the picture.
const UP: i64 = 32;

/// The head's width in the paper.
pub(crate) const HEAD: i64 = 4096;

/// The name of the tensor that says how wide the head is.
const FIRST_OF_HEAD: &str = "head.fc6.weight";

/// Reads the head's width from the weights; the paper's for new ones.
pub(super) fn head_width(tensors: &Tensors) -> Result<i64, String> {
    match tensors.get(FIRST_OF_HEAD).map(Tensor::size).as_deref() {
        None => Ok(HEAD),
        Some(&[width, 512, 7, 7]) => Ok(width),
        Some(other) => Err(format!("{FIRST_OF_HEAD} has the shape {other:?}, not [width, 512, 7, 7]")),
    }
}

/// Makes the layers.
///
/// # Shape
///
/// in: `[n, 3, h, w]`, both multiples of 32 · out: `[n, classes, h, w]`
pub(crate) fn fcn32s(path: &Path, width: i64, classes: i64) -> impl ModuleT + use<> {
    features(path).add(head(path, width, classes))
}

/// VGG-19's features.
///
/// # Shape
///
/// in: `[n, 3, h, w]`, both multiples of 32 · out: `[n, 512, h / 32, w / 32]`
pub(crate) fn features(path: &Path) -> SequentialT {
    vgg::features(path, 19, false)
}

/// The layers after the last pooling.
///
/// # Shape
///
/// in: `[n, 512, h / 32, w / 32]` · out: `[n, classes, h, w]`
pub(crate) fn head(path: &Path, width: i64, classes: i64) -> impl ModuleT + use<> {
    let head = path / "head";
    let conv = |name: &str, from, to, kernel: i64| {
        let config = ConvConfig { padding: kernel / 2, ..ConvConfig::default() };
        nn::conv2d(&head / name, from, to, kernel, config)
    };
    let up = ConvTransposeConfig {
        stride: UP,
        padding: UP / 2,
        bias: false,
        ws_init: Init::Const(0.0),
        ..Default::default()
    };
    let upscore = nn::conv_transpose2d(path / "upscore", classes, classes, 2 * UP, up);
    let bilinear = bilinear(classes);
    tch::no_grad(|| upscore.ws.shallow_clone().copy_(&bilinear));
    nn::seq_t()
        .add(conv("fc6", 512, width, 7))
        .add_fn_t(|x, train| x.relu().dropout(0.5, train))
        .add(conv("fc7", width, width, 1))
        .add_fn_t(|x, train| x.relu().dropout(0.5, train))
        .add(conv("score", width, classes, 1))
        .add(upscore)
}

/// The kernel that interpolates: each class from itself, falling off linearly over 32 pixels.
fn bilinear(classes: i64) -> Tensor {
    let centre = UP as f64 - 0.5;
    let line = (Tensor::arange(2 * UP, (Kind::Double, tch::Device::Cpu)) - centre).abs() / -UP as f64 + 1.0;
    let kernel = line.outer(&line).to_kind(Kind::Float);
    Tensor::eye(classes, (Kind::Float, tch::Device::Cpu)).reshape([classes, classes, 1, 1]) * kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_score_stays_even_on_its_way_back() {
        let scores = Tensor::ones([1, 2, 4, 4], (Kind::Float, tch::Device::Cpu));

        let back = scores.conv_transpose2d(&bilinear(2), None::<Tensor>, [UP, UP], [UP / 2, UP / 2], [0, 0], 1, [1, 1]);

        assert_eq!(back.size(), [1, 2, 128, 128]);
        let middle = back.narrow(2, 16, 96).narrow(3, 16, 96);
        assert!(middle.allclose(&middle.ones_like(), 1e-5, 1e-5, false));
    }
}
