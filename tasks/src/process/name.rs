//! `process.name`: processes that are named, and processes that are not.

use std::io;

use serde::{Deserialize, Serialize};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::{Pids, Program, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Starts processes that say their names.
#[derive(Clone, Debug)]
pub struct Name(pub Program);

fields! {
    /// What an item of `process.name` says.
    pub struct Fields, scenarios: 3 {}
}

pub(super) const PART: Part = Part { name: "process.name", run: my_func };

/// How long a child sleeps, and in which turns it speaks before and after.
#[derive(Serialize, Deserialize)]
struct Args {
    ticks: u32,
    starting: u32,
    exiting: u32,
}

fn my_func(me: &Me) -> io::Result<()> {
    let Args { ticks, starting, exiting } = me.args()?;
    me.say_in_turn(starting, format!("Starting process name = {}", me.name()))?;
    me.sleep(ticks);
    me.say_in_turn(exiting, format!("Exiting process name = {}", me.name()))
}

impl Exercise for Name {
    type Fields = Fields;
    type Extras = Pids;

    const MOST_TICKS: u64 = 5;
    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.name",
            summary: "Name processes, or leave them their default names",
            details: "Each child says `Starting process name = {name}`, sleeps, and says `Exiting process name = {name}`; the \
                      first sleeps 3 ticks, the second 1. In scenario 1 the first is named `myFunc process` and the second \
                      keeps its default name, `Process-2`; in scenario 2 both are named; both run together, so the second \
                      exits first. In scenario 3 each runs to its end before the next, and a third, unnamed one follows \
                      (`Process-3`, 1 tick). Look at `runs` for who ran beside whom.",
            examples: &["tidemill run process.name 1 2 3", "tidemill run process.name 2 -o tick_ms=100 --format table"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        2
    }

    fn ticks(&self, _fields: &Fields) -> usize {
        5
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let second = if scene.scenario() == 1 { usual_name(2) } else { "other process".to_owned() };
        let mut roles = vec![("myFunc process".to_owned(), 3), (second, 1)];
        let one_after_the_other = scene.scenario() == 3;
        if one_after_the_other {
            roles.push((usual_name(3), 1));
        }
        let mut children = Children::of(scene, &self.0)?;
        for (n, (name, ticks)) in (0..).zip(roles) {
            // Together: who sleeps less exits first.
            let (starting, exiting) = if one_after_the_other { (2 * n, 2 * n + 1) } else { (n, 3 - n) };
            let child = children.start(Role::new(&PART, name).with(&Args { ticks, starting, exiting }))?;
            if one_after_the_other {
                children.join(child)?;
            }
        }
        children.join_all()?;
        Ok(Pids::of(&children))
    }
}
