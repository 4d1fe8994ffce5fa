//! `process.start`: one process, with arguments.

use std::io;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Invalid, Lane};

use super::{Pids, Program, check_words, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Starts one process and gives it arguments.
#[derive(Clone, Debug)]
pub struct Start(pub Program);

fields! {
    /// What an item of `process.start` says.
    pub struct Fields, scenarios: 1 {
        /// What the child greets: at most 16 words of at most 100 characters, and 500 together; `bob` and `sponge` if nothing is said.
        args: Vec<String>,
    }
}

/// The most characters of all words together: whatever they are, the message fits into one piece of a pipe.
const MAX_CHARS: usize = 500;

pub(super) const PART: Part = Part { name: "process.start", run: f };

fn f(me: &Me) -> io::Result<()> {
    let args: Vec<String> = me.args()?;
    me.say(format!("Hello {}", args.join(" ")))
}

impl Exercise for Start {
    type Fields = Fields;
    type Extras = Pids;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.start",
            summary: "Start one process and wait for it",
            details: "A child is started with arguments and says `Hello {args}`; the parent waits for its end. It is the \
                      smallest there is: look at `pids` for the child's process id, and at `elapsed_ms` for what a process \
                      costs.",
            examples: &["tidemill run process.start", "tidemill run process.start -o args='[\"Ada\",\"Grace\"]'"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn check(&self, fields: &Fields) -> Result<(), Invalid> {
        check_words("args", fields.args.as_deref(), 16)?;
        let chars: usize = fields.args.iter().flatten().map(|word| word.chars().count()).sum();
        if chars > MAX_CHARS {
            return Err(Invalid(format!("args: {chars} characters together, and at most {MAX_CHARS} are allowed")));
        }
        Ok(())
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let args = fields.args.clone().unwrap_or_else(|| ["bob", "sponge"].map(str::to_owned).into());
        let mut children = Children::of(scene, &self.0)?;
        let child = children.start(Role::new(&PART, usual_name(1)).with(&args))?;
        children.join(child)?;
        Ok(Pids::of(&children))
    }
}
