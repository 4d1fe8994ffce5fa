//! `vision.train` through the real engine, as a user would: train, and use what came of it.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{digits, settings};
use image::GrayImage;
use serde_json::{Value, json};
use tidemill_core::batch::{BatchId, ItemIndex};
use tidemill_core::blobs::{BlobRef, Blobs, FetchLimits};
use tidemill_core::compute::Pool;
use tidemill_core::failure::Failure;
use tidemill_core::notes::Notes;
use tidemill_core::task::{Job, Register, Tools, raw};
use tidemill_tasks::House;
use tidemill_tasks::scenario::Seeded;
use tidemill_tasks::vision::Models;
use tidemill_tasks::vision::card::Card;
use tidemill_vision::{Torch, verify};

/// Every task, with the engine, and the models of a folder.
fn register(models: &Path) -> Register {
    let models = Models { folders: vec![models.to_owned()], default: String::new() };
    let engine = Torch::start(&settings()).unwrap();
    tidemill_tasks::register(&House { models, engine: Some(Arc::new(engine)), ..House::default() })
}

fn job(register: &Register, task: &str, options: Value) -> Arc<dyn Job> {
    register.find(task).unwrap().prepare(&raw(&options)).unwrap()
}

fn tools(home: &Path) -> Tools {
    let limits = FetchLimits { max_bytes: 1 << 30, timeout: std::time::Duration::from_secs(5) };
    Tools::new(Pool::new(1).unwrap(), Blobs::in_folder(&home.join("blobs"), limits).unwrap())
}

async fn run(job: &Arc<dyn Job>, input: &Path, tools: Tools) -> Result<Value, Failure> {
    let output = job.wait(&raw(input.to_str().unwrap()), tools).running.await?;
    Ok(serde_json::from_str(output.get()).unwrap())
}

/// What a seed gives is drawn from libtorch's one generator: two trainings in one process, which one engine never has,
/// would take each other's numbers.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn train(data: &Path, options: Value, home: &Path) -> Result<Value, Failure> {
    let _alone = ALONE.lock().await;
    let (notes, batch) = (Notes::default(), BatchId::new());
    let notepad = notes.of(&batch, ItemIndex(0));
    let tools = Tools { notepad: notepad.clone(), ..tools(home) };
    let output = run(&job(&register(&home.join("models")), "vision.train", options), data, tools).await?;
    let (last, done) = (&notes.list(1)[0].text, output["epochs"].as_array().unwrap().len());
    assert!(last.contains(&format!(": epoch {done} of ")) && last.contains("validation: loss "), "{last}");
    Ok(output)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[tokio::test]
async fn digits_are_learned_and_the_model_that_comes_of_it_tells_them_at_once() {
    let home = tempfile::tempdir().unwrap();
    let (data, models) = (home.path().join("Digits"), home.path().join("models"));
    digits::write(&data, u32::MAX);

    let output = train(&data, json!({"to": models, "epochs": 12, "shift": 0.05}), home.path()).await.unwrap();

    println!("{output:#}");
    assert_eq!((&output["model"], &output["architecture"]), (&json!("digits"), &json!("cifar10-cnn")));
    assert_eq!(output["training_pictures"].as_u64().unwrap() + output["validation_pictures"].as_u64().unwrap(), 1797);
    assert_eq!(output["epochs"].as_array().unwrap().len(), 12);
    let accuracy = number(&output["best"]["accuracy"]);
    assert!(accuracy >= 0.97, "{accuracy} of the held-out digits are right");
    let first = &output["epochs"][0];
    assert!(number(&output["epochs"][11]["training"]["loss"]) < number(&first["training"]["loss"]) / 4.0);

    // The folder stands by itself: digests, golden inputs in every precision, and every held-out digit by the task.
    let card = Card::load(models.join("digits")).unwrap();
    println!("{:?}", verify(&card, &settings()).unwrap());
    let register = register(&models);
    let classify = job(&register, "vision.classify", json!({"model": "digits", "top": 1}));
    let (mut right, mut all) = (0, 0);
    for digit in 0..10 {
        for file in std::fs::read_dir(data.join(format!("val/{digit}"))).unwrap() {
            let said = run(&classify, &file.unwrap().path(), tools(home.path())).await.unwrap();
            right += usize::from(said["labels"][0]["label"].as_str() == Some(&digit.to_string()));
            all += 1;
        }
    }
    let told = accuracy * f64::from(all);
    // In half precision one that is on the edge may tip.
    assert!((right as f64 - told).abs() <= 2.0, "{right} of {all} are right, and {told} were in training");
    let chart = std::fs::read_to_string(output["chart"].as_str().unwrap()).unwrap();
    assert!(chart.starts_with("<svg") && chart.contains("Accuracy"), "{}", &chart[..200]);
}

