//! `thread.lock`: one at a time, by a mutex.

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::MAX_THREADS;
use super::subclass::{Worker, conclude};
use crate::scenario::{Exercise, Nothing, Scene, Turns, Within, fields};

/// Runs worker objects on threads that share a mutex.
#[derive(Clone, Copy, Debug)]
pub struct Lock;

fields! {
    /// What an item of `thread.lock` says.
    pub struct Fields, scenarios: 3 {
        /// How many threads there are.
        threads: Within<1, MAX_THREADS> = 9,
    }
}

impl Exercise for Lock {
    type Fields = Fields;
    type Extras = Nothing;

    const MOST_TICKS: u64 = MAX_THREADS;

    fn about(&self) -> About {
        About {
            name: "thread.lock",
            summary: "Keep threads apart with a mutex",
            details: "The workers of thread.subclass, all started together, but each holds a mutex from running to over: \
                      so pairs never interleave, and the whole takes a tick for each. A thread that holds the mutex out of \
                      its turn gives it back and waits on a condition variable. Scenario 1 lets the middle one go first, \
                      then outward, left before right: 5 4 6 3 7 2 8 1 9. Scenario 2 goes up, scenario 3 goes down. In the \
                      table every thread is alive from the beginning, but only one at a time is at work.",
            examples: &["tidemill run thread.lock 1 2 3 -o tick_ms=200", "tidemill run thread.lock --format table"],
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
        let threads = fields.threads();
        let order: Vec<usize> = match scene.scenario() {
            1 => outward(threads),
            2 => (1..=threads).collect(),
            _ => (1..=threads).rev().collect(),
        };
        let turns = &Turns::new(scene);
        scene.crew(|crew| {
            // Held until all are there: they begin by waiting for it.
            let first = turns.take(0)?;
            for (place, number) in order.into_iter().enumerate() {
                let worker = Worker { scene, number };
                crew.start(worker.name(), move || {
                    let turn = turns.take(place + 1)?;
                    worker.run()?;
                    turn.pass();
                    Ok(())
                })?;
            }
            first.pass();
            Ok(())
        })?;
        conclude(scene)?;
        Ok(Nothing {})
    }
}

/// 1 to `count` from the middle outward, left before right.
fn outward(count: usize) -> Vec<usize> {
    let middle = count.div_ceil(2);
    let pairs = (1..=middle).flat_map(|step| [middle.checked_sub(step), Some(middle + step)]);
    let around = pairs.flatten().filter(|number| (1..=count).contains(number));
    std::iter::once(middle).chain(around).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outward_is_from_the_middle_left_before_right() {
        assert_eq!(outward(1), [1]);
        assert_eq!(outward(2), [1, 2]);
        assert_eq!(outward(4), [2, 1, 3, 4]);
        assert_eq!(outward(9), [5, 4, 6, 3, 7, 2, 8, 1, 9]);
    }
}
