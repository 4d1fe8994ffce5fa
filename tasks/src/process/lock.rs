//! `process.lock`: one lock between processes.

use std::io;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::{Pids, Program, usual_name};
use crate::children::sync::{Lock, Turns};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, Within, fields};

/// Lets processes speak under one lock.
#[derive(Clone, Debug)]
pub struct OneLock(pub Program);

fields! {
    /// What an item of `process.lock` says.
    pub struct Fields, scenarios: 1 {
        /// How many processes there are.
        processes: Within<1, 32> = 10,
    }
}

pub(super) const PART: Part = Part { name: "process.lock", run: f };

fn f(me: &Me) -> io::Result<()> {
    let [arrivals, drawn, serving, ..] = me.shared().words() else { return Ok(()) };
    // They come to the lock one after the other; it is fair, so they enter as they came.
    Turns(arrivals).wait_for(me.turn())?;
    let ticket = Lock { drawn, serving }.draw();
    Turns(arrivals).end()?;
    let _held = ticket.enter()?;
    me.say_in_pieces(format!("hello world {}", me.number()))
}

impl Exercise for OneLock {
    type Fields = Fields;
    type Extras = Pids;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.lock",
            summary: "Keep the lines of many processes whole by one lock",
            details: "Ten children (or `processes`) write `hello world {i}` into the pipe of all of them, each in several \
                      pieces: without a lock, these would mix. The lock lies in shared memory and is fair: they come to it in \
                      their order, and enter as they came. Look at the messages: whole lines, each once; and at `runs`: the \
                      children ran beside each other all the same.",
            examples: &["tidemill run process.lock", "tidemill run process.lock -o processes=32"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, fields: &Fields) -> usize {
        fields.processes()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let mut children = Children::of(scene, &self.0)?;
        for n in 1..=fields.processes() {
            children.start(Role::new(&PART, usual_name(n)))?;
        }
        children.end_turn()?;
        children.join_all()?;
        Ok(Pids::of(&children))
    }
}
