//! `compute.map` through the real engine: what the CPU gives number by number, a tensor gives.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;

use std::sync::Arc;

use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::{Job, Stop, raw};
use tidemill_tasks::House;
use tidemill_tasks::vision::Engine as _;
use tidemill_vision::{Torch, device};
use tokio_util::sync::CancellationToken;

fn engine() -> Torch {
    Torch::start(&common::settings()).unwrap()
}

fn job(expr: &str, device: &str) -> Arc<dyn Job> {
    let house = House { engine: Some(Arc::new(engine())), ..House::default() };
    let options = raw(&serde_json::json!({"expr": expr, "device": device}));
    tidemill_tasks::register(&house).find("compute.map").unwrap().prepare(&options).unwrap()
}

type Results = Vec<Result<f64, Failure>>;

fn number(output: &RawValue) -> f64 {
    serde_json::from_str(output.get()).unwrap()
}

fn one_by_one(job: &dyn Job, inputs: &[&RawValue]) -> Results {
    let stop = CancellationToken::new();
    inputs.iter().map(|input| job.compute(input, &Stop(&stop)).map(|output| number(&output))).collect()
}

fn together(job: &dyn Job, inputs: &[&RawValue]) -> Results {
    let stop = CancellationToken::new();
    job.compute_together(inputs, &Stop(&stop)).into_iter().map(|result| result.map(|output| number(&output))).collect()
}

#[test]
fn the_engine_computes_the_values_of_the_catalogue() {
    let engine = engine();

    assert_eq!(engine.map("x*x - 2*x", "cpu", &[1.0, 2.0, 3.0, 8.0, 10.0]).unwrap(), [-1.0, 0.0, 3.0, 48.0, 80.0]);
    assert!(engine.map("1/x", "cpu", &[0.0]).unwrap()[0].is_infinite(), "the task makes that the item's failure");
    assert!(engine.map("x", "cpu", &[]).unwrap().is_empty());
}

#[test]
fn what_is_no_device_is_refused_for_good() {
    for name in ["tpu", "cuda:200"] {
        let failure = engine().map("x", name, &[1.0]).unwrap_err();

        assert_eq!((failure.kind.as_ref(), failure.retryable), ("device", false), "{failure}");
        assert!(!failure.message.contains('\n'), "one line: {failure}");
    }
}

/// With a GPU, the values; without, each item's failure with its remedy.
#[test]
fn on_cuda_a_chunk_has_the_values_of_the_cpu_or_every_item_says_what_is_missing() {
    const EXPRESSION: &str = "x*x - 2*x + round(49/x) + sin(x)^3 + cbrt(x) - x/49";
    let words: Vec<Box<RawValue>> = (-3000..3000).map(|x| raw(&x)).chain([raw("two")]).collect();
    let inputs: Vec<&RawValue> = words.iter().map(AsRef::as_ref).collect();
    let on_cpu = one_by_one(&*job(EXPRESSION, "cpu"), &inputs);
    let on_cuda = job(EXPRESSION, "cuda");
    assert_eq!(on_cuda.device(), "cuda:0");

    let results = together(&*on_cuda, &inputs);

    assert_eq!(results.len(), inputs.len());
    assert_eq!(results[6000], on_cpu[6000], "what is no number fails alone");
    let is_there = device::inventory().cuda.is_ok();
    for ((input, result), expected) in inputs.iter().zip(&results).zip(&on_cpu).take(6000) {
        match (result, expected) {
            (Ok(value), Ok(expected)) => {
                assert!(
                    (value - expected).abs() <= 1e-12 * expected.abs().max(1.0),
                    "{input}: {value}, not {expected}"
                );
            }
            (Err(failure), _) if !is_there => {
                assert_eq!((failure.kind.as_ref(), failure.retryable), ("device", false));
                assert!(failure.message.contains("LD_LIBRARY_PATH"), "{failure}");
            }
            both => assert_eq!(both.0, both.1, "{input}"),
        }
        assert_eq!(result.is_ok(), is_there && expected.is_ok(), "{input}");
    }
}
