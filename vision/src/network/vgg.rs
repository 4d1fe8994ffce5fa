//! VGG-11 to VGG-19, as torchvision has them.
//!
//! tch brings them too, but flattens the last map in a way that needs its channels first; ours come last, which is quicker.

use tch::nn::{self, BatchNormConfig, ConvConfig, ModuleT, Path, SequentialT};

/// How many channels come out of each block, and how often it convolves before the size is halved.
const CHANNELS: [i64; 5] = [64, 128, 256, 512, 512];

/// How often each block of VGG-`depth` convolves.
fn convolutions(depth: usize) -> [usize; 5] {
    match depth {
        11 => [1, 1, 2, 2, 2],
        13 => [2, 2, 2, 2, 2],
        16 => [2, 2, 3, 3, 3],
        _ => [2, 2, 4, 4, 4],
    }
}

/// Makes the layers of VGG-`depth`: 11, 13, 16 or 19.
pub(super) fn vgg(path: &Path, depth: usize, is_normalised: bool, classes: i64) -> impl ModuleT + use<> {
    let classifier = path / "classifier";
    let linear = |name: i64, from, to| nn::linear(&classifier / name, from, to, nn::LinearConfig::default());
    features(path, depth, is_normalised)
        .add_fn(|x| x.flatten(1, -1))
        .add(linear(0, 512 * 7 * 7, 4096))
        .add_fn(|x| x.relu())
        .add(linear(3, 4096, 4096))
        .add_fn(|x| x.relu())
        .add(linear(6, 4096, classes))
}

/// The layers up to the last pooling, under torchvision's names, which count the layers without weights too.
///
/// # Shape
///
/// in: `[n, 3, h, w]` · out: `[n, 512, h / 32, w / 32]`
pub(super) fn features(path: &Path, depth: usize, is_normalised: bool) -> SequentialT {
    let features = path / "features";
    let (mut layers, mut from, mut number) = (nn::seq_t(), 3, 0);
    for (to, count) in CHANNELS.into_iter().zip(convolutions(depth)) {
        for _ in 0..count {
            let config = ConvConfig { padding: 1, ..ConvConfig::default() };
            layers = layers.add(nn::conv2d(&features / number, from, to, 3, config));
            number += 1;
            if is_normalised {
                layers = layers.add(nn::batch_norm2d(&features / number, to, BatchNormConfig::default()));
                number += 1;
            }
            layers = layers.add_fn(|x| x.relu());
            number += 1;
            from = to;
        }
        layers = layers.add_fn(|x| x.max_pool2d_default(2));
        number += 1;
    }
    layers
}
