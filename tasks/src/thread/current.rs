//! `thread.current`: threads have names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::own_name;
use crate::scenario::{Exercise, Scene, Turns, fields};

/// Runs three functions on threads that bear their names.
#[derive(Clone, Copy, Debug)]
pub struct Current;

fields! {
    /// What an item of `thread.current` says.
    pub struct Fields, scenarios: 3 {}
}

/// What it gives beside messages and times.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// To each function what it recorded: its status (0: starting, 1: exiting) and its message.
    pub outputs: BTreeMap<String, Vec<(u8, String)>>,
}

/// How long a function sleeps.
const TICKS: u32 = 2;

impl Exercise for Current {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 3 * TICKS as u64;

    fn about(&self) -> About {
        About {
            name: "thread.current",
            summary: "Name threads, and let each tell its own name",
            details: "Three threads bear the names of their functions and ask the system for them: each records that it \
                      starts, sleeps for two ticks and records that it exits. Scenario 1 starts A, B and C together; \
                      scenario 2 starts C, B and A. A mutex that is given on in that order keeps them in step: three \
                      starts, then three exits, and the sleeps overlap (see `timeline`). Scenario 3 runs them one at a \
                      time: B, then A, then C. `outputs` has to each function its list of [status, message].",
            examples: &["tidemill run thread.current 1 2 3 -o tick_ms=200"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        3
    }

    fn ticks(&self, _fields: &Fields) -> usize {
        2
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let (order, is_together) = match scene.scenario() {
            1 => (["function_A", "function_B", "function_C"], true),
            2 => (["function_C", "function_B", "function_A"], true),
            _ => (["function_B", "function_A", "function_C"], false),
        };
        let turns = &Turns::new(scene);
        let mut outputs = BTreeMap::new();
        scene.crew(|crew| {
            let mut members = Vec::new();
            for (place, name) in order.into_iter().enumerate() {
                let member = crew.start(name, move || {
                    let start = if is_together { place } else { 2 * place };
                    let exit = if is_together { order.len() + place } else { start + 1 };
                    let starting = record(scene, turns, start, "starting")?;
                    scene.nap(TICKS)?;
                    Ok(vec![(0, starting), (1, record(scene, turns, exit, "exiting")?)])
                })?;
                if is_together {
                    members.push((name, member));
                } else {
                    outputs.insert(name.to_owned(), member.join()?);
                }
            }
            for (name, member) in members {
                outputs.insert(name.to_owned(), member.join()?);
            }
            Ok(())
        })?;
        Ok(Extras { outputs })
    }
}

/// Says, in that turn, what the thread that calls is doing.
fn record(scene: &Scene, turns: &Turns, turn: usize, doing: &str) -> Result<String, Failure> {
    let turn = turns.take(turn)?;
    let message = format!("{} --> {doing}", own_name());
    scene.say(&message)?;
    turn.pass();
    Ok(message)
}
