//! AlexNet, as torchvision has it.
//!
//! tch brings one too, whose second convolution has a padding of 1 and a stride of 2: with torchvision's weights it gives
//! something else.

use tch::nn::{self, ConvConfig, ModuleT, Path};

/// Makes the layers.
pub(super) fn alexnet(path: &Path, classes: i64) -> impl ModuleT + use<> {
    let (features, classifier) = (path / "features", path / "classifier");
    let conv = |name: i64, from, to, kernel, stride, padding| {
        nn::conv2d(&features / name, from, to, kernel, ConvConfig { stride, padding, ..ConvConfig::default() })
    };
    let linear = |name: i64, from, to| nn::linear(&classifier / name, from, to, nn::LinearConfig::default());
    nn::seq_t()
        .add(conv(0, 3, 64, 11, 4, 2))
        .add_fn(|x| x.relu().max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false))
        .add(conv(3, 64, 192, 5, 1, 2))
        .add_fn(|x| x.relu().max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false))
        .add(conv(6, 192, 384, 3, 1, 1))
        .add_fn(|x| x.relu())
        .add(conv(8, 384, 256, 3, 1, 1))
        .add_fn(|x| x.relu())
        .add(conv(10, 256, 256, 3, 1, 1))
        .add_fn(|x| x.relu().max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false))
        .add_fn(|x| x.adaptive_avg_pool2d([6, 6]).flatten(1, -1))
        .add(linear(1, 256 * 6 * 6, 4096))
        .add_fn(|x| x.relu())
        .add(linear(4, 4096, 4096))
        .add_fn(|x| x.relu())
        .add(linear(6, 4096, classes))
}
