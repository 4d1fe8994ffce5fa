//! Measures a network by itself.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tch::{TchError, Tensor};
use tidemill_cli::Measured;
use tidemill_core::failure::chain;
use tidemill_core::settings::VisionSettings;
use tidemill_tasks::vision::card::Card;

use crate::device::{Device, names};
use crate::engine::config;
use crate::model::fitting;
use crate::network::Network;
use crate::{precision, sys, torch};

/// Runs before the clock starts: the executor of TorchScript compiles in the third.
const WARM_UP: usize = 3;
/// Runs of one picture, of which the median is told.
const ONE_BY_ONE: usize = 21;

/// Runs a card's network as a worker of these settings would, over pixels that are there, for so long.
///
/// # Errors
///
/// Where it cannot be loaded or fails, in words for people.
pub fn measure(card: &Card, settings: &VisionSettings, time: Duration) -> Result<Measured, String> {
    let config = config(settings)?;
    let mut networks = Vec::new();
    let mut precision = config.precision;
    for device in &config.devices {
        let loaded = precision::load(card, *device, precision, config.threads).map_err(|error| chain(&error))?;
        let network = loaded.network;
        precision = Some(network.precision());
        networks.extend(vec![network; config.instances.max(1)]);
    }
    let first = networks.first().ok_or("the settings name no device")?;
    let (precision, instances) = (first.precision().to_string(), networks.len());
    let (batch, threads) = (fitting(config.max_batch, first.output_bytes()), config.threads);
    let single = first.clone();
    let median = thread::spawn(move || {
        torch::use_threads(threads);
        one_by_one(&single)
    });
    let one = median.join().map_err(|_| "it panicked".to_owned())?.map_err(|error| torch::reason(&error))?;
    let ready = Barrier::new(instances);
    let rates = thread::scope(|scope| {
        let running = networks.into_iter().map(|network| scope.spawn(|| run(network, batch, threads, &ready, time)));
        let running: Vec<_> = running.collect();
        let joined = running.into_iter().map(|thread| thread.join().map_err(|_| "it panicked".to_owned()));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let rates = rates.into_iter().collect::<Result<Vec<f64>, _>>().map_err(|error| torch::reason(&error))?;
    Ok(Measured {
        device: names(&config.devices),
        is_cpu: config.devices.contains(&Device::Cpu),
        precision,
        instances,
        threads,
        batch,
        rate: rates.iter().sum(),
        one,
    })
}

/// One instance, on its thread: pictures a second.
fn run(network: Network, batch: usize, threads: usize, ready: &Barrier, time: Duration) -> Result<f64, TchError> {
    torch::use_threads(threads);
    let pixels = pixels(&network, batch);
    let warm = (0..WARM_UP).try_for_each(|_| pass(&network, &pixels, batch));
    // Whoever fails waits with the others, so that none waits for ever.
    ready.wait();
    warm?;
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < time {
        pass(&network, &pixels, batch)?;
        done += batch;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

/// The median of single runs.
fn one_by_one(network: &Network) -> Result<Duration, TchError> {
    let pixels = pixels(network, 1);
    (0..WARM_UP).try_for_each(|_| pass(network, &pixels, 1))?;
    let mut took = Vec::with_capacity(ONE_BY_ONE);
    for _ in 0..ONE_BY_ONE {
        let started = Instant::now();
        pass(network, &pixels, 1)?;
        took.push(started.elapsed());
    }
    took.sort_unstable();
    Ok(took[ONE_BY_ONE / 2])
}

/// From pixels to what the network gives, in this machine's memory.
fn pass(network: &Network, pixels: &[u8], batch: usize) -> Result<(), TchError> {
    let _no_grad = tch::no_grad_guard();
    let [height, width] = network.size();
    let shape = [i64::try_from(batch).unwrap_or(i64::MAX), height, width];
    let output: Tensor = sys::with_pixels(pixels, shape, |pixels| network.forward(pixels))?;
    output.f_to_device(tch::Device::Cpu).map(drop)
}

/// Pictures of which no two pixels beside one another are alike.
fn pixels(network: &Network, batch: usize) -> Vec<u8> {
    let [height, width] = network.size();
    let bytes = usize::try_from(height * width * 3).unwrap_or(0) * batch;
    (0..bytes).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
