//! `process.pool`: a few processes share many inputs.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::SeqCst;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::Program;
use super::spaced::spaced;
use crate::children::sync::Barrier;
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, Within, fields};

/// Maps a function over numbers by a pool of processes.
#[derive(Clone, Debug)]
pub struct Pool(pub Program);

fields! {
    /// What an item of `process.pool` says.
    pub struct Fields, scenarios: 3 {
        /// How many processes are in the pool.
        processes: Within<1, 32> = 4,
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The children's process ids.
    pub pids: Vec<u32>,
    /// The function's values, in the order of the inputs.
    pub results: Vec<u64>,
    /// How many of them each child has found, by its process id.
    pub by_pid: BTreeMap<u32, usize>,
}

pub(super) const PART: Part = Part { name: "process.pool", run: work };

/// What is computed: a scenario.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Function {
    Square,
    Cube,
    SquareAndItself,
}

impl Function {
    fn of(self, x: u64) -> u64 {
        match self {
            Self::Square => x * x,
            Self::Cube => x * x * x,
            Self::SquareAndItself => x * x + x,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Args {
    function: Function,
    inputs: u64,
    processes: u32,
}

fn work(me: &Me) -> io::Result<()> {
    let Args { function, inputs, processes } = me.args()?;
    // The inputs lie in one row for all: each takes the next one, until there are none.
    let next = || me.shared().cells()[0].fetch_add(1, SeqCst);
    let mut x = next();
    // Nobody is through with all before the last has come.
    Barrier { come: &me.shared().words()[0], parties: processes }.meet()?;
    while x < inputs {
        me.give(&(x, function.of(x)))?;
        // It takes next to no time: who has done one lets the others have theirs.
        std::thread::yield_now();
        x = next();
    }
    Ok(())
}

impl Exercise for Pool {
    type Fields = Fields;
    type Extras = Extras;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.pool",
            summary: "Map a function over numbers by a pool of processes",
            details: "The children of the pool (4, or `processes`) take inputs from one row, each the next one whenever it is \
                      free, and send their results to the parent, which puts them in the order of the inputs. Scenario 1 \
                      squares 0 to 99, scenario 2 cubes them, scenario 3 takes x·x + x for 0 to 49. Look at `by_pid`: who \
                      found how many is another matter in every run, while `results` never changes.",
            examples: &["tidemill run process.pool 1 2 3", "tidemill run process.pool 1 -o processes=8"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, fields: &Fields) -> usize {
        fields.processes()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let (function, inputs) = match scene.scenario() {
            1 => (Function::Square, 100),
            2 => (Function::Cube, 100),
            _ => (Function::SquareAndItself, 50),
        };
        let mut children = Children::of(scene, &self.0)?;
        let processes = u32::try_from(fields.processes()).unwrap_or(u32::MAX);
        let args = Args { function, inputs, processes };
        for n in 1..=fields.processes() {
            children.start(Role::new(&PART, format!("PoolWorker-{n}")).with(&args))?;
        }
        let mut found = BTreeMap::new();
        let mut by_pid: BTreeMap<u32, usize> = children.pids().into_iter().map(|pid| (pid, 0)).collect();
        while (found.len() as u64) < inputs {
            let (child, (x, value)) = children.next::<(u64, u64)>()?;
            found.insert(x, value);
            *by_pid.entry(children.pid(child)).or_default() += 1;
        }
        children.join_all()?;
        let results: Vec<u64> = found.into_values().collect();
        children.say(format!("Pool: {}", spaced(&results)?))?;
        Ok(Extras { pids: children.pids(), results, by_pid })
    }
}
