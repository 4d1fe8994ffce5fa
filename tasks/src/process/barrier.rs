//! `process.barrier`: processes that meet, and processes that do not.

use std::io;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::Program;
use crate::children::sync::{Barrier, Lock, Turns};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Lets some processes meet at a barrier, and others not.
#[derive(Clone, Debug)]
pub struct Meeting(pub Program);

fields! {
    /// What an item of `process.barrier` says.
    pub struct Fields, scenarios: 3 {}
}

/// What each of them did.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The children's process ids.
    pub pids: Vec<u32>,
    /// The children, in the order of their names.
    pub processes: Vec<Met>,
}

/// What a child did, and when.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Met {
    /// Its name.
    pub name: String,
    /// Whether there was a barrier on its way.
    pub has_barrier: bool,
    /// When it crossed the barrier, in milliseconds since the item began; false where there was none.
    pub barrier_cross_time: CrossTime,
    /// When it had the lock and spoke, in milliseconds since the item began.
    pub finish_time: f64,
}

/// A time, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)] // It is only ever written: what `untagged` spoils are the messages of what is read.
pub enum CrossTime {
    /// Milliseconds since the item began.
    At(f64),
    /// `false`: there was no barrier.
    None(bool),
}

pub(super) const PART: Part = Part { name: "process.barrier", run: test };

/// What a child does on its way to the lock.
#[derive(Serialize, Deserialize)]
struct Args {
    /// How many meet at its barrier, if it has one.
    parties: Option<u32>,
    /// How many ticks it takes to get there.
    way: u32,
    /// Its place in the row before the lock.
    place: u32,
}

fn test(me: &Me) -> io::Result<()> {
    let Args { parties, way, place } = me.args()?;
    let [places, come, drawn, serving, ..] = me.shared().words() else { return Ok(()) };
    let crossed = match parties {
        Some(parties) => {
            me.sleep(way);
            Barrier { come, parties }.meet()?;
            Some(me.now_ms())
        }
        None => None,
    };
    Turns(places).wait_for(place)?;
    let ticket = Lock { drawn, serving }.draw();
    Turns(places).end()?;
    let _serialised = ticket.enter()?;
    let finished = me.now_ms();
    me.give(&(crossed, finished))?;
    let function = if parties.is_some() { "test_with_barrier" } else { "test_without_barrier" };
    me.say(format!("process {} - {function} ----> {finished}", me.name()))
}

impl Exercise for Meeting {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 3;
    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.barrier",
            summary: "Let processes meet at a barrier before they go on",
            details: "Children p1 to p4 run together. Some come to a barrier, after 1, 2 and 3 ticks, and go on when all \
                      who belong to it are there; the others have none. Each then takes one lock that is fair and says \
                      `process {name} - test_with_barrier ----> {milliseconds}`, or `test_without_barrier`; who has no \
                      barrier is there first. In scenario 1, p1 and p2 have the barrier; in scenario 2, p3 and p4, so p1 \
                      and p2 finish earlier; in scenario 3 there is a p5, and p1, p2 and p5 meet. Look at \
                      `barrier_cross_time`: the same, nearly, for all who met, whenever they came.",
            examples: &["tidemill run process.barrier 1 2 3", "tidemill run process.barrier 3 -o tick_ms=100"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        5
    }

    fn ticks(&self, _fields: &Fields) -> usize {
        3
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let (names, with): (&[&str], &[usize]) = match scene.scenario() {
            1 => (&["p1", "p2", "p3", "p4"], &[0, 1]),
            2 => (&["p1", "p2", "p3", "p4"], &[2, 3]),
            _ => (&["p1", "p2", "p3", "p4", "p5"], &[0, 1, 4]),
        };
        let parties = u32::try_from(with.len()).unwrap_or(u32::MAX);
        let without = u32::try_from(names.len()).unwrap_or(u32::MAX) - parties;
        let mut children = Children::of(scene, &self.0)?;
        // Turn 0 is the parent's: nobody has spoken before all are there.
        let (mut first, mut last) = (1.., without + 1..);
        for (n, name) in names.iter().enumerate() {
            let meets = with.contains(&n);
            let place = if meets { last.next() } else { first.next() }.unwrap_or(u32::MAX);
            // The first who belongs to the barrier comes after one tick, the next one a tick later, and so on.
            let args = Args { parties: meets.then_some(parties), way: place.saturating_sub(without), place };
            children.start(Role::new(&PART, *name).with(&args))?;
        }
        children.end_turn()?;
        let mut times = vec![(None, 0.0); names.len()];
        for _ in names {
            let (child, time) = children.next::<(Option<f64>, f64)>()?;
            times[child.0] = time;
        }
        children.join_all()?;
        let met = |(name, (crossed, finish_time)): (&&str, (Option<f64>, f64))| Met {
            name: (*name).to_owned(),
            has_barrier: crossed.is_some(),
            barrier_cross_time: crossed.map_or(CrossTime::None(false), CrossTime::At),
            finish_time,
        };
        Ok(Extras { pids: children.pids(), processes: names.iter().zip(times).map(met).collect() })
    }
}
