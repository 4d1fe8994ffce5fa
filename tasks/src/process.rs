//! Processes: children that are started, joined, ended, and what they share.
//!
//! Every row starts children of this executable ([`crate::children`]); every message comes from the child itself, over one
//! pipe for all of an item, so that the order of messages is the order in which they were said. What sets that order is
//! always something that processes wait on: an end, a turn, a lock, a barrier.

pub mod background;
pub mod barrier;
pub mod identity;
pub mod kill;
pub mod lock;
pub mod manager;
pub mod many;
pub mod name;
pub mod pipe;
pub mod pool;
pub mod queue;
pub mod shared;
mod spaced;
pub mod spawn;
pub mod start;
pub mod subclass;

use std::io;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{Invalid, Register};

pub use crate::children::Program;
use crate::children::{self, Children, Part};
use crate::scenario::Play;

/// What children can do.
const PARTS: &[Part] = &[
    spawn::PART,
    name::PART,
    background::PART,
    kill::PART,
    subclass::PART,
    pool::PART,
    barrier::PART,
    start::PART,
    identity::PART,
    queue::PART,
    pipe::PART,
    lock::PART,
    shared::PART,
    manager::SERVER,
    manager::CLIENT,
    many::PART,
];

/// Plays the part of a child, if this process was started as one, and gives its exit code.
///
/// It belongs at the very beginning of the `main` of whatever runs the tasks `process.*`: they start the same executable
/// again, and a child must become one before anything else begins.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     if let Some(code) = tidemill_tasks::process::main_if_child() {
///         return code;
///     }
///     // … what this program is for …
///     std::process::ExitCode::SUCCESS
/// }
/// ```
pub fn main_if_child() -> Option<ExitCode> {
    children::main_if_child(PARTS)
}

/// Adds every row.
pub(crate) fn register(register: Register, program: &Program) -> Register {
    let program = || program.clone();
    register
        .wait(Play(spawn::Spawn(program())))
        .wait(Play(name::Name(program())))
        .wait(Play(background::Background(program())))
        .wait(Play(kill::Kill(program())))
        .wait(Play(subclass::Subclass(program())))
        .wait(Play(pool::Pool(program())))
        .wait(Play(barrier::Meeting(program())))
        .wait(Play(start::Start(program())))
        .wait(Play(identity::Identity(program())))
        .wait(Play(queue::Queue(program())))
        .wait(Play(pipe::Pipe(program())))
        .wait(Play(lock::OneLock(program())))
        .wait(Play(shared::SharedMemory(program())))
        .wait(Play(manager::Manager(program())))
        .wait(Play(many::Many(program())))
}

/// For rows that give nothing beside messages, times and who their children were.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Pids {
    /// The children's process ids, in the order in which they were started.
    pub pids: Vec<u32>,
}

impl Pids {
    fn of(children: &Children) -> Self {
        Self { pids: children.pids() }
    }
}

/// The name of a child that was given none, as Python gives it: by its number, from 1.
fn usual_name(number: usize) -> String {
    format!("Process-{number}")
}

/// The system has no descriptors left for a pipe, or a pair of sockets.
fn no_pipe(error: &io::Error) -> Failure {
    Failure::transient("processes", format!("the system grants no more pipes: {error}"))
}

/// The most characters of a word that a child says.
const MAX_CHARS: usize = 100;

/// Checks words that come from outside and that children say.
fn check_words(field: &str, words: Option<&[String]>, most: usize) -> Result<(), Invalid> {
    let Some(words) = words else { return Ok(()) };
    if words.len() > most {
        return Err(Invalid(format!("{field}: {} of them, and at most {most} are allowed", words.len())));
    }
    let long = |word: &String| word.chars().count() > MAX_CHARS;
    match words.iter().position(long) {
        Some(at) => Err(Invalid(format!("{field}[{at}]: longer than {MAX_CHARS} characters"))),
        None => Ok(()),
    }
}
