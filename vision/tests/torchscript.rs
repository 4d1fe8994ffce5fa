//! Bring your own network: a TorchScript file with a card.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tch::{CModule, Kind, Tensor};
use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_vision::{Device, InstanceConfig, Model, Network};

/// A network that gives the mean of each channel as the logit of one of three classes.
fn network(file: &Path) {
    traced(file, |pictures| pictures.mean_dim([2, 3].as_slice(), false, Kind::Float));
}

/// A network that does so with pictures.
fn traced(file: &Path, forward: impl Fn(&Tensor) -> Tensor) {
    let example = [Tensor::zeros([1, 3, 8, 8], (Kind::Float, tch::Device::Cpu))];
    let mut forward = |inputs: &[Tensor]| vec![forward(&inputs[0])];
    CModule::create_by_tracing("Means", "forward", &example, &mut forward).unwrap().save(file).unwrap();
}

/// A folder `means` with that network and a card that says it has `classes`.
fn model(classes: u32, labels: &str) -> tempfile::TempDir {
    model_of(network, classes, labels, "")
}

/// The same with a network that `write` leaves in a file, and with a line of the card about precisions.
fn model_of(write: impl FnOnce(&Path), classes: u32, labels: &str, precision: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("means");
    std::fs::create_dir(&folder).unwrap();
    write(&folder.join("means.pt"));
    let digest = Sha256::digest(std::fs::read(folder.join("means.pt")).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(folder.join("labels.txt"), labels).unwrap();
    let card = format!(
        r#"
name = "means"
about = "Says which colour is the strongest."
licence = "Apache-2.0"
source = "made by a test"
task = "classify"
{precision}
[network]
architecture = "torchscript"
file = "means.pt"
sha256 = "{digest}"
[input]
width = 8
height = 8
resize = {{ filter = "bilinear" }}
crop = "none"
channels = "rgb"
mean = [0.0, 0.0, 0.0]
std = [0.1, 0.1, 0.1]
[output]
classes = {classes}
activation = "softmax"
labels = "labels.txt"
"#
    );
    std::fs::write(folder.join("card.toml"), card).unwrap();
    home
}

/// Two green pictures.
fn green() -> Tensor {
    let pixels = Tensor::from_slice(&[10u8, 250, 10]).reshape([1, 1, 1, 3]).expand([2, 8, 8, 3], false).contiguous();
    pixels.permute([0, 3, 1, 2])
}

#[test]
fn a_torchscript_file_with_a_card_classifies() {
    let home = model(3, "red\ngreen\nblue\n");
    let card = Card::load(home.path().join("means")).unwrap();
    let network = Network::load(&card, Device::Cpu, Some(Precision::Fp32)).unwrap();

    let probabilities = network.forward(&green()).unwrap();

    assert_eq!(probabilities.size(), [2, 3]);
    assert_eq!(i64::try_from(probabilities.get(0).argmax(None, false)).unwrap(), 1);
}

#[test]
fn a_card_that_promises_other_classes_is_refused_when_it_is_loaded() {
    let home = model(4, "red\ngreen\nblue\nnone\n");
    let card = Card::load(home.path().join("means")).unwrap();
    let refused = Network::load(&card, Device::Cpu, Some(Precision::Fp32)).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("[2, 3]") && said.contains("[2, 4]"), "{said}");
}

/// Loads what such a network is as one that segments, with an activation.
fn segmenting(
    write: impl FnOnce(&Path),
    labels: &[&str],
    activation: &str,
) -> Result<Network, tidemill_vision::NetworkError> {
    let home = model_of(write, u32::try_from(labels.len()).unwrap(), &labels.join("\n"), "");
    let folder = home.path().join("means");
    let card = std::fs::read_to_string(folder.join("card.toml")).unwrap();
    let card = card.replace("\"classify\"", "\"segment\"").replace("\"softmax\"", &format!("{activation:?}"));
    std::fs::write(folder.join("card.toml"), card).unwrap();
    Network::load(&Card::load(folder).unwrap(), Device::Cpu, Some(Precision::Fp32))
}

#[test]
fn one_map_alone_is_a_probability_or_the_logit_of_one() {
    let one_map = |file: &Path| traced(file, |pictures| pictures.mean_dim([1].as_slice(), true, Kind::Float));

    let refused = segmenting(one_map, &["ground", "leaf"], "softmax").unwrap_err().to_string();
    assert!(refused.contains("it gives one map") && refused.contains("activation = \"sigmoid\""), "{refused}");

    for activation in ["sigmoid", "none"] {
        let maps = segmenting(one_map, &["ground", "leaf"], activation).unwrap().forward(&green()).unwrap();
        assert_eq!(maps.size(), [2, 2, 8, 8]);
        let off = (maps.sum_dim_intlist([1].as_slice(), false, Kind::Float) - 1.0).abs().max().double_value(&[]);
        assert!(off < 1e-5, "both together are certain: {off} off with {activation}");
    }
}

#[test]
fn maps_without_a_place_are_refused_when_the_network_is_loaded() {
    let no_rows = |file: &Path| traced(file, |pictures| pictures.narrow(2, 0, 0));

    let refused = segmenting(no_rows, &["red", "green", "blue"], "none").unwrap_err().to_string();

    assert!(refused.contains("[2, 3, 0, 8], which has no place in it"), "{refused}");
}

/// `buffers.cpp` wrote the file: it has a parameter, a buffer of fractions, one of places and a mask.
#[test]
fn of_what_a_module_keeps_only_fractions_change_with_the_precision() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/buffers.pt");
    let copy = |to: &Path| {
        std::fs::copy(&file, to).unwrap();
    };
    let home = model_of(copy, 3, "blue\ngreen\nred\n", "");
    let card = Card::load(home.path().join("means")).unwrap();
    for (precision, fraction) in [(Precision::Fp32, 4), (Precision::Bf16, 2), (Precision::Fp16, 2)] {
        let network = Network::load(&card, Device::Cpu, Some(precision)).unwrap();

        let probabilities = network.forward(&green()).unwrap();

        assert_eq!(i64::try_from(probabilities.get(0).argmax(None, false)).unwrap(), 1, "{precision}");
        // Three places of eight bytes and a mask of three; twice three fractions.
        assert_eq!(network.weight_bytes(), 3 * 8 + 3 + 2 * 3 * fraction, "{precision}");
    }
}

#[test]
fn a_precision_that_a_network_does_not_run_in_gives_way_unless_it_is_asked_for() {
    let precision = "precision = { cpu = [\"bf16\", \"fp32\"] }";
    let home = model_of(network, 3, "red\ngreen\nblue\n", precision);
    let card = Card::load(home.path().join("means")).unwrap();
    let config = |precision| InstanceConfig {
        devices: vec![Device::Cpu],
        precision,
        instances: 1,
        threads: 1,
        max_batch: 1,
        max_delay: Duration::ZERO,
    };

    // Without any parameters it counts as frozen.
    assert_eq!(Model::start(card.clone(), &config(None)).unwrap().precision(), Precision::Fp32);
    let refused = Model::start(card, &config(Some(Precision::Bf16))).unwrap_err().to_string();
    assert!(refused.contains("frozen"), "{refused}");
}
