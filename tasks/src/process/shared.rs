//! `process.shared`: memory that two processes see.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use super::spaced::spaced;
use super::{Program, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Lets a child change its parent's memory.
#[derive(Clone, Debug)]
pub struct SharedMemory(pub Program);

fields! {
    /// What an item of `process.shared` says.
    pub struct Fields, scenarios: 1 {}
}

/// The memory before and after.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The child's process id.
    pub pids: Vec<u32>,
    /// What the parent saw before the child was started.
    pub before: Memory,
    /// What it saw in the same place when the child had ended.
    pub after: Memory,
}

/// What lies in the shared memory.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Memory {
    /// The number.
    pub number: f64,
    /// The array.
    pub array: [i64; 10],
}

/// What the number becomes.
#[expect(clippy::approx_constant, reason = "the exercise's own number, with as many digits")]
const NUMBER: f64 = 3.141_592_7;

pub(super) const PART: Part = Part { name: "process.shared", run: f };

fn f(me: &Me) -> io::Result<()> {
    let (number, array) = places(me.shared().cells());
    number.store(NUMBER.to_bits(), SeqCst);
    for cell in array {
        // In place: the child reads what the parent put there, and writes over it.
        let value = cell.load(SeqCst).cast_signed();
        cell.store((-value).cast_unsigned(), SeqCst);
    }
    Ok(())
}

/// Where the number lies, and where the array.
fn places(cells: &[AtomicU64]) -> (&AtomicU64, &[AtomicU64]) {
    (&cells[0], &cells[1..=10])
}

fn seen(cells: &[AtomicU64]) -> Memory {
    let (number, array) = places(cells);
    let array = std::array::from_fn(|i| array[i].load(SeqCst).cast_signed());
    Memory { number: f64::from_bits(number.load(SeqCst)), array }
}

impl Exercise for SharedMemory {
    type Fields = Fields;
    type Extras = Extras;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.shared",
            summary: "Let a process change a number and an array in place",
            details: "A number (0) and an array (0 to 9) lie in memory that is mapped by the parent and by the child. The child \
                      sets the number to 3.1415927 and negates the array in place, and sends nothing; the messages are what \
                      the parent then finds in its own memory. Look at `before` and `after`.",
            examples: &["tidemill run process.shared"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let mut children = Children::of(scene, &self.0)?;
        let (_, array) = places(children.shared().cells());
        for (i, cell) in (0..).zip(array) {
            cell.store(i, SeqCst);
        }
        let before = seen(children.shared().cells());
        let child = children.start(Role::new(&PART, usual_name(1)))?;
        children.join(child)?;
        let after = seen(children.shared().cells());
        children.say(spaced(&after.number)?)?;
        children.say(spaced(&after.array)?)?;
        Ok(Extras { pids: children.pids(), before, after })
    }
}
