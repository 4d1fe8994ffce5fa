//! Models that come in, are tried out, and are checked again later.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::path::{Path, PathBuf};

use common::settings;
use tch::nn::ModuleT as _;
use tch::{CModule, Kind, Tensor, nn};
use tidemill_tasks::vision::Import;
use tidemill_tasks::vision::card::{Architecture, Card, Precision, Question};
use tidemill_tasks::vision::{Engine as _, Pixels};
use tidemill_vision::network::write_random;
use tidemill_vision::{Device, Network, Torch, import, verify};

/// A model of three classes to be imported into `home`: random weights of an architecture, or a file that is there.
fn coming(home: &Path, name: &str, architecture: Architecture, file: PathBuf) -> Import {
    let labels = home.join("labels");
    std::fs::write(&labels, "red\ngreen\nblue\n").unwrap();
    let mut card = Card::draft(name, Question::Classify);
    card.network.architecture = architecture;
    card.network.file = file.file_name().unwrap().to_str().unwrap().to_owned();
    card.output.classes = 3;
    card.output.labels = "labels.txt".to_owned();
    let files = vec![(file, card.network.file.clone()), (labels, "labels.txt".to_owned())];
    Import { card, files, golden: Vec::new(), to: home.join("models"), replaces: false }
}

/// Random weights, three megabytes of them.
fn small(home: &Path) -> Import {
    made(home, Architecture::Squeezenet11)
}

fn made(home: &Path, architecture: Architecture) -> Import {
    let file = home.join("weights.safetensors");
    write_random(architecture, 3, None, &file).unwrap();
    coming(home, "mine", architecture, file)
}

/// The network of those weights as TorchScript, traced from the library's own layers.
fn traced(home: &Path) -> Import {
    let mut store = nn::VarStore::new(tch::Device::Cpu);
    let network = tch::vision::resnet::resnet18(&store.root(), 3);
    store.load(home.join("weights.safetensors")).unwrap();
    store.freeze();
    let example = [Tensor::zeros([2, 3, 224, 224], (Kind::Float, tch::Device::Cpu))];
    let file = home.join("traced.pt");
    let mut forward = |inputs: &[Tensor]| vec![network.forward_t(&inputs[0], false)];
    CModule::create_by_tracing("Traced", "forward", &example, &mut forward).unwrap().save(&file).unwrap();
    let mut coming = coming(home, "traced", Architecture::Torchscript, file);
    coming.card.warm_up = vec![2]; // the library's own view writes the batch's size into the trace
    coming
}

fn photos() -> Tensor {
    let photo = |name: &str| Tensor::from_slice(&common::pixels(name)).view([1, 224, 224, 3]);
    Tensor::cat(&[photo("coffee"), photo("chelsea")], 0).permute([0, 3, 1, 2])
}

#[test]
fn built_in_layers_and_torchscript_of_the_same_weights_agree() {
    let home = tempfile::tempdir().unwrap();
    let mut probabilities = Vec::new();
    for coming in [made(home.path(), Architecture::Resnet18), traced(home.path())] {
        import(&coming, &settings()).unwrap();
        let card = Card::load(coming.to.join(&coming.card.name)).unwrap();
        let network = Network::load(&card, Device::Cpu, Some(Precision::Fp32)).unwrap();
        probabilities.push(network.forward(&photos()).unwrap());
    }

    let off = (&probabilities[0] - &probabilities[1]).abs().max().double_value(&[]);

    assert!(off <= 1e-4, "{off} off: {probabilities:?}");
    let apart = (probabilities[0].get(0) - probabilities[0].get(1)).abs().max().double_value(&[]);
    assert!(apart > 1e-3, "the photographs must not come out alike for this to mean something: {apart}");
}

