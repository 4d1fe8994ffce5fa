//! `thread.define`: threads are started, and joined.

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::MAX_THREADS;
use crate::scenario::{Exercise, Nothing, Scene, Within, fields};

/// Starts threads that each say one thing.
#[derive(Clone, Copy, Debug)]
pub struct Define;

fields! {
    /// What an item of `thread.define` says.
    pub struct Fields, scenarios: 3 {
        /// How many threads there are.
        threads: Within<1, MAX_THREADS> = 10,
    }
}

impl Exercise for Define {
    type Fields = Fields;
    type Extras = Nothing;

    fn about(&self) -> About {
        About {
            name: "thread.define",
            summary: "Start threads and join them",
            details: "Each thread contributes one message with its number, counted from 0. Every thread is joined before \
                      the next one starts, so messages come in the order of starting: that is what joining is for. \
                      Scenario 1 starts them ascending. Scenario 2 puts odd numbers to the front and even ones to the \
                      back: 9 7 5 3 1 0 2 4 6 8. Scenario 3 starts them descending. Look at `runs`: each thread has a \
                      number (tid) of its own, and none begins before the one ahead has ended.",
            examples: &["tidemill run thread.define 1 2 3", "tidemill run thread.define 2 -o threads=5 --format table"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Nothing, Failure> {
        let ascending = 0..fields.threads();
        let order: Vec<usize> = match scene.scenario() {
            1 => ascending.collect(),
            2 => ascending.clone().rev().filter(|i| i % 2 == 1).chain(ascending.filter(|i| i % 2 == 0)).collect(),
            _ => ascending.rev().collect(),
        };
        scene.crew(|crew| {
            for i in order {
                let speaking = move || Ok(scene.say(format!("my_func called by thread N°{i}"))?);
                crew.start(format!("Thread-{i}"), speaking)?.join()?;
            }
            Ok(Nothing {})
        })
    }
}
