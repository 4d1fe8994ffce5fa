//! Measures the classic load: blur 15, fit 1200×1200, save as JPEG, one photo to a core, files in memory.
//!
//! `cargo run --release -p tidemill-tasks --example transform_bench -- FOLDER [exact]`. Prints megapixels of input a
//! second for the whole way, and for decoding alone at 1/8, which is the limit.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::time::Instant;

use rayon::prelude::*;
use tidemill_tasks::image::{Eighths, Header, Limits, Options, Plan, decode, transform};

const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: transform_bench FOLDER [exact]")?;
    let exact = arguments.next().is_some_and(|word| word == "exact");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jpg" || e == "png") {
            files.push(std::fs::read(path)?);
        }
    }
    let limits = Limits::default();
    let headers = files.iter().map(|f| Header::read(f, &limits)).collect::<Result<Vec<_>, _>>()?;
    let pixels: u64 = headers.iter().map(|h| u64::from(h.width) * u64::from(h.height)).sum();
    let options = format!(r#"{{"steps": [{{"blur": 15}}, {{"thumbnail": [1200, 1200]}}], "exact": {exact}}}"#);
    let plan = Plan::new(serde_json::from_str::<Options>(&options)?)?;
    let report = |name: &str, seconds: f64| {
        let (count, rate) = (files.len(), pixels as f64 / 1e6 / seconds);
        println!("{name}: {count} files, {seconds:.2} s, {rate:.0} MP/s on {} threads", rayon::current_num_threads());
    };
    for _ in 0..ROUNDS {
        let start = Instant::now();
        files.par_iter().try_for_each(|f| transform(f, &plan, &limits, &|| false).map(drop))?;
        report("blur 15, fit 1200, save", start.elapsed().as_secs_f64());
        let start = Instant::now();
        files.par_iter().zip(&headers).try_for_each(|(f, h)| decode::decode(f, h, &limits, Eighths::One).map(drop))?;
        report("decode at 1/8 alone    ", start.elapsed().as_secs_f64());
    }
    Ok(())
}
