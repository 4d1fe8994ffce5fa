//! `stream.thermometers`: readings that flow, observers that answer, and the answer's effect on the readings.

mod hall;
mod observers;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Invalid, Task, Tools, Wait};

use self::observers::{Seen, watch};
use crate::time::{MAX_TICK_MS, timeout_for};

/// Readings of one item; more would be an outcome that no message carries.
const MAX_READINGS: usize = 50_000;
/// How often a thermometer is read, at most.
const MAX_SAMPLES: u32 = 10_000;
/// The longest tick.
const MAX_TICK: Duration = Duration::from_millis(MAX_TICK_MS);

/// Watches over the racks of a hall.
#[derive(Clone, Copy, Debug)]
pub struct Thermometers;

/// What an item may say; the options of a batch may say the same for all its items.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fields {
    /// How many racks there are, each with a thermometer.
    #[schemars(range(min = 1, max = 1000), extend("default" = 3))]
    pub racks: Option<usize>,
    /// How many times each is read, once a tick.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 20))]
    pub samples: Option<usize>,
    /// Above this, in °C, a reading raises an alert.
    #[schemars(range(min = -50, max = 150), extend("default" = 55))]
    pub threshold_c: Option<f64>,
    /// How many °C a fan takes from its rack each tick once it is told to. With 0 nobody answers an alert.
    #[schemars(range(min = 0, max = 50), extend("default" = 6))]
    pub cooling: Option<f64>,
    /// The length of a tick in milliseconds.
    #[schemars(range(max = MAX_TICK_MS), extend("default" = 1000))]
    pub tick_ms: Option<u64>,
    /// Fixes what is random: how much the racks have to do.
    #[schemars(extend("default" = 0))]
    pub seed: Option<u64>,
}

/// Fields with their defaults, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    racks: usize,
    samples: usize,
    threshold_c: f64,
    cooling: f64,
    tick: Duration,
    seed: u64,
}

/// One thermometer, once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Reading {
    /// Which tick, from 0.
    pub sample: usize,
    /// Which rack, from 1.
    pub rack: usize,
    /// What it shows, in °C.
    pub celsius: f64,
}

/// What a fan is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Turn, in answer to an alert.
    Cool,
    /// Stop: the rack is well below the threshold again.
    Rest,
}

/// A word to a fan, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Command {
    /// The tick of the reading that it answers.
    pub sample: usize,
    /// Whose fan.
    pub rack: usize,
    /// What it should do.
    pub action: Action,
    /// What that rack's thermometer showed then, in °C, and in the readings after it, until its next command.
    pub celsius: Vec<f64>,
}

/// All that happened, each list in the order in which it did.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The stream of readings: tick by tick, and in each the racks by number.
    pub readings: Vec<Reading>,
    /// Readings that went above the threshold: one for each time, however long it stays there.
    pub alerts: Vec<Reading>,
    /// What the fans were told in answer, with the readings after it.
    pub commands: Vec<Command>,
    /// From first to last, in milliseconds.
    pub elapsed_ms: f64,
}

impl Fields {
    /// What an item says, else its batch, else the default.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what is allowed.
    fn over(&self, batch: &Self) -> Result<Plan, Invalid> {
        let plan = Plan {
            racks: self.racks.or(batch.racks).unwrap_or(3),
            samples: self.samples.or(batch.samples).unwrap_or(20),
            threshold_c: self.threshold_c.or(batch.threshold_c).unwrap_or(55.0),
            cooling: self.cooling.or(batch.cooling).unwrap_or(6.0),
            tick: Duration::from_millis(self.tick_ms.or(batch.tick_ms).unwrap_or(1000)),
            seed: self.seed.or(batch.seed).unwrap_or(0),
        };
        within("racks", plan.racks as f64, 1.0, 1000.0)?;
        within("samples", plan.samples as f64, 1.0, f64::from(MAX_SAMPLES))?;
        within("threshold_c", plan.threshold_c, -50.0, 150.0)?;
        within("cooling", plan.cooling, 0.0, 50.0)?;
        within("tick_ms", plan.tick.as_millis() as f64, 0.0, MAX_TICK_MS as f64)?;
        match plan.racks * plan.samples {
            0..=MAX_READINGS => Ok(plan),
            many => Err(Invalid(format!("racks × samples: {many} readings are more than {MAX_READINGS}"))),
        }
    }
}

fn within(field: &str, value: f64, least: f64, most: f64) -> Result<(), Invalid> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Invalid(format!("{field}: {value} is not within {least} and {most}")))
}

impl Task for Thermometers {
    type Input = Fields;
    type Options = Fields;
    type Output = Output;
    type Plan = Fields;

    fn about(&self) -> About {
        About {
            name: "stream.thermometers",
            summary: "Watch temperatures stream by, and answer the hot ones",
            details: "Every tick each rack of a simulated hall is read, and the readings flow as a stream. Observers \
                      subscribe to it, each with a condition: one to all readings, one to those above the threshold, which \
                      raises alerts, one to those well below it. Whoever hears an alert tells the fan of that rack to \
                      cool, and the next readings show it: look at `celsius` of each command, first what was answered, \
                      then what came of it. With cooling=0 the same hall, by the same seed, stays hot. An item may have \
                      the options' fields as its own: '{\"racks\":5}'.",
            examples: &[
                "tidemill run stream.thermometers -o tick_ms=50",
                "tidemill run stream.thermometers '{\"cooling\":0}' '{\"cooling\":9}' -o tick_ms=5 -o seed=7 --format json",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, options: Fields) -> Result<Fields, Invalid> {
        Fields::default().over(&options)?;
        Ok(options)
    }

    fn check(&self, batch: &Fields, input: &Fields) -> Result<(), Invalid> {
        input.over(batch).map(drop)
    }

    fn cost(&self, batch: &Fields) -> Cost {
        let plan = Fields::default().over(batch);
        Cost::of(plan.map_or(Duration::ZERO, |plan| plan.tick.saturating_mul(plan.samples as u32)))
    }

    fn timeout(&self, _batch: &Fields) -> Option<Duration> {
        // Whatever its batch says, an item may say more.
        Some(timeout_for(MAX_TICK.saturating_mul(MAX_SAMPLES)))
    }
}

impl Wait for Thermometers {
    async fn run(self: Arc<Self>, batch: Arc<Fields>, input: Fields, _tools: Tools) -> Result<Output, Failure> {
        let plan = input.over(&batch)?;
        let began = Instant::now();
        let Seen { readings, alerts, commands } = watch(plan).await;
        let commands = with_readings(&commands, &readings, plan.racks);
        Ok(Output { readings, alerts, commands, elapsed_ms: began.elapsed().as_secs_f64() * 1000.0 })
    }
}

/// The commands, each with what was read from the reading that it answers on, until that fan was told something else.
fn with_readings(commands: &[(Reading, Action)], readings: &[Reading], racks: usize) -> Vec<Command> {
    // A rack is read once a sample, so that its readings are numbered by their samples.
    let mut shown = vec![Vec::new(); racks];
    for reading in readings {
        shown[reading.rack - 1].push(reading.celsius);
    }
    // From the last one back, the next one of the same rack is known.
    let mut ends: Vec<usize> = shown.iter().map(Vec::len).collect();
    let mut commands: Vec<Command> = commands
        .iter()
        .rev()
        .map(|(at, action)| {
            let end = std::mem::replace(&mut ends[at.rack - 1], at.sample + 1);
            let celsius = shown[at.rack - 1][at.sample..end].to_vec();
            Command { sample: at.sample, rack: at.rack, action: *action, celsius }
        })
        .collect();
    commands.reverse();
    commands
}
