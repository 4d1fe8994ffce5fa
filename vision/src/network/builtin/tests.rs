//! The built-in layers beside torchvision's: `tests/architectures.py` wrote what is expected.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::*;

const CLASSES: i64 = 10;

fn reference() -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(include_str!("../../../tests/architectures.json")).unwrap()
}

/// Numbers from 0 up to 2^32, scattered by the name and the place, as the script computes them.
fn hashed(name: &str, count: i64) -> Tensor {
    let seed = name.bytes().fold(0_u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mask = |x: Tensor| x.bitwise_and(0xffff_ffff_i64);
    let folded = |x: &Tensor| x.bitwise_xor_tensor(&x.bitwise_right_shift_tensor_scalar(16));
    let x = mask((Tensor::arange(count, (Kind::Int64, Device::Cpu)) + i64::from(seed)) * 0x9E37_79B1_i64);
    let x = mask(folded(&x) * 0x45D_9F3B_i64);
    folded(&x)
}

fn formula(name: &str, shape: &[i64], is_normalisation: bool) -> Tensor {
    let uniform = (hashed(name, shape.iter().product()).to_kind(Kind::Double) / 4_294_967_296_f64).reshape(shape);
    let scaled = if is_normalisation && (name.ends_with(".weight") || name.ends_with(".running_var")) {
        uniform + 0.5
    } else if shape.len() < 2 {
        (uniform - 0.5) * 0.2
    } else {
        (uniform * 2.0 - 1.0) * (3.0 / shape[1..].iter().product::<i64>() as f64).sqrt()
    };
    scaled.to_kind(Kind::Float)
}

fn built(name: &str) -> (VarStore, Layers) {
    tch::set_num_threads(1); // tests run beside one another
    let store = VarStore::new(Device::Cpu);
    // The one network whose file says how wide it is: as the script has it.
    let width = ("head.fc6.weight".to_owned(), Tensor::zeros([8, 512, 7, 7], (Kind::Float, Device::Cpu)));
    let layers =
        make(name.parse().unwrap(), &store.root(), [96, 96], CLASSES, &weights::Tensors::from([width])).unwrap();
    (store, layers)
}

/// What our layers say of the formula's picture with the formula's weights, once they are placed as they are to run.
fn logits(name: &str, kind: Kind) -> Vec<f64> {
    let (store, layers) = built(name);
    let variables = store.variables();
    let weight = |name: &String| {
        let parent = name.rsplit_once('.').unwrap().0;
        let is_normalisation = variables.contains_key(&format!("{parent}.running_mean"));
        (name.clone(), formula(name, &variables[name].size(), is_normalisation))
    };
    weights::fill(&store, variables.keys().map(weight).collect()).unwrap();
    place(&store, name.parse().unwrap(), Device::Cpu, kind).unwrap();
    let side = if name == "inception_v3" { 139 } else { 96 };
    let picture = hashed("picture", 3 * side * side).bitwise_and(255_i64).reshape([1, 3, side, side]);
    let picture = (picture.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0).to_kind(kind);
    let output = tch::no_grad(|| layers.forward_t(&picture, false)).to_kind(Kind::Double).flatten(0, -1);
    let step = output.size()[0] / CLASSES;
    (0..CLASSES).map(|number| output.double_value(&[number * step])).collect()
}

#[test]
fn weights_are_called_as_torchvision_calls_them() {
    for (name, expected) in reference() {
        let (store, _layers) = built(&name);
        let shapes: BTreeMap<String, Vec<i64>> =
            store.variables().into_iter().map(|(name, variable)| (name, variable.size())).collect();
        let lines: String = shapes.iter().map(|(name, shape)| format!("{name} {shape:?}\n")).collect();

        assert_eq!(expected["names"], format!("{:x}", Sha256::digest(&lines)), "{name}:\n{lines}");
    }
}

mod with_the_same_weights_it_says_what_torchvisions_says {
    macro_rules! networks {
        ($($test:ident $name:literal)*) => {
            $(#[test] fn $test() { super::agrees_with_torchvision($name) })*
        };
    }

    networks! {
        alexnet "alexnet"
        densenet121 "densenet121"
        efficientnet_b0 "efficientnet_b0"
        efficientnet_b5 "efficientnet_b5"
        fcn32s_vgg19 "fcn32s-vgg19"
        inception_v3 "inception_v3"
        mobilenet_v2 "mobilenet_v2"
        resnet18 "resnet18"
        resnet50 "resnet50"
        squeezenet1_0 "squeezenet1_0"
        squeezenet1_1 "squeezenet1_1"
    }
}

fn agrees_with_torchvision(name: &str) {
    let expected: Vec<f64> = serde_json::from_value(reference()[name]["logits"].clone()).unwrap();
    let largest = expected.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
    // In half precision it runs, and what it says is the same in kind: how near that has to be the golden inputs say.
    for (kind, allowed) in [(Kind::Float, 1e-4), (Kind::BFloat16, 0.3)] {
        for (found, expected) in logits(name, kind).iter().zip(&expected) {
            assert!((found - expected).abs() <= allowed * largest, "{found} instead of {expected} in {kind:?}");
        }
    }
}
