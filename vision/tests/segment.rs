//! `vision.segment` through the real engine: what PyTorch sees, it sees.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{repository, settings};
use serde_json::Value;
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::compute::Pool;
use tidemill_core::failure::Failure;
use tidemill_core::settings::VisionSettings;
use tidemill_core::task::{Tools, raw};
use tidemill_tasks::House;
use tidemill_tasks::image::{Header, Limits};
use tidemill_tasks::vision::Models;
use tidemill_tasks::vision::card::{Architecture, Card, Question, sha256_of};
use tidemill_vision::Torch;
use tidemill_vision::network::write_random;

fn models() -> Models {
    Models { folders: vec![repository().join("models")], default: "efficientnet-lite0".to_owned() }
}

/// Runs the task over one picture and gives its output, with the files in `folder`.
async fn segment(models: Models, options: Value, picture: &Path, folder: &Path) -> Result<Value, Failure> {
    segment_with(&settings(), models, options, picture, folder).await
}

async fn segment_with(
    settings: &VisionSettings,
    models: Models,
    options: Value,
    picture: &Path,
    folder: &Path,
) -> Result<Value, Failure> {
    let engine = Torch::start(settings).unwrap();
    let house = House { models, engine: Some(Arc::new(engine)), ..House::default() };
    let job = tidemill_tasks::register(&house).find("vision.segment").unwrap().prepare(&raw(&options)).unwrap();
    let tools = Tools::new(Pool::new(1).unwrap(), Blobs::in_folder(folder, limits()).unwrap());
    let output = job.wait(&raw(picture.to_str().unwrap()), tools).running.await?;
    Ok(serde_json::from_str(output.get()).unwrap())
}

fn limits() -> FetchLimits {
    FetchLimits { max_bytes: 1 << 30, timeout: std::time::Duration::from_secs(5) }
}

/// The file in a field of an output.
fn file(output: &Value, field: &str, folder: &Path) -> Vec<u8> {
    let blob: BlobRef = serde_json::from_value(output[field].clone()).unwrap();
    std::fs::read(Blobs::in_folder(folder, limits()).unwrap().path_of(&blob).unwrap()).unwrap()
}

/// Width and height of the picture in a field of an output.
fn size(output: &Value, field: &str, folder: &Path) -> (u32, u32) {
    Header::read(&file(output, field, folder), &Limits::default()).unwrap().size()
}

#[tokio::test]
async fn a_person_is_where_pytorch_says_that_she_is() {
    let folder = tempfile::tempdir().unwrap();
    let photo = repository().join("examples/photos/astronaut.png");

    // The default model classifies; the one that segments is found.
    let output = segment(models(), serde_json::json!({}), &photo, folder.path()).await.unwrap();

    assert_eq!(output["model"], "selfie-segmentation");
    assert_eq!((&output["width"], &output["height"]), (&512.into(), &512.into()));
    let shares: Vec<f64> =
        output["classes"].as_array().unwrap().iter().map(|class| class["share"].as_f64().unwrap()).collect();
    assert_eq!(output["classes"][1]["label"], "person");
    assert!((shares[1] - 0.5458).abs() < 0.002, "PyTorch says 0.5458, not {shares:?}");
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let found = image::load_from_memory(&file(&output, "mask", folder.path())).unwrap().into_rgb8();
    let expected = image::open(repository().join("vision/tests/astronaut.mask.png")).unwrap().into_luma8();
    let person = |pixel: &image::Rgb<u8>| pixel.0 == [252, 255, 164];
    let differ = found.pixels().zip(expected.pixels()).filter(|(found, expected)| person(found) != (expected.0[0] > 0));
    let differ = differ.count();
    assert!(
        differ <= 512,
        "{differ} of 262,144 pixels are another class than with PyTorch: Pillow's filter is not ours"
    );
    assert!(output.get("overlay").is_none() && output.get("side_by_side").is_none());
}

#[tokio::test]
async fn on_request_it_is_shown_over_and_beside_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    let options = serde_json::json!({"model": "selfie-segmentation", "pictures": ["overlay"], "picture": true});
    let photo = repository().join("examples/photos/animals/chelsea.png");

    let output = segment(models(), options, &photo, folder.path()).await.unwrap();

    assert!(output.get("mask").is_none(), "it was not asked for");
    assert_eq!(size(&output, "overlay", folder.path()), (451, 300));
    assert_eq!(size(&output, "side_by_side", folder.path()), (2 * 512 + 3 * 24, 340 + 40 + 2 * 24));
}

#[tokio::test]
async fn a_picture_that_cannot_be_read_fails_alone_and_a_wrong_option_is_refused() {
    let folder = tempfile::tempdir().unwrap();

    let failure =
        segment(models(), serde_json::json!({}), &repository().join("tests/odd-files/empty.jpg"), folder.path())
            .await
            .unwrap_err();
    assert!(!failure.retryable);

    let house = House { models: models(), ..House::default() };
    let register = tidemill_tasks::register(&house);
    let prepare = |options: Value| register.find("vision.segment").unwrap().prepare(&raw(&options)).err().unwrap().0;
    assert!(prepare(serde_json::json!({"pictures": ["masks"]})).contains("unknown variant `masks`"));
    assert!(prepare(serde_json::json!({"model": "efficientnet-lite0"})).contains("answers classify, not segment"));
}

#[tokio::test]
async fn a_model_that_is_larger_than_all_may_be_together_is_refused_with_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    let settings = VisionSettings { model_memory_bytes: 100 << 10, ..settings() };
    let photo = repository().join("examples/photos/coffee.png");

    let refused = segment_with(&settings, models(), serde_json::json!({}), &photo, folder.path()).await.unwrap_err();

    assert_eq!((refused.kind.as_ref(), refused.retryable), ("model", false));
    assert!(refused.message.contains("vision.model_memory allows 100KiB"), "{}", refused.message);
}

#[tokio::test]
async fn fcn32s_over_vgg19_segments_into_four_classes() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("fcn");
    std::fs::create_dir(&model).unwrap();
    write_random(Architecture::Fcn32sVgg19, 4, Some(16), &model.join("weights.safetensors")).unwrap();
    std::fs::write(model.join("labels.txt"), "land\nwater\nwood\ntown\n").unwrap();
    let mut card = Card::draft("fcn", Question::Segment);
    card.network.architecture = Architecture::Fcn32sVgg19;
    card.network.file = "weights.safetensors".to_owned();
    card.network.sha256 = sha256_of(&model.join("weights.safetensors")).unwrap();
    (card.input.width, card.input.height) = (128, 128);
    card.output.classes = 4;
    card.output.labels = "labels.txt".to_owned();
    card.write(&model).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let models = Models { folders: vec![home.path().to_owned()], default: String::new() };
    let photo = repository().join("examples/photos/china.jpg");
    let output = segment(models, serde_json::json!({"picture": true}), &photo, folder.path()).await.unwrap();

    assert_eq!(output["classes"].as_array().unwrap().len(), 4);
    assert_eq!(size(&output, "mask", folder.path()), (640, 427));
}
