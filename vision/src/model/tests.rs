use std::sync::mpsc::Sender;

use futures::future::join_all;
use tidemill_tasks::vision::card::Question;

use super::testing::Double;
use super::*;

/// A model of doubles, each on a device of its own unless there is one device.
fn model(doubles: Vec<Double>, devices: usize, lost: &Lost) -> Model {
    let mut card = Card::draft("double", Question::Classify);
    (card.input.width, card.input.height) = (1, 1);
    let config = InstanceConfig {
        devices: vec![Device::Cpu; devices],
        precision: None,
        instances: 1,
        threads: 1,
        max_batch: 8,
        max_delay: Duration::ZERO,
    };
    let networks = doubles.into_iter().enumerate().map(|(n, double)| (n % devices, Box::new(double) as _)).collect();
    Model::with(card, networks, &config, Arc::new(Tally::new("double")), lost.clone()).unwrap()
}

/// The class of a picture, or why there is none.
async fn seen(model: &Model, red: u8) -> Result<u32, ModelError> {
    model.classify(vec![red, 0, 0], 1).await.map(|classes| classes[0].class)
}

/// Pictures that meet in one batch: they have all come before the gate opens for the one before them.
async fn together(model: &Model, reds: &[u8], open: Sender<()>) -> Vec<Result<u32, ModelError>> {
    let mut first = Box::pin(seen(model, 0));
    let mut others = Box::pin(join_all(reds.iter().map(|red| seen(model, *red))));
    assert!(futures::poll!(&mut first).is_pending());
    until_computing(model, 1).await;
    assert!(futures::poll!(&mut others).is_pending());
    drop(open);
    first.await.unwrap();
    others.await
}

async fn until_computing(model: &Model, batches: usize) {
    while model.gatherer.computing() < batches {
        tokio::task::yield_now().await;
    }
}

fn failed(why: &str) -> Result<u32, ModelError> {
    Err(ModelError::Failed(why.to_owned()))
}

#[tokio::test]
async fn bad_pictures_and_panics_cost_their_neighbours_nothing() {
    let (double, open) = Double { bad: Some(3), panics: Some(7), ..Double::default() }.gated();
    let runs = Arc::clone(&double.runs);
    let model = model(vec![double], 1, &Lost::default());

    let answers = together(&model, &[1, 3, 2, 4, 7, 6, 8, 9], open).await;

    let panicked = "it panicked: seven is unlucky";
    assert_eq!(answers, [Ok(1), failed("it is bad"), Ok(2), Ok(4), failed(panicked), Ok(6), Ok(8), Ok(9)]);
    assert_eq!(lock(&runs)[..2], [1, 8], "they were one batch");
    let counts = model.counts();
    assert_eq!((counts.pictures, counts.failures), (7, 2));
    assert_eq!(counts.executions, lock(&runs).len() as u64, "the tries are counted too");
}

#[tokio::test]
async fn a_device_without_memory_for_a_batch_gets_half_of_it_from_then_on() {
    let (double, open) = Double { room: 2, ..Double::default() }.gated();
    let runs = Arc::clone(&double.runs);
    let model = model(vec![double], 1, &Lost::default());

    let answers = together(&model, &[1, 2, 3, 4, 5, 6, 7, 8], open).await;
    let later = join_all([1, 2, 3, 4, 5].map(|red| seen(&model, red))).await;

    assert_eq!(answers, [1, 2, 3, 4, 5, 6, 7, 8].map(Ok));
    assert_eq!(later, [1, 2, 3, 4, 5].map(Ok));
    let runs = lock(&runs).clone();
    assert_eq!(runs[..8], [1, 8, 4, 2, 2, 4, 2, 2]);
    assert!(runs[8..].iter().all(|pictures| *pictures <= 2), "{runs:?}");
}

#[tokio::test]
async fn a_lost_device_is_told_and_nothing_more_is_tried_on_it() {
    let lost = Lost::default();
    let (double, open) = Double { killer: Some(5), ..Double::default() }.gated();
    let runs = Arc::clone(&double.runs);
    let model = model(vec![double], 1, &lost);

    let answers = together(&model, &[1, 5, 2], open).await;
    let later = seen(&model, 1).await;

    assert!(answers.iter().chain([&later]).all(|answer| matches!(answer, Err(ModelError::Lost(_)))), "{answers:?}");
    assert_eq!(lost.told().await, "cpu: CUDA error: an illegal memory access was encountered");
    assert_eq!(*lock(&runs), [1, 3], "its halves are not tried, nor what comes later");
}

#[test]
fn no_more_pictures_go_through_together_than_their_maps_have_room_for() {
    assert_eq!(fitting(64, 4 * 1000), 64, "a thousand classes");
    assert_eq!(fitting(64, 4 * 21 * 512 * 512), 12, "maps of 21 classes");
    assert_eq!(fitting(64, 4 * 256 * 4096 * 4096), 1, "one is larger than that by itself");
    assert_eq!([fitting(0, 4), fitting(8, 0)], [1, 8]);
}

#[tokio::test]
async fn each_of_several_devices_takes_what_the_others_have_no_hands_for() {
    let (first, open_first) = Double::default().gated();
    let (second, open_second) = Double::default().gated();
    let runs = [Arc::clone(&first.runs), Arc::clone(&second.runs)];
    let model = model(vec![first, second], 2, &Lost::default());

    let mut one = Box::pin(seen(&model, 1));
    let mut two = Box::pin(seen(&model, 2));
    assert!(futures::poll!(&mut one).is_pending());
    until_computing(&model, 1).await;
    assert!(futures::poll!(&mut two).is_pending());
    until_computing(&model, 2).await;
    drop((open_first, open_second));

    assert_eq!((one.await, two.await), (Ok(1), Ok(2)));
    assert_eq!(runs.map(|runs| lock(&runs).clone()), [[1], [1]]);
}

#[tokio::test]
async fn a_batch_that_does_not_end_is_not_waited_for_for_ever() {
    let (double, open) = Double::default().gated();
    let model = model(vec![double], 1, &Lost::default());
    let gatherer = Arc::clone(&model.gatherer);
    let mut picture = Box::pin(seen(&model, 1));
    assert!(futures::poll!(&mut picture).is_pending());
    until_computing(&model, 1).await;
    drop(picture);

    drop(model);

    assert_eq!(gatherer.computing(), 1, "it is left to itself");
    drop(open);
}

#[tokio::test]
async fn time_is_counted_where_it_is_spent() {
    let (double, open) = Double::default().gated();
    let model = model(vec![double], 1, &Lost::default());
    let started = Instant::now();

    let answers = together(&model, &[1, 2, 3], open).await;

    assert_eq!(answers, [1, 2, 3].map(Ok));
    let (counts, took) = (model.counts(), started.elapsed());
    assert!(counts.compute > Duration::ZERO && counts.compute + counts.output <= took, "{counts:?} in {took:?}");
    assert!(counts.queue > Duration::ZERO && counts.queue <= took * 3, "three waited: {counts:?} in {took:?}");
    assert_eq!(counts.input, Duration::ZERO, "nobody prepared a picture");
}
