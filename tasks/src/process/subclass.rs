//! `process.subclass`: a process as an object with a run method of its own.

use std::io;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::{Pids, Program};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, Within, fields};

/// Starts processes of an own kind, one after the other.
#[derive(Clone, Debug)]
pub struct Subclass(pub Program);

fields! {
    /// What an item of `process.subclass` says.
    pub struct Fields, scenarios: 3 {
        /// How many processes there are.
        processes: Within<1, 64> = 10,
    }
}

pub(super) const PART: Part = Part { name: "process.subclass", run: |me| MyProcess { me }.run() };

/// A process with a run method.
struct MyProcess<'a> {
    me: &'a Me,
}

impl MyProcess<'_> {
    fn run(&self) -> io::Result<()> {
        self.me.say(format!("called run method by {}", self.me.name()))
    }
}

impl Exercise for Subclass {
    type Fields = Fields;
    type Extras = Pids;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.subclass",
            summary: "Give a process a run method of its own",
            details: "Each child is an object, `MyProcess-1` and so on, whose run method says `called run method by {name}`. \
                      Each is joined before the next one starts: ascending in scenario 1, descending in scenario 2, and \
                      even numbers first, then odd ones, in scenario 3. Look at `runs`: the order of the messages is the \
                      order of starting, and no two run at once.",
            examples: &["tidemill run process.subclass 1 2 3", "tidemill run process.subclass 3 -o processes=5"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let ascending = 1..=fields.processes();
        let order: Vec<usize> = match scene.scenario() {
            1 => ascending.collect(),
            2 => ascending.rev().collect(),
            _ => ascending.clone().filter(|n| n % 2 == 0).chain(ascending.filter(|n| n % 2 == 1)).collect(),
        };
        let mut children = Children::of(scene, &self.0)?;
        for n in order {
            let child = children.start(Role::new(&PART, format!("MyProcess-{n}")))?;
            children.join(child)?;
        }
        Ok(Pids::of(&children))
    }
}
