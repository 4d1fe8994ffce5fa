//! The command `tidemill-vision`: `tidemill` with libtorch linked in.

use std::process::ExitCode;
use std::sync::Arc;

use tidemill_cli::Vision;
use tidemill_vision::{Torch, device};

fn main() -> ExitCode {
    let start = |settings: &_| Ok(Arc::new(Torch::start(settings)?) as _);
    tidemill_cli::main(Some(Vision {
        start,
        describe,
        measure: tidemill_vision::measure,
        import: tidemill_vision::import,
        verify: tidemill_vision::verify,
        labels: |card| tidemill_vision::labels::labels(card).map_err(|error| error.to_string()),
    }))
}

/// What networks can run on, as `tidemill doctor` shows it.
fn describe() -> Vec<String> {
    let found = device::inventory();
    let bf16 = if found.cpu_bf16 { "with bf16" } else { "quicker in fp32 than in bf16" };
    let mut lines = vec![format!("networks run on the cpu: {} cores, {bf16}", found.cpu_threads)];
    match found.cuda {
        Ok(names) => {
            lines.extend(names.iter().zip(0..).map(|(name, index)| format!("networks run on cuda:{index}: {name}")))
        }
        Err(_) => lines.push("no CUDA device is in reach; networks run on the cpu".to_owned()),
    }
    lines
}
