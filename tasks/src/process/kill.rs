//! `process.kill`: the life of a process that is ended.

use std::fmt;
use std::io;

use rustix::process::{Signal, set_parent_process_death_signal};
use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::{Program, usual_name};
use crate::children::sync::Turns;
use crate::children::{ChildId, Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Starts a process, and ends it before it comes to its end.
#[derive(Clone, Debug)]
pub struct Kill(pub Program);

fields! {
    /// What an item of `process.kill` says.
    pub struct Fields, scenarios: 3 {}
}

/// What became of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The child's process id.
    pub pids: Vec<u32>,
    /// Its exit code: -15, for a signal's number is negative.
    pub exit_code: i32,
    /// Its state at each look.
    pub states: Vec<String>,
    /// Whether it lived at each look.
    pub alive: Vec<bool>,
}

pub(super) const PART: Part = Part { name: "process.kill", run: foo };

/// How long it would run.
const TICKS: u32 = 10;

fn foo(me: &Me) -> io::Result<()> {
    // While it is held it cannot see that its parent is gone: the system has to end it then.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It lives. Its time begins to run when the parent has looked, so that no short tick ends it before.
    me.give(&())?;
    Turns(&me.shared().words()[0]).wait_for(1)?;
    me.sleep(TICKS);
    Ok(())
}

impl Exercise for Kill {
    type Fields = Fields;
    type Extras = Extras;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.kill",
            summary: "End a process by SIGTERM and follow its states",
            details: "A child would run for 10 ticks and is ended. Its state (`initial`, `started`, `stopped[SIGTERM]`) and \
                      whether it is alive are told at four points: `Process before execution:`, `Process running:`, \
                      `Process terminated:`, `Process joined:`; the last message is its exit code, -15. In scenario 1 the \
                      third look falls between the signal and the end (the child is held by SIGSTOP while the parent \
                      looks), so it is alive still; in scenario 2 it is ended as soon as it lives and waited for before \
                      the third look. Scenario 3 is the first one with name and process id in each message.",
            examples: &["tidemill run process.kill 1 2 3"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let mut children = Children::of(scene, &self.0)?;
        let mut looks = Looks { says_who: scene.scenario() == 3, states: Vec::new(), alive: Vec::new() };
        looks.look("before execution", &children, None)?;

        let child = children.start(Role::new(&PART, usual_name(1)))?;
        children.next::<()>()?;
        looks.look("running", &children, Some(child))?;

        if scene.scenario() == 2 {
            children.signal(child, Signal::TERM)?;
            children.join(child)?;
            looks.look("terminated", &children, Some(child))?;
        } else {
            // A process that is stopped takes no other signal before it goes on: it is still there to be looked at.
            children.hold(child)?;
            children.signal(child, Signal::TERM)?;
            looks.look("terminated", &children, Some(child))?;
            children.signal(child, Signal::CONT)?;
        }
        children.end_turn()?;
        let exit_code = children.join(child)?;
        looks.look("joined", &children, Some(child))?;

        children.say(exit_code.to_string())?;
        let Looks { states, alive, .. } = looks;
        Ok(Extras { pids: children.pids(), exit_code, states, alive })
    }
}

/// What was seen.
struct Looks {
    says_who: bool,
    states: Vec<String>,
    alive: Vec<bool>,
}

impl Looks {
    fn look(&mut self, when: &str, children: &Children, child: Option<ChildId>) -> Result<(), Failure> {
        let (state, alive) = match child {
            None => (State::Initial, false),
            Some(child) => (children.exit(child).map_or(State::Started, State::Stopped), children.is_alive(child)?),
        };
        let who = match child {
            _ if !self.says_who => String::new(),
            None => format!("name={} pid=none ", usual_name(1)),
            Some(child) => format!("name={} pid={} ", usual_name(1), children.pid(child)),
        };
        self.states.push(state.to_string());
        self.alive.push(alive);
        children.say(format!("Process {when}: {who}state={state} alive={alive}"))
    }
}

/// Where a process is in its life.
enum State {
    Initial,
    Started,
    Stopped(i32),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initial => f.write_str("initial"),
            Self::Started => f.write_str("started"),
            Self::Stopped(0) => f.write_str("stopped"),
            Self::Stopped(-15) => f.write_str("stopped[SIGTERM]"),
            Self::Stopped(-9) => f.write_str("stopped[SIGKILL]"),
            Self::Stopped(code) => write!(f, "stopped[{code}]"),
        }
    }
}
