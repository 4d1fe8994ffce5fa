//! `process.spawn`: processes are started, and joined.

use std::io;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::{Pids, Program, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, Within, fields};

/// Starts processes that say which they are.
#[derive(Clone, Debug)]
pub struct Spawn(pub Program);

fields! {
    /// What an item of `process.spawn` says.
    pub struct Fields, scenarios: 3 {
        /// How many processes there are; 6 if nothing is said, 4 in scenario 2.
        processes: Within<1, 64>,
    }
}

impl Fields {
    fn count(&self, scenario: u64) -> usize {
        self.processes.map_or(if scenario == 2 { 4 } else { 6 }, Within::count)
    }
}

pub(super) const PART: Part = Part { name: "process.spawn", run: my_func };

fn my_func(me: &Me) -> io::Result<()> {
    let i = me.number();
    me.say(format!("calling myFunc from process n°: {i}"))?;
    (0..i).try_for_each(|j| me.say(format!("output from myFunc is :{j}")))
}

impl Exercise for Spawn {
    type Fields = Fields;
    type Extras = Pids;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.spawn",
            summary: "Start processes and join them",
            details: "Child i, counted from 0, says `calling myFunc from process n°: {i}` and then, for every number below \
                      its own, `output from myFunc is :{j}`. Each is joined before the next one starts, which sets the \
                      order. Scenario 1 has 6 children, scenario 2 has 4 (or `processes` of them in either); in scenario \
                      3 the messages that were collected are shuffled by `seed`. Look at `pids`: a process each, none of \
                      them the worker's, and at `runs`: none begins before the one ahead has ended.",
            examples: &["tidemill run process.spawn 1 2 3", "tidemill run process.spawn 3 -o processes=3 -o seed=7"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let mut children = Children::of(scene, &self.0)?;
        for i in 0..fields.count(scene.scenario()) {
            let child = children.start(Role::new(&PART, usual_name(i + 1)))?;
            children.join(child)?;
        }
        if scene.scenario() == 3 {
            scene.rearrange(|said| scene.seeded().shuffle(said));
        }
        Ok(Pids::of(&children))
    }
}