#[test]
fn an_imported_model_is_verified_until_it_is_changed() {
    let home = tempfile::tempdir().unwrap();
    let mut coming = small(home.path());
    coming.card.precision.cpu = vec![Precision::Bf16, Precision::Fp32];

    let said = import(&coming, &settings()).unwrap().join("\n");
    let folder = home.path().join("models/mine");
    let card = Card::load(&folder).unwrap();

    assert!(said.contains("weights.safetensors has its digest"), "{said}");
    assert!(said.contains("2 golden inputs in fp32 on cpu"), "{said}");
    assert_eq!(verify(&card, &settings()).unwrap()[0], "weights.safetensors has its digest");
    assert_eq!(std::fs::read_dir(home.path().join("models")).unwrap().count(), 1, "nothing else is left there");

    // Other weights, and a card that means them: only the golden inputs notice.
    let mut other = small(home.path());
    other.to = home.path().join("others");
    import(&other, &settings()).unwrap();
    let golden = "golden.safetensors";
    std::fs::copy(folder.join(golden), other.to.join("mine").join(golden)).unwrap();
    let mut card = Card::load(other.to.join("mine")).unwrap();
    card.golden.clone_from(&Card::load(&folder).unwrap().golden);
    let refused = verify(&card, &settings()).unwrap_err();
    assert!(refused.contains("golden inputs in") && refused.contains("is allowed"), "{refused}");

    std::fs::write(folder.join("weights.safetensors"), b"others").unwrap();
    let refused = verify(&Card::load(&folder).unwrap(), &settings()).unwrap_err();
    assert!(refused.contains("has sha256"), "{refused}");
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut coming = small(home.path());

    coming.card.network.architecture = Architecture::Squeezenet10;
    let refused = import(&coming, &settings()).unwrap_err();
    assert!(refused.contains("does not fit its network: its file lacks features.5.expand1x1.bias"), "{refused}");
    assert!(refused.contains("and 7 more; has in another shape features.0.bias [64] instead of [96]"), "{refused}");
    assert!(refused.contains("; has beyond the architecture features.11.expand1x1.bias"), "{refused}");

    coming.card.network.architecture = Architecture::Squeezenet11;
    coming.card.output.classes = 2;
    std::fs::write(home.path().join("labels"), "yes\nno\n").unwrap();
    let refused = import(&coming, &settings()).unwrap_err();
    let said = "its file has in another shape classifier.1.bias [3] instead of [2], classifier.1.weight [3, 512, 1, 1] instead";
    assert!(refused.contains(said), "{refused}");

    // That it has other classes than ImageNet's is what the card lacks; that it is another network is not.
    (coming.card.output.classes, coming.card.output.labels) = (1000, "imagenet".to_owned());
    let refused = import(&coming, &settings()).unwrap_err();
    assert!(refused.contains("[3] instead of [1000]") && refused.contains("--labels FILE"), "{refused}");
    coming.card.network.architecture = Architecture::Squeezenet10;
    let refused = import(&coming, &settings()).unwrap_err();
    assert!(refused.contains("[3] instead of [1000]") && !refused.contains("--labels FILE"), "{refused}");

    assert_eq!(std::fs::read_dir(home.path().join("models")).unwrap().count(), 0);
}

#[test]
fn weights_that_are_taken_for_torchscript_are_told_from_a_file_that_is_spoilt() {
    let home = tempfile::tempdir().unwrap();
    let safetensors = home.path().join("weights.safetensors");
    write_random(Architecture::Squeezenet11, 3, None, &safetensors).unwrap();
    let state_dict = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state-dict.pt");
    let spoilt = home.path().join("spoilt.pt");
    std::fs::write(&spoilt, "no network").unwrap();
    let said = |file| import(&coming(home.path(), "mine", Architecture::Torchscript, file), &settings()).unwrap_err();

    for weights in [safetensors, state_dict] {
        let said = said(weights);
        assert!(said.contains("weights without layers") && said.contains("--architecture resnet18"), "{said}");
    }
    let said = said(spoilt);
    assert!(said.contains("cannot load the network") && !said.contains("--architecture"), "{said}");
}

