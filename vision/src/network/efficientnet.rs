//! EfficientNet-B0 to B7, as torchvision has them.
//!
//! tch brings them too, with TensorFlow's padding and normalisation: with torchvision's weights those give something else.
//!
//! # Source
//!
//! Widths, depths, names and the two values of epsilon: torchvision 0.26, `models/efficientnet.py`.

use tch::Tensor;
use tch::nn::{self, BatchNormConfig, ConvConfig, ModuleT, Path};

/// How much wider and deeper than B0 each of B0 to B7 is.
const SCALES: [(f64, f64); 8] =
    [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)];

/// The stages of B0: by how much a block widens inside, kernel, stride, channels in and out, blocks.
const STAGES: [(i64, i64, i64, i64, i64, usize); 7] = [
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
];

/// Makes the layers of B`number`.
pub(super) fn efficientnet(path: &Path, number: usize, classes: i64) -> impl ModuleT + use<> {
    let (width, depth) = SCALES[number];
    // The larger ones were trained in TensorFlow, whose normalisation this is.
    let epsilon = if number >= 5 { 1e-3 } else { 1e-5 };
    let scaled = |channels: i64| divisible(channels as f64 * width);
    let features = path / "features";
    let mut layers = nn::seq_t().add(normalised(&(&features / 0), 3, scaled(32), 3, 2, 1, epsilon)).add_fn(silu);
    for (stage, (widen, kernel, stride, from, to, blocks)) in STAGES.into_iter().enumerate() {
        let blocks = (blocks as f64 * depth).ceil() as usize;
        for block in 0..blocks {
            let (from, stride) = if block == 0 { (scaled(from), stride) } else { (scaled(to), 1) };
            let path = &features / (stage + 1) / block / "block";
            layers = layers.add(inverted(&path, widen, kernel, stride, from, scaled(to), epsilon));
        }
    }
    let (last, head) = (scaled(320), 4 * scaled(320));
    layers
        .add(normalised(&(&features / 8), last, head, 1, 1, 1, epsilon))
        .add_fn(silu)
        .add_fn(|x| x.adaptive_avg_pool2d([1, 1]).flat_view())
        .add(nn::linear(path / "classifier" / 1, head, classes, nn::LinearConfig::default()))
}

/// Widens, looks at the neighbourhood, weighs the channels, narrows; and adds the input where it has the output's shape.
fn inverted(
    path: &Path,
    widen: i64,
    kernel: i64,
    stride: i64,
    from: i64,
    to: i64,
    epsilon: f64,
) -> impl ModuleT + use<> {
    let wide = divisible((from * widen) as f64);
    let mut layers = nn::seq_t();
    let mut next = 0;
    let mut part = || {
        next += 1;
        path / (next - 1)
    };
    if wide != from {
        layers = layers.add(normalised(&part(), from, wide, 1, 1, 1, epsilon)).add_fn(silu);
    }
    layers = layers.add(normalised(&part(), wide, wide, kernel, stride, wide, epsilon)).add_fn(silu);
    let squeeze = part();
    let narrow = (from / 4).max(1);
    let weigh = nn::seq_t()
        .add_fn(|x| x.adaptive_avg_pool2d([1, 1]))
        .add(nn::conv2d(&squeeze / "fc1", wide, narrow, 1, ConvConfig::default()))
        .add_fn(silu)
        .add(nn::conv2d(&squeeze / "fc2", narrow, wide, 1, ConvConfig::default()))
        .add_fn(|x| x.sigmoid());
    layers = layers.add_fn_t(move |x, train| x * weigh.forward_t(x, train)).add(normalised(
        &part(),
        wide,
        to,
        1,
        1,
        1,
        epsilon,
    ));
    let is_skipped = stride == 1 && from == to;
    nn::func_t(move |x, train| if is_skipped { layers.forward_t(x, train) + x } else { layers.forward_t(x, train) })
}

fn normalised(
    path: &Path,
    from: i64,
    to: i64,
    kernel: i64,
    stride: i64,
    groups: i64,
    epsilon: f64,
) -> impl ModuleT + use<> {
    let conv = ConvConfig { stride, padding: (kernel - 1) / 2, groups, bias: false, ..ConvConfig::default() };
    nn::seq_t().add(nn::conv2d(path / 0, from, to, kernel, conv)).add(nn::batch_norm2d(
        path / 1,
        to,
        BatchNormConfig { eps: epsilon, ..BatchNormConfig::default() },
    ))
}

fn silu(x: &Tensor) -> Tensor {
    x.silu()
}

/// The multiple of 8 that is nearest, but not below nine tenths.
fn divisible(channels: f64) -> i64 {
    let nearest = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_multiples_of_eight_and_hardly_fewer() {
        assert_eq!([32.0, 35.2, 17.6, 352.0, 12.0].map(divisible), [32, 32, 16, 352, 16]);
    }
}
