//! `time.sleep`: waits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Invalid, Task, Tools, Wait, raw, raw_word};

use super::{MAX_TICK_MS, timeout_for};

/// The longest sleep, in ticks: a week of seconds.
const MAX_SECONDS: u32 = 604_800;

/// Waits for as long as each item says; a thousand at once cost no more than one.
#[derive(Clone, Copy, Debug)]
pub struct Sleep;

/// How long to sleep.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Ticks to wait, which are seconds unless `tick_ms` says otherwise; fractions are welcome.
    #[schemars(range(min = 0, max = 604_800))]
    #[serde(deserialize_with = "seconds")]
    pub seconds: f64,
}

/// Options of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The length of one "second", in milliseconds; 0 to 60000.
    #[schemars(range(max = MAX_TICK_MS))]
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
            tick @ 0..=MAX_TICK_MS => Ok(Duration::from_millis(tick)),
            tick => Err(Invalid(format!("tick_ms: {tick} is not within 0 and {MAX_TICK_MS}"))),
        }
    }

    fn check(&self, _tick: &Duration, input: &Input) -> Result<(), Invalid> {
        if (0.0..=f64::from(MAX_SECONDS)).contains(&input.seconds) {
            return Ok(());
        }
        Err(Invalid(format!("seconds: {} is not within 0 and {MAX_SECONDS}", input.seconds)))
    }

    fn cost(&self, tick: &Duration) -> Cost {
        Cost::of(*tick)
    }

    fn timeout(&self, tick: &Duration) -> Option<Duration> {
        Some(timeout_for(tick.saturating_mul(MAX_SECONDS)))
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        let Ok(number) = word.parse::<f64>() else { return raw_word(word) };
        if serde_json::from_str::<f64>(word).is_ok() {
            // The word itself, not the parsed number: 5 stays 5 and does not become 5.0.
            raw_word(&format!("{{\"seconds\":{word}}}"))
        } else if number.is_finite() {
            // JSON does not know .5, 5. and +1.
            raw(&Input { seconds: number })
        } else {
            // JSON does not know inf and nan either, nor do we: the word is named where it is refused.
            raw(&serde_json::json!({ "seconds": word }))
        }
    }
}

impl Wait for Sleep {
    async fn run(self: Arc<Self>, tick: Arc<Duration>, input: Input, _tools: Tools) -> Result<String, Failure> {
        tokio::time::sleep(tick.mul_f64(input.seconds)).await;
        Ok(format!("Done sleeping for {} second(s)", input.seconds))
    }
}

/// A number, and in words for people what is wanted where it is none.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Seconds;

    impl Visitor<'_> for Seconds {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of seconds")
        }

        fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
            Ok(number)
        }

        fn visit_u64<E>(self, number: u64) -> Result<f64, E> {
            Ok(number as f64)
        }

        fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
            Ok(number as f64)
        }
    }

    deserializer.deserialize_f64(Seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_a_number_to_people_is_one() {
        for (word, input) in [
            ("5", r#"{"seconds":5}"#),
            ("1e3", r#"{"seconds":1e3}"#),
            (".5", r#"{"seconds":0.5}"#),
            ("5.", r#"{"seconds":5.0}"#),
            ("+1", r#"{"seconds":1.0}"#),
        ] {
            assert_eq!(Sleep.input_from_word(word).get(), input);
            let read: Input = serde_json::from_str(input).unwrap();
            assert_eq!(Some(read.seconds), word.parse().ok());
        }
    }

    #[test]
    fn what_is_no_number_of_seconds_is_named() {
        for word in ["inf", "-infinity", "NaN", "1e999"] {
            let error = serde_json::from_str::<Input>(Sleep.input_from_word(word).get()).unwrap_err().to_string();
            assert!(error.contains(&format!("{word:?}, expected a number of seconds")), "{error}");
        }
    }
}