#[test]
fn what_is_no_model_does_not_make_way_for_one() {
    let home = tempfile::tempdir().unwrap();
    let photos = home.path().join("models/mine");
    std::fs::create_dir_all(&photos).unwrap();
    std::fs::write(photos.join("a.jpg"), "precious").unwrap();

    for replaces in [false, true] {
        let said = import(&Import { replaces, ..small(home.path()) }, &settings()).unwrap_err();
        assert!(said.contains("is there and is no model") && !said.contains("--replace"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(photos.join("a.jpg")).unwrap(), "precious");
}

#[test]
fn what_is_wrong_with_an_import_is_said_of_its_file_and_not_of_a_copy_that_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let cut = home.path().join("cut.safetensors");
    std::fs::write(&cut, [9; 100]).unwrap();

    let said = import(&coming(home.path(), "mine", Architecture::Resnet18, cut), &settings()).unwrap_err();

    assert!(said.contains("error cut.safetensors: "), "{said}");
}

#[test]
fn a_name_or_a_file_that_leads_elsewhere_is_refused_and_nothing_is_made() {
    let home = tempfile::tempdir().unwrap();
    let coming = small(home.path());
    let elsewhere = home.path().join("planted");
    let elsewhere = elsewhere.to_str().unwrap();

    for name in ["../planted", "../../planted", elsewhere, "..", ".", "", ".planted", "a/b", "Planted"] {
        let mut coming = Import { replaces: true, ..coming.clone() };
        coming.card.name = name.to_owned();
        let refused = import(&coming, &settings()).unwrap_err();
        assert!(refused.contains("is no name for a model") && refused.contains("--name"), "{name}: {refused}");
    }
    for file in ["../weights.safetensors", "/etc/passwd", elsewhere, ".weights", ""] {
        let mut coming = coming.clone();
        coming.card.network.file = file.to_owned();
        let refused = import(&coming, &settings()).unwrap_err();
        assert!(refused.contains("network.file is the name of a file"), "{file}: {refused}");
    }

    let mut left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["labels", "weights.safetensors"], "what was there before");
}

#[test]
fn a_model_that_is_there_makes_way_only_when_it_is_told() {
    let home = tempfile::tempdir().unwrap();
    let mut coming = small(home.path());
    import(&coming, &settings()).unwrap();
    let first = Card::load(home.path().join("models/mine")).unwrap();

    let refused = import(&coming, &settings()).unwrap_err();
    assert!(refused.contains("is there already") && refused.contains("--replace"), "{refused}");

    write_random(Architecture::Squeezenet11, 3, None, &home.path().join("weights.safetensors")).unwrap();
    coming.replaces = true;
    import(&coming, &settings()).unwrap();
    let second = Card::load(home.path().join("models/mine")).unwrap();
    assert_ne!(first.network.sha256, second.network.sha256);
    assert_eq!(std::fs::read_dir(home.path().join("models")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_card_that_is_changed_is_another_model_from_the_next_batch_on() {
    let home = tempfile::tempdir().unwrap();
    import(&small(home.path()), &settings()).unwrap();
    let folder = home.path().join("models/mine");
    let engine = Torch::start(&settings()).unwrap();
    let classified = async || {
        let pixels = Pixels::from(common::pixels("coffee"));
        engine.classify(&Card::load(&folder).unwrap(), pixels, 3).await.unwrap()
    };
    let before = classified().await;
    assert_eq!(classified().await, before);

    std::fs::write(folder.join("labels.txt"), "cyan\nmagenta\nyellow\n").unwrap();
    let renamed = classified().await;
    let other_name = |name: &str| match name {
        "red" => "cyan",
        "green" => "magenta",
        _ => "yellow",
    };
    for (before, now) in before.iter().zip(&renamed) {
        assert_eq!((other_name(&before.label), before.probability), (now.label.as_str(), now.probability));
    }

    let card = folder.join("card.toml");
    let text = std::fs::read_to_string(&card).unwrap();
    std::fs::write(&card, text.replace("activation = \"softmax\"", "activation = \"sigmoid\"")).unwrap();
    let sum: f32 = classified().await.iter().map(|label| label.probability).sum();
    assert!((sum - 1.0).abs() > 1e-3, "three questions now, each with its own answer: {sum}");
}
