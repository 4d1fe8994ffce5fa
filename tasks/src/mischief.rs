//! `test.mischief`: items that harm their worker, for fault tests. Only with the feature `testing`, and where they are
//! wanted.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Compute, Cost, Invalid, Stop, Task};

use crate::NoOptions;

/// Whether `TIDEMILL_TEST_MISCHIEF` is set: a build with the feature is otherwise like any other.
pub fn is_wanted() -> bool {
    std::env::var_os("TIDEMILL_TEST_MISCHIEF").is_some()
}

/// Whether `TIDEMILL_TEST_TAME` is set: then the same items harm nobody.
fn is_tame() -> bool {
    std::env::var_os("TIDEMILL_TEST_TAME").is_some()
}

/// Does what each item says.
#[derive(Clone, Copy, Debug)]
pub struct Mischief;

/// What one item does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deed {
    /// Keeps a core busy for so many microseconds, and gives the number back.
    Work(u64),
    /// Ends the process at once.
    Abort,
    /// Takes memory until the system refuses it, which ends the process.
    EatMemory,
    /// Never returns and never looks whether it should.
    NeverReturn,
    /// Fails so that it is run again, every time.
    FailAgain,
}

impl Task for Mischief {
    type Input = Deed;
    type Options = NoOptions;
    type Output = u64;
    type Plan = ();

    fn about(&self) -> About {
        About {
            name: "test.mischief",
            summary: "Harm the worker, as told",
            details: "For fault tests.",
            examples: &[],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, _options: NoOptions) -> Result<(), Invalid> {
        Ok(())
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::millis(1)
    }
}

impl Compute for Mischief {
    fn run(&self, (): &(), deed: Deed, _stop: &Stop<'_>) -> Result<u64, Failure> {
        match deed {
            Deed::Work(micros) => {
                let until = Instant::now() + Duration::from_micros(micros);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                Ok(micros)
            }
            _ if is_tame() => Ok(0),
            Deed::Abort => std::process::abort(),
            Deed::EatMemory => {
                let mut eaten = Vec::new();
                loop {
                    // Written to, or the system only promises it.
                    eaten.push(vec![1u8; 64 << 20]);
                    std::hint::black_box(&eaten);
                }
            }
            Deed::NeverReturn => loop {
                std::hint::spin_loop();
            },
            Deed::FailAgain => Err(Failure::transient("busy", "busy, as told")),
        }
    }
}
