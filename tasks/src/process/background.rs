//! `process.background`: processes that nobody waits for.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::SeqCst;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::Program;
use crate::children::sync::Turns;
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Starts two processes that count, either of which may be a daemon.
#[derive(Clone, Debug)]
pub struct Background(pub Program);

fields! {
    /// What an item of `process.background` says.
    pub struct Fields, scenarios: 3 {}
}

/// What became of the two.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The children's process ids.
    pub pids: Vec<u32>,
    /// How each ended: 0 by itself, -15 by SIGTERM.
    pub exit_codes: BTreeMap<&'static str, i32>,
    /// How far each has counted, as it noted in shared memory: a daemon is not heard, and counts.
    pub counted: BTreeMap<&'static str, u64>,
}

pub(super) const PART: Part = Part { name: "process.background", run: foo };

const NAMES: [&str; 2] = ["background_process", "NO_background_process"];
/// How far each counts.
const COUNT: usize = 5;
/// What each does: it starts, counts, exits.
const STEPS: usize = COUNT + 2;
/// A turn that never comes.
const NEVER: u32 = u32::MAX;

/// When a child does what.
#[derive(Serialize, Deserialize)]
struct Args {
    turns: [u32; STEPS],
}

fn foo(me: &Me) -> io::Result<()> {
    let Args { turns } = me.args()?;
    let [starting, counting @ .., exiting] = turns;
    me.say_in_turn(starting, format!("Starting {}", me.name()))?;
    for (n, turn) in counting.into_iter().enumerate() {
        // Within its turn: whoever comes next may be the last one that the parent waits for.
        Turns(&me.shared().words()[0]).wait_for(turn)?;
        me.shared().cells()[me.number()].fetch_add(1, SeqCst);
        me.say_in_turn(turn, format!("---> {}", me.number() * COUNT + n))?;
        me.sleep(1);
    }
    me.say_in_turn(exiting, format!("Exiting {}", me.name()))
}

impl Exercise for Background {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 2 * COUNT as u64;
    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.background",
            summary: "Let a process run in the background, as a daemon",
            details: "Two children count, step by step beside each other: `background_process` from `---> 0` to `---> 4`, \
                      `NO_background_process` from `---> 5` to `---> 9`, between `Starting {name}` and `Exiting {name}`. A \
                      daemon's output goes nowhere, and it is ended (SIGTERM) when its parent has nothing else to wait for. \
                      In scenario 1 neither is one, and both outputs are complete; in scenario 2 the first is one, in \
                      scenario 3 the second: its messages are missing. Look at `counted`: it ran all the same, and at \
                      `exit_codes`: 0 for who came to its end, -15 for the daemon.",
            examples: &["tidemill run process.background 1 2 3", "tidemill run process.background 2 -o tick_ms=100"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        2
    }

    fn ticks(&self, _fields: &Fields) -> usize {
        COUNT
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let daemon = match scene.scenario() {
            2 => Some(0),
            3 => Some(1),
            _ => None,
        };
        let mut children = Children::of(scene, &self.0)?;
        for (n, (name, turns)) in NAMES.into_iter().zip(turns(daemon)).enumerate() {
            children.start(Role::new(&PART, name).with(&Args { turns }).daemon(daemon == Some(n)))?;
        }
        children.join_all()?;
        let exits = children.exits().into_iter().flatten();
        let counted = children.shared().cells().iter().map(|cell| cell.load(SeqCst));
        Ok(Extras {
            pids: children.pids(),
            exit_codes: NAMES.into_iter().zip(exits).collect(),
            counted: NAMES.into_iter().zip(counted).collect(),
        })
    }
}

/// When each does what: step by step beside each other. A daemon does all but exit: that turn never comes, as whoever
/// is in the background goes on until it is ended.
fn turns(daemon: Option<usize>) -> [[u32; STEPS]; 2] {
    let mut turns = [[NEVER; STEPS]; 2];
    let steps = (0..STEPS).flat_map(|step| [(0, step), (1, step)]);
    let exits = |(child, step)| step == STEPS - 1 && daemon == Some(child);
    for (turn, (child, step)) in (0..).zip(steps.filter(|of| !exits(*of))) {
        turns[child][step] = turn;
    }
    turns
}
