//! `process.pipe`: a pipe with two ends, each of which speaks and hears.

use std::io::{self, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use serde_json::json;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::queue::{Received, received};
use super::spaced::spaced;
use super::{Program, no_pipe, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Sends a value from a child to its parent over one end of a pipe.
#[derive(Clone, Debug)]
pub struct Pipe(pub Program);

fields! {
    /// What an item of `process.pipe` says.
    pub struct Fields, scenarios: 1 {}
}

pub(super) const PART: Part = Part { name: "process.pipe", run: f };

fn f(me: &Me) -> io::Result<()> {
    let mut end = UnixStream::from(me.take()?);
    writeln!(end, "{}", json!([42, null, "hello"]))
}

impl Exercise for Pipe {
    type Fields = Fields;
    type Extras = Received;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.pipe",
            summary: "Send a value from a process over one end of a pipe",
            details: "A pipe has two ends that both speak and both hear (a pair of sockets). The child is given one and sends \
                      `[42, null, \"hello\"]`; the parent receives it at the other. Unlike a queue it joins exactly two. The \
                      message is what the parent got; `received` is the same as a value.",
            examples: &["tidemill run process.pipe"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Received, Failure> {
        let (parents_end, childs_end) = UnixStream::pair().map_err(|error| no_pipe(&error))?;
        let mut children = Children::of(scene, &self.0)?;
        let child = children.start(Role::new(&PART, usual_name(1)).handed(childs_end.as_fd()))?;
        // The child has its own: this end hears nothing more once that is closed.
        drop(childs_end);
        let received = received(BufReader::new(parents_end), scene)?;
        children.join(child)?;
        children.say(spaced(&received)?)?;
        Ok(Received { pids: children.pids(), received })
    }
}
