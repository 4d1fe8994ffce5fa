//! `time.sleep`: waits.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Invalid, Task, Tools, Wait, raw_word};

/// The longest sleep, in ticks: a week of seconds.
const MAX_SECONDS: f64 = 604_800.0;

/// Waits for as long as each item says; a thousand at once cost no more than one.
#[derive(Clone, Copy, Debug)]
pub struct Sleep;

/// How long to sleep.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Ticks to wait, which are seconds unless `tick_ms` says otherwise; fractions are welcome.
    #[schemars(range(min = 0, max = 604_800))]
    pub seconds: f64,
}

/// Options of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The length of one "second", in milliseconds; 0 to 60000.
    #[schemars(range(max = 60_000))]
    pub tick_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { tick_ms: 1000 }
    }
}

impl Task for Sleep {
    type Input = Input;
    type Options = Options;
    type Output = String;
    type Plan = Duration;

    fn about(&self) -> About {
        About {
            name: "time.sleep",
            summary: "Wait for a number of seconds",
            details: "An input is {\"seconds\": s} or, on the command line, just the number. The output says how long it \
                      slept. Items wait at the same time, so ten sleeps take one, and --order shows both orders: as the \
                      inputs came, or as the sleepers woke.",
            examples: &[
                "tidemill run time.sleep 5 4 3 2 1",
                "tidemill run time.sleep 5 4 3 2 1 --order completion -o tick_ms=100",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, options: Options) -> Result<Duration, Invalid> {
        match options.tick_ms {
            tick @ 0..=60_000 => Ok(Duration::from_millis(tick)),
            tick => Err(Invalid(format!("tick_ms: {tick} is not within 0 and 60000"))),
        }
    }

    fn check(&self, _tick: &Duration, input: &Input) -> Result<(), Invalid> {
        if (0.0..=MAX_SECONDS).contains(&input.seconds) {
            return Ok(());
        }
        Err(Invalid(format!("seconds: {} is not within 0 and {MAX_SECONDS}", input.seconds)))
    }

    fn cost(&self, tick: &Duration) -> Cost {
        Cost(*tick)
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        match word.parse::<f64>() {
            // The word itself, not the parsed number: 5 stays 5 and does not become 5.0.
            Ok(_) => raw_word(&format!("{{\"seconds\":{word}}}")),
            Err(_) => raw_word(word),
        }
    }
}

impl Wait for Sleep {
    async fn run(self: Arc<Self>, tick: Arc<Duration>, input: Input, _tools: Tools) -> Result<String, Failure> {
        tokio::time::sleep(tick.mul_f64(input.seconds)).await;
        Ok(format!("Done sleeping for {} second(s)", input.seconds))
    }
}
