//! `thread.barrier`: nobody goes on before all have come.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::primitive;
use crate::scenario::{Exercise, Monitor, Names, Scene, Seeded, Turns, fields};

/// Lets runners race to a barrier.
#[derive(Clone, Copy, Debug)]
pub struct Barrier;

fields! {
    /// What an item of `thread.barrier` says.
    pub struct Fields, scenarios: 3 {
        /// Who runs: names, each once; Huey, Dewey and Louie unless given.
        runners: Names,
    }
}

/// What it gives beside messages and times.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The runners as they come in the messages.
    pub order: Vec<String>,
}

impl Exercise for Barrier {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 3;

    fn about(&self) -> About {
        About {
            name: "thread.barrier",
            summary: "Race to a barrier, where all wait for the last one",
            details: "Each runner is a thread. It runs, arrives, and waits at the barrier; when all have arrived they go on \
                      together, and only then is each recorded as `{name} reached the barrier at: {time}`, with the time of \
                      its arrival (UTC). Three runners take 1, 2 and 3 ticks, any other number takes 1 to 3 ticks at \
                      random, as follows from the seed. Scenario 1 records in the order of arrival. Scenario 2 turns the \
                      collected arrivals over. Scenario 3 shuffles who starts first and draws all the times. `order` has \
                      the names. In `timeline` nobody speaks before the last one has come.",
            examples: &[
                "tidemill run thread.barrier 1 2 3 -o tick_ms=200 --format table",
                r#"tidemill run thread.barrier 3 -o runners='["Ann","Bob","Cy","Di"]' -o seed=5"#,
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, fields: &Fields) -> usize {
        names(fields).len()
    }

    fn ticks(&self, _fields: &Fields) -> usize {
        3
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let mut seeded = scene.seeded();
        let mut names = names(fields);
        if scene.scenario() == 3 {
            seeded.shuffle(&mut names);
        }
        let is_drawn = names.len() != 3 || scene.scenario() == 3;
        let runners = runners(names, is_drawn.then_some(&mut seeded));
        race(scene, &runners)?;
        let mut order: Vec<&Runner> = runners.iter().collect();
        order.sort_by_key(|runner| runner.place);
        if scene.scenario() == 2 {
            order.reverse();
            // Between the first message and the last.
            scene.rearrange(|said| {
                let last = said.len() - 1;
                said[1..last].reverse();
            });
        }
        Ok(Extras { order: order.into_iter().map(|runner| runner.name.clone()).collect() })
    }
}

fn names(fields: &Fields) -> Vec<String> {
    let three = || ["Huey", "Dewey", "Louie"].map(str::to_owned).to_vec();
    fields.runners.clone().map_or_else(three, Names::into_inner)
}

struct Runner {
    name: String,
    /// How long it runs, in thousandths of a tick.
    time: u64,
    /// How many arrive before.
    place: usize,
}

/// The runners in the order of starting: with their own times, or drawn ones.
fn runners(names: Vec<String>, mut seeded: Option<&mut Seeded>) -> Vec<Runner> {
    let mut runners: Vec<Runner> = (1..)
        .zip(names)
        .map(|(number, name)| {
            let time = seeded.as_mut().map_or(1000 * number, |seeded| seeded.number(1000..=3000));
            Runner { name, time, place: 0 }
        })
        .collect();
    let mut by_time: Vec<&mut Runner> = runners.iter_mut().collect();
    by_time.sort_by_key(|runner| runner.time);
    for (place, runner) in by_time.into_iter().enumerate() {
        runner.place = place;
    }
    runners
}

/// Lets them run, all at once.
fn race(scene: &Scene, runners: &[Runner]) -> Result<(), Failure> {
    let started = &Monitor::new(scene, false);
    let barrier = &primitive::Barrier::new(scene, runners.len());
    // On a busy machine a slower runner may wake before a faster one: it arrives after it all the same.
    let (arrivals, records) = (&Turns::new(scene), &Turns::new(scene));
    scene.crew(|crew| {
        for runner in runners {
            crew.start(&runner.name, move || {
                drop(started.wait_until(|started| *started)?);
                scene.nap_for(scene.tick().mul_f64(runner.time as f64 / 1000.0))?;
                let turn = arrivals.take(runner.place)?;
                let time = humantime::format_rfc3339_millis(SystemTime::now());
                turn.pass();
                barrier.wait()?;
                let turn = records.take(runner.place)?;
                scene.say(format!("{} reached the barrier at: {time}", runner.name))?;
                turn.pass();
                Ok(())
            })?;
        }
        scene.say("START RACE!!!!")?;
        started.change(|started| *started = true);
        Ok(())
    })?;
    Ok(scene.say("Race over!")?)
}
