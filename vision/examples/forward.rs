//! Measures the forward pass by itself: pictures a second by precision, batch and threads.
//!
//! `cargo run --release -p tidemill-vision --example forward [MODEL_FOLDER [SECONDS [PRECISION BATCH INSTANCES THREADS]]]`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::{Duration, Instant};
use std::{env, thread};

use tch::{Kind, Tensor};
use tidemill_tasks::vision::card::{Card, Precision};
use tidemill_vision::{DeviceChoice, Network};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "models/efficientnet-lite0".to_owned());
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let card = Card::load(folder)?;
    let cores = thread::available_parallelism()?.get();
    let device = DeviceChoice::Auto.resolve()?;
    if let [precision, batch, instances, threads] = &arguments.collect::<Vec<_>>()[..] {
        let precision = if precision == "bf16" { Precision::Bf16 } else { Precision::Fp32 };
        let shared = (instances.parse()?, threads.parse()?);
        println!("{:.1}", measure(&card, precision, batch.parse()?, shared, Duration::from_secs(seconds))?);
        return Ok(());
    }
    println!("{} on {device}, {cores} cores", card.name);
    println!("{:>9} {:>6} {:>10} {:>8} {:>10}", "precision", "batch", "instances", "threads", "pictures/s");
    for precision in [Precision::Fp32, Precision::Bf16] {
        for batch in [1, 8, 16, 32] {
            for (instances, threads) in [(1, 1), (1, cores), (cores, 1)] {
                let rate = measure(&card, precision, batch, (instances, threads), Duration::from_secs(seconds))?;
                println!("{precision:>9} {batch:>6} {instances:>10} {threads:>8} {rate:>10.1}");
            }
        }
    }
    Ok(())
}

fn measure(
    card: &Card,
    precision: Precision,
    batch: i64,
    (instances, threads): (usize, usize),
    time: Duration,
) -> Result<f64, Box<dyn std::error::Error>> {
    let device = DeviceChoice::Auto.resolve()?;
    let networks = (0..instances).map(|_| Network::load(card, device, Some(precision)));
    let networks = networks.collect::<Result<Vec<_>, _>>()?;
    let running = networks.into_iter().map(|network| {
        thread::spawn(move || {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
            let _no_grad = tch::no_grad_guard();
            let [height, width] = network.size();
            let pixels = Tensor::randint(255, [batch, height, width, 3], (Kind::Uint8, tch::Device::Cpu));
            let pixels = pixels.permute([0, 3, 1, 2]);
            let run = || network.forward(&pixels).map(|output| output.to_device(tch::Device::Cpu));
            for _ in 0..3 {
                drop(run()?);
            }
            let (started, mut done) = (Instant::now(), 0);
            while started.elapsed() < time {
                drop(run()?);
                done += batch;
            }
            Ok::<_, tch::TchError>(done as f64 / started.elapsed().as_secs_f64())
        })
    });
    let running = running.collect::<Vec<_>>();
    let mut rate = 0.0;
    for thread in running {
        rate += thread.join().map_err(|_| "an instance panicked")??;
    }
    Ok(rate)
}
