//! `thread.subclass`: an object with a run method of its own, on a thread.

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::MAX_THREADS;
use crate::scenario::{Exercise, Nothing, Scene, Stopped, Turns, Within, fields};

/// Runs worker objects on threads.
#[derive(Clone, Copy, Debug)]
pub struct Subclass;

fields! {
    /// What an item of `thread.subclass` says.
    pub struct Fields, scenarios: 3 {
        /// How many threads there are.
        threads: Within<1, MAX_THREADS> = 9,
    }
}

impl Exercise for Subclass {
    type Fields = Fields;
    type Extras = Nothing;

    const MOST_TICKS: u64 = MAX_THREADS;

    fn about(&self) -> About {
        About {
            name: "thread.subclass",
            summary: "Give worker objects a thread each",
            details: "A worker is an object with a run method: it says that it runs and in which process, works for one \
                      tick and says that it is over. Scenario 1 starts all of them together: all run, then all are over, \
                      and the whole takes one tick. Scenarios 2 and 3 join each before they start the next, ascending \
                      and descending: pairs of running and over, and a tick for each. The last message has the seconds \
                      that it took: compare them. All threads are in one process, so the process ID is always the same.",
            examples: &[
                "tidemill run thread.subclass 1 2 3 -o tick_ms=200",
                "tidemill run thread.subclass 1 -o threads=30 --format table",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, fields: &Fields) -> usize {
        fields.threads()
    }

    fn ticks(&self, fields: &Fields) -> usize {
        fields.threads()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Nothing, Failure> {
        let numbers = 1..=fields.threads();
        match scene.scenario() {
            1 => together(scene, fields.threads())?,
            2 => one_by_one(scene, numbers)?,
            _ => one_by_one(scene, numbers.rev())?,
        }
        conclude(scene)?;
        Ok(Nothing {})
    }
}

/// A worker object.
pub(super) struct Worker<'a> {
    pub(super) scene: &'a Scene,
    pub(super) number: usize,
}

impl Worker<'_> {
    /// The name of its thread.
    pub(super) fn name(&self) -> String {
        format!("Thread#{}", self.number)
    }

    /// Says that it runs.
    pub(super) fn begin(&self) -> Result<(), Stopped> {
        let pid = std::process::id();
        self.scene.say(format!("---> {} running, belonging to process ID {pid}", self.name()))
    }

    /// Works for a tick.
    pub(super) fn work(&self) -> Result<(), Stopped> {
        self.scene.nap(1)
    }

    /// Says that it is over.
    pub(super) fn end(&self) -> Result<(), Stopped> {
        self.scene.say(format!("---> {} over", self.name()))
    }

    /// All of its life.
    pub(super) fn run(&self) -> Result<(), Stopped> {
        self.begin()?;
        self.work()?;
        self.end()
    }
}

/// All workers at once: they begin in their order, work side by side and end in their order.
fn together(scene: &Scene, threads: usize) -> Result<(), Failure> {
    let turns = &Turns::new(scene);
    scene.crew(|crew| {
        for number in 1..=threads {
            let worker = Worker { scene, number };
            crew.start(worker.name(), move || {
                let turn = turns.take(number - 1)?;
                worker.begin()?;
                turn.pass();
                worker.work()?;
                let turn = turns.take(threads + number - 1)?;
                worker.end()?;
                turn.pass();
                Ok(())
            })?;
        }
        Ok(())
    })
}

fn one_by_one(scene: &Scene, numbers: impl Iterator<Item = usize>) -> Result<(), Failure> {
    scene.crew(|crew| {
        for number in numbers {
            let worker = Worker { scene, number };
            crew.start(worker.name(), move || Ok(worker.run()?))?.join()?;
        }
        Ok(())
    })
}

/// The last two messages.
pub(super) fn conclude(scene: &Scene) -> Result<(), Stopped> {
    scene.say("End")?;
    scene.say(format!("--- {:.3} seconds ---", scene.now_ms() / 1000.0))
}
