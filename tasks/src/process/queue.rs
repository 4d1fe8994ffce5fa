//! `process.queue`: a queue between processes.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::os::fd::AsFd as _;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::spaced::spaced;
use super::{Program, no_pipe, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Sends a value from a child to its parent through a queue.
#[derive(Clone, Debug)]
pub struct Queue(pub Program);

fields! {
    /// What an item of `process.queue` says.
    pub struct Fields, scenarios: 1 {}
}

/// What came through, of a queue or a pipe.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Received {
    /// The child's process id.
    pub pids: Vec<u32>,
    /// What the parent got.
    pub received: Value,
}

pub(super) const PART: Part = Part { name: "process.queue", run: f };

fn f(me: &Me) -> io::Result<()> {
    put(me.take()?.into(), &json!([42, null, "hello"]))
}

/// Puts a value on the queue: a line into a pipe, in one piece, so that several processes may do so at once.
fn put(mut queue: File, value: &Value) -> io::Result<()> {
    queue.write_all(format!("{value}\n").as_bytes())
}

/// The value of the next line; waits for it.
pub(super) fn received(mut from: impl io::BufRead, scene: &Scene) -> Result<Value, Failure> {
    let mut line = String::new();
    // Where the item is stopped its child is ended, and so is what comes from it.
    let read = from.by_ref().read_line(&mut line);
    scene.go_on()?;
    read.and_then(|_| Ok(serde_json::from_str(&line)?))
        .map_err(|error| Failure::transient("child", format!("its child ended before it gave a value: {error}")))
}

impl Exercise for Queue {
    type Fields = Fields;
    type Extras = Received;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.queue",
            summary: "Send a value from a process through a queue",
            details: "The child puts `[42, null, \"hello\"]` on a queue between processes (a pipe that carries whole values, so \
                      that any number of processes may put some), and the parent gets it from there. The message is what the \
                      parent got; `received` is the same as a value.",
            examples: &["tidemill run process.queue"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Received, Failure> {
        let (from, to) = io::pipe().map_err(|error| no_pipe(&error))?;
        let mut children = Children::of(scene, &self.0)?;
        let child = children.start(Role::new(&PART, usual_name(1)).handed(to.as_fd()))?;
        // The child has its own: the queue ends with whoever can put something on it.
        drop(to);
        let received = received(BufReader::new(from), scene)?;
        children.join(child)?;
        children.say(spaced(&received)?)?;
        Ok(Received { pids: children.pids(), received })
    }
}
