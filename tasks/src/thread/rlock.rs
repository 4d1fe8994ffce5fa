//! `thread.rlock`: a lock that its holder may take again.

use std::cell::Cell;

use parking_lot::ReentrantMutex;
use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Invalid};

use super::MAX_ITEMS;
use crate::scenario::{Exercise, Fields as _, Scene, Stopped, Turns, Within, fields};

/// Fills and empties a box behind a re-entrant lock.
#[derive(Clone, Copy, Debug)]
pub struct Rlock;

fields! {
    /// What an item of `thread.rlock` says.
    pub struct Fields, scenarios: 3 {
        /// How many items are added.
        items_to_add: Within<1, MAX_ITEMS> = 16,
        /// How many are removed in scenario 1, at most as many as are added. Scenarios 2 and 3 remove all that was added.
        items_to_remove: Within<0, MAX_ITEMS> = 1,
    }
}

/// What it gives beside messages and times.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// How many items are in the box at the end.
    pub total_items: u64,
}

impl Exercise for Rlock {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 2 * MAX_ITEMS;

    fn about(&self) -> About {
        About {
            name: "thread.rlock",
            summary: "Share a box behind a lock that its holder may take again",
            details: "add and remove take the lock of the box and call execute, which takes it again: with a plain mutex a \
                      thread would wait for itself for ever. A step of the adder or the remover takes one tick. Scenario 1 \
                      lets both work together: the remover begins once the box is not empty, their steps overlap, and \
                      the adder speaks first in each. Scenario 2 adds all and then removes all. Scenario 3 strictly \
                      alternates: a step of one begins when the other's has ended. `total_items` is what is left.",
            examples: &[
                "tidemill run thread.rlock 1 2 3 -o tick_ms=100",
                "tidemill run thread.rlock 1 -o items_to_add=5 -o items_to_remove=5 --format table",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn check(&self, fields: &Fields) -> Result<(), Invalid> {
        let (add, remove) = (fields.items_to_add(), fields.items_to_remove());
        if fields.common().scenario == 1 && remove > add {
            return Err(Invalid(format!(
                "items_to_remove: {remove} is more than are added; at most items_to_add, {add}"
            )));
        }
        Ok(())
    }

    fn room(&self, _fields: &Fields) -> usize {
        2
    }

    fn ticks(&self, fields: &Fields) -> usize {
        2 * fields.items_to_add()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let (add, some) = (fields.items_to_add(), fields.items_to_remove());
        let (turns, a_box) = (&Turns::new(scene), &Box::default());
        let adder = Hand { scene, turns, a_box, deed: Deed::Add, items: add };
        let remover = |items| Hand { scene, turns, a_box, deed: Deed::Remove, items };
        scene.crew(|crew| {
            match scene.scenario() {
                1 => {
                    crew.start("adder", move || Ok(adder.overlap(some)?))?;
                    crew.start("remover", move || Ok(remover(some).overlap(add)?))?;
                }
                2 => {
                    crew.start("adder", move || Ok(adder.alone(0, 1)?))?.join()?;
                    crew.start("remover", move || Ok(remover(add).alone(add + 1, 1)?))?.join()?;
                }
                _ => {
                    crew.start("adder", move || Ok(adder.alone(0, 2)?))?;
                    crew.start("remover", move || Ok(remover(add).alone(1, 2)?))?;
                }
            }
            Ok(())
        })?;
        Ok(Extras { total_items: a_box.total() })
    }
}

/// A box behind a re-entrant lock.
#[derive(Default)]
struct Box {
    total_items: ReentrantMutex<Cell<u64>>,
}

impl Box {
    fn add(&self) {
        let _held = self.total_items.lock();
        self.execute(|items| items + 1);
    }

    /// Whoever calls has seen that it is not empty.
    fn remove(&self) {
        let _held = self.total_items.lock();
        self.execute(|items| items - 1);
    }

    /// Takes the lock that its callers hold.
    fn execute(&self, change: impl FnOnce(u64) -> u64) {
        let items = self.total_items.lock();
        items.set(change(items.get()));
    }

    fn total(&self) -> u64 {
        self.total_items.lock().get()
    }
}

#[derive(Clone, Copy)]
enum Deed {
    Add,
    Remove,
}

/// The adder or the remover.
struct Hand<'a> {
    scene: &'a Scene,
    turns: &'a Turns,
    a_box: &'a Box,
    deed: Deed,
    items: usize,
}

impl Hand<'_> {
    /// Each step in a turn of its own; between two of them `stride - 1` turns are another's.
    fn alone(&self, first: usize, stride: usize) -> Result<(), Stopped> {
        for done in 0..=self.items {
            let turn = self.turns.take(first + stride * done)?;
            if done > 0 {
                self.step();
                self.scene.nap(1)?;
            }
            self.tell(done)?;
            turn.pass();
        }
        Ok(())
    }

    /// Steps beside those of another, which has so many items. The mutex is held only to speak and to begin a step; the
    /// tick passes for both at once.
    fn overlap(&self, others: usize) -> Result<(), Stopped> {
        for done in 0..=self.items {
            let others_before = match self.deed {
                Deed::Add => done,
                Deed::Remove => done + 1,
            };
            // The other speaks once more than it has items, and then leaves.
            let turn = self.turns.take(done + others_before.min(others + 1))?;
            self.tell(done)?;
            if done < self.items {
                self.step();
                turn.pass();
                self.scene.nap(1)?;
            } else {
                turn.pass();
            }
        }
        Ok(())
    }

    fn step(&self) {
        match self.deed {
            Deed::Add => self.a_box.add(),
            Deed::Remove => self.a_box.remove(),
        }
    }

    fn tell(&self, done: usize) -> Result<(), Stopped> {
        let (infinitive, past) = match self.deed {
            Deed::Add => ("ADD", "ADDED"),
            Deed::Remove => ("REMOVE", "REMOVED"),
        };
        self.scene.say(match done {
            0 => format!("N° {} items to {infinitive}", self.items),
            _ => format!("{past} one item -->{} item(s) to {infinitive}", self.items - done),
        })
    }
}
