//! DenseNet-121 to 201, as torchvision has them.
//!
//! tch brings them too, but its poolings add where they should average: with torchvision's weights those give something else.

use tch::Tensor;
use tch::nn::{self, BatchNormConfig, ConvConfig, ModuleT, Path};

/// A layer first narrows to so many times what it adds.
const NARROW: i64 = 4;

/// Channels at the beginning, channels that each layer adds, and layers in each of the four blocks.
fn form(depth: usize) -> (i64, i64, [i64; 4]) {
    match depth {
        121 => (64, 32, [6, 12, 24, 16]),
        161 => (96, 48, [6, 12, 36, 24]),
        169 => (64, 32, [6, 12, 32, 32]),
        _ => (64, 32, [6, 12, 48, 32]),
    }
}

/// Makes the layers of DenseNet-`depth`: 121, 161, 169 or 201.
pub(super) fn densenet(path: &Path, depth: usize, classes: i64) -> impl ModuleT + use<> {
    let features = path / "features";
    let (mut channels, growth, blocks) = form(depth);
    let mut layers = nn::seq_t()
        .add(conv(&(&features / "conv0"), 3, channels, 7, 2))
        .add(norm(&(&features / "norm0"), channels))
        .add_fn(|x| x.relu().max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false));
    for (number, count) in (1..).zip(blocks) {
        let block = &features / format!("denseblock{number}");
        for layer in 1..=count {
            layers = layers.add(dense(&(&block / format!("denselayer{layer}")), channels, growth));
            channels += growth;
        }
        if number < blocks.len() {
            let between = &features / format!("transition{number}");
            layers = layers
                .add(norm(&(&between / "norm"), channels))
                .add_fn(|x| x.relu())
                .add(conv(&(&between / "conv"), channels, channels / 2, 1, 1))
                .add_fn(|x| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None));
            channels /= 2;
        }
    }
    layers
        .add(norm(&(&features / "norm5"), channels))
        .add_fn(|x| x.relu().adaptive_avg_pool2d([1, 1]).flatten(1, -1))
        .add(nn::linear(path / "classifier", channels, classes, nn::LinearConfig::default()))
}

/// A layer that adds channels to those that it gets.
fn dense(path: &Path, channels: i64, growth: i64) -> impl ModuleT + use<> {
    let narrow = NARROW * growth;
    let layers = nn::seq_t()
        .add(norm(&(path / "norm1"), channels))
        .add_fn(|x| x.relu())
        .add(conv(&(path / "conv1"), channels, narrow, 1, 1))
        .add(norm(&(path / "norm2"), narrow))
        .add_fn(|x| x.relu())
        .add(conv(&(path / "conv2"), narrow, growth, 3, 1));
    nn::func_t(move |x, train| Tensor::cat(&[x, &layers.forward_t(x, train)], 1))
}

fn conv(path: &Path, from: i64, to: i64, kernel: i64, stride: i64) -> nn::Conv2D {
    nn::conv2d(path, from, to, kernel, ConvConfig { stride, padding: kernel / 2, bias: false, ..ConvConfig::default() })
}

fn norm(path: &Path, channels: i64) -> nn::BatchNorm {
    nn::batch_norm2d(path, channels, BatchNormConfig::default())
}
