//! Real photographs through the real network: what PyTorch says, the engine says.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::time::Duration;

use common::{card, changed_card, pixels, reference, repository};
use tch::Tensor;
use tidemill_tasks::image::{Limits, prepare};
use tidemill_tasks::vision::card::{Precision, sha256_of};
use tidemill_vision::{Device, InstanceConfig, Model, ModelError, Network, NetworkError};

const PHOTOS: [&str; 2] = ["coffee", "chelsea"];

fn config(precision: Precision) -> InstanceConfig {
    InstanceConfig {
        devices: vec![Device::Cpu],
        precision: Some(precision),
        instances: 2,
        threads: 1,
        max_batch: 8,
        max_delay: Duration::ZERO,
    }
}

/// Classifies a picture and checks that each of PyTorch's five classes has its probability within `tolerance`.
async fn agrees_with_pytorch(classifier: &Model, photo: &str, pixels: Vec<u8>, tolerance: f32) {
    let scored = classifier.classify(pixels, 1000).await.expect("classify");

    for (class, expected) in reference(photo) {
        let found = scored.iter().find(|scored| scored.class == class).expect("the class is among all").probability;
        assert!((found - expected).abs() < tolerance, "{photo}, class {class}: {found}, PyTorch says {expected}");
    }
    let sum: f32 = scored.iter().map(|scored| scored.probability).sum();
    assert!((sum - 1.0).abs() < 1e-3, "probabilities add up to {sum}");
    assert!(scored.is_sorted_by(|a, b| a.probability >= b.probability));
}

#[tokio::test]
async fn in_fp32_the_engine_gives_what_pytorch_gives() {
    let classifier = Model::start(card(), &config(Precision::Fp32)).unwrap();

    for photo in PHOTOS {
        agrees_with_pytorch(&classifier, photo, pixels(photo), 0.0005).await;
    }

    let coffee = classifier.classify(pixels("coffee"), 1).await.unwrap();
    assert_eq!(classifier.labels()[coffee[0].class as usize], "espresso");
}

#[tokio::test]
async fn in_bf16_the_engine_stays_close() {
    let classifier = Model::start(card(), &config(Precision::Bf16)).unwrap();

    for photo in PHOTOS {
        agrees_with_pytorch(&classifier, photo, pixels(photo), 0.05).await;
    }
}

#[tokio::test]
async fn a_photograph_prepared_here_is_seen_as_one_prepared_by_pillow() {
    let classifier = Model::start(card(), &config(Precision::Fp32)).unwrap();
    let preparation = classifier.card().input.preparation();

    for (photo, file) in [("coffee", "coffee.png"), ("chelsea", "animals/chelsea.png")] {
        let bytes = std::fs::read(repository().join("examples/photos").join(file)).unwrap();
        let mut pixels = Vec::new();
        prepare(&bytes, &preparation, &Limits::default(), &mut pixels).unwrap();

        agrees_with_pytorch(&classifier, photo, pixels, 0.02).await;
    }
}

#[tokio::test]
async fn many_pictures_at_once_are_batched_and_each_gets_its_own_answer() {
    let classifier = Model::start(card(), &config(Precision::Fp32)).unwrap();
    let answers = (0..40).map(|number| classifier.classify(pixels(PHOTOS[number % 2]), 1));

    let answers = futures::future::join_all(answers).await;

    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap()[0].class, reference(PHOTOS[number % 2])[0].0);
    }
    let counts = classifier.counts();
    assert_eq!((counts.pictures, counts.failures), (40, 0));
    assert!(counts.executions < 40, "no batches were made: {counts:?}");
}

#[tokio::test]
async fn pixels_of_another_size_are_refused_before_they_join_a_batch() {
    let classifier = Model::start(card(), &config(Precision::Fp32)).unwrap();

    let refused = classifier.classify(vec![0; 12], 1).await;

    assert_eq!(refused, Err(ModelError::WrongSize { expected: 224 * 224 * 3, found: 12 }));
    assert_eq!(classifier.counts().executions, 0);
}

#[test]
fn a_card_that_claims_other_classes_is_refused_and_says_what_differs() {
    let (sandbox, folder) =
        changed_card(|text| text.replace("= 1000", "= 2").replace("\"imagenet\"", "\"labels.txt\""));
    std::fs::write(folder.join("labels.txt"), "yes\nno\n").unwrap();
    let card = tidemill_tasks::vision::card::Card::load(&folder).unwrap();

    let error = Network::load(&card, Device::Cpu, None).unwrap_err();

    assert!(matches!(error, NetworkError::Misfit { .. }));
    assert_eq!(
        error.to_string(),
        "the card of `efficientnet-lite0` does not fit its network: for 2 pictures it gives an output of shape \
         [2, 1000], but task and output.classes say [2, 2]"
    );
    drop(sandbox);
}

#[test]
fn what_training_leaves_beside_the_weights_does_not_matter() {
    let (_sandbox, folder) = changed_card(|text| text.replace("warm_up = [1, 8]", "warm_up = [1]"));
    let file = folder.join("weights.safetensors");
    let wrapped = |(name, tensor): (String, Tensor)| (format!("module.{name}"), tensor);
    let tensors = Tensor::read_safetensors(&file).unwrap().into_iter().map(wrapped);
    let counter = ("module._bn0.num_batches_tracked".to_owned(), Tensor::from(7_i64));
    let tensors: Vec<(String, Tensor)> = tensors.chain([counter]).collect();
    Tensor::write_safetensors(&tensors, &file).unwrap();
    let mut card = tidemill_tasks::vision::card::Card::load(&folder).unwrap();
    card.network.sha256 = sha256_of(&file).unwrap();

    let network = Network::load(&card, Device::Cpu, Some(Precision::Fp32)).unwrap();

    assert_eq!(network.classes(), 1000);
}

#[test]
fn weights_other_than_the_cards_are_refused() {
    let (sandbox, folder) = changed_card(|text| text.replace("0c677c31", "0c677c32"));
    let card = tidemill_tasks::vision::card::Card::load(&folder).unwrap();

    let error = Network::load(&card, Device::Cpu, None).unwrap_err();

    assert!(error.to_string().contains("has sha256 0c677c31"), "{error}");
    drop(sandbox);
}