/// A picture of four fields about a random crossing, each of one of four kinds, and what is where.
fn fields(seed: u64, side: u32) -> (image::RgbImage, GrayImage) {
    let mut seeded = Seeded::new(seed);
    let mut within = |low: u64, high: u64| seeded.number(low..=high) as u32;
    let kinds = [0; 4].map(|_: u8| within(0, 3) as u8);
    let crossing = [0; 2].map(|_: u8| within(u64::from(side) * 3 / 8, u64::from(side) * 5 / 8));
    let light = within(0, 40) as i32 - 20;
    let mask = GrayImage::from_fn(side, side, |x, y| {
        image::Luma([kinds[usize::from(x >= crossing[0]) + 2 * usize::from(y >= crossing[1])]])
    });
    let mut picture = image::RgbImage::new(side, side);
    for (pixel, kind) in picture.pixels_mut().zip(mask.pixels()) {
        let colour = [[90, 150, 210], [70, 130, 60], [190, 160, 100], [150, 60, 60]][usize::from(kind.0[0])];
        pixel.0 = colour.map(|value: i32| (value + light + within(0, 50) as i32 - 25).clamp(0, 255) as u8);
    }
    (picture, mask)
}

/// Pictures and masks of such fields.
fn maps(to: &Path, part: &str, seeds: std::ops::Range<u64>, side: u32) {
    let [pictures, masks] = ["images", "masks"].map(|name| to.join(part).join(name));
    for folder in [&pictures, &masks] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for seed in seeds {
        let (picture, mask) = fields(seed, side);
        picture.save(pictures.join(format!("{seed}.png"))).unwrap();
        mask.save(masks.join(format!("{seed}.png"))).unwrap();
    }
}

#[tokio::test]
async fn masks_are_learned_over_a_frozen_backbone_and_pictures_are_segmented_by_what_came_of_it() {
    let home = tempfile::tempdir().unwrap();
    let (data, models) = (home.path().join("fields"), home.path().join("models"));
    maps(&data, "train", 0..40, 128);
    maps(&data, "val", 1000..1012, 128);
    std::fs::write(data.join("labels.txt"), "water\nmeadow\nsand\nheath\n").unwrap();
    let options = json!({"to": models, "epochs": 36, "head": 64, "batch": 8});

    let output = train(&data, options, home.path()).await.unwrap();

    println!("{output:#}");
    assert_eq!((&output["architecture"], &output["classes"]), (&json!("fcn32s-vgg19"), &json!(4)));
    let told = number(&output["best"]["iou"]);
    assert!(told >= 0.8, "the mean intersection over union is {told}");
    let card = Card::load(models.join("fields")).unwrap();
    assert_eq!((card.input.width, card.input.height), (128, 128));
    println!("{:?}", verify(&card, &settings()).unwrap());

    // A mask of the task, over pictures that it never saw.
    let register = register(&models);
    let segment = job(&register, "vision.segment", json!({"model": "fields"}));
    let (mut same, mut either) = ([0; 4], [0; 4]);
    for seed in 2000..2008 {
        let (picture, mask) = fields(seed, 128);
        let file = home.path().join("new.png");
        picture.save(&file).unwrap();
        let said = run(&segment, &file, tools(home.path())).await.unwrap();
        let blob: BlobRef = serde_json::from_value(said["mask"].clone()).unwrap();
        let said = std::fs::read(tools(home.path()).blobs.path_of(&blob).unwrap()).unwrap();
        let said = image::load_from_memory(&said).unwrap().into_rgb8();
        for (said, class) in said.pixels().zip(mask.pixels()) {
            // inferno in four steps, which differ in red
            let said = [60, 179, 245].into_iter().filter(|red| said.0[0] > *red).count();
            let class = usize::from(class.0[0]);
            same[class] += u32::from(said == class);
            either[class] += 1;
            either[said] += u32::from(said != class);
        }
    }
    let iou = same.iter().zip(either).map(|(same, either)| f64::from(*same) / f64::from(either)).sum::<f64>() / 4.0;
    assert!(iou >= 0.75, "on new pictures the mean intersection over union is {iou}");
}

#[tokio::test]
async fn a_picture_that_is_left_over_by_itself_spoils_no_normalisation() {
    let home = tempfile::tempdir().unwrap();
    let (data, models) = (home.path().join("few"), home.path().join("models"));
    for (part, count) in [("train", 9), ("val", 2)] {
        for number in 0..count {
            let folder = data.join(part).join(if number % 2 == 0 { "a" } else { "b" });
            std::fs::create_dir_all(&folder).unwrap();
            fields(number, 32).0.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    let options = |name: &str, batch: u32, epochs: u32| {
        json!({
            "to": models, "name": name, "epochs": epochs, "architecture": "resnet18", "size": "32x32", "batch": batch
        })
    };

    // The second goes on from the checkpoint of the first.
    for epochs in [1, 2] {
        let output = train(&data, options("few", 4, epochs), home.path()).await.unwrap();
        assert!(number(&output["best"]["loss"]).is_finite(), "{output:#}");
    }

    let refused = train(&data, options("alone", 1, 1), home.path()).await.unwrap_err();
    assert_eq!(
        (&*refused.kind, &*refused.message),
        ("batch", "batch: resnet18 normalises by the pictures of a batch: it takes 2 or more to learn")
    );
}
