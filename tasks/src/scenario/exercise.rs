//! Exercise: a row of the catalogue, and the task that is made of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Cost, Hands, Invalid, Lane, Task, Tools, Wait, raw, raw_word};
use tokio::sync::oneshot;

use super::output::Output;
use super::{Fields, Scene};
use crate::time::{MAX_TICK_MS, timeout_for};

/// Items that start processes which one core is given at once: more would only wait for room.
const PROCESS_HANDS: usize = 4;
/// Room that a process takes: a thread's, and two descriptors more, of which there are often 1024 and no more.
const PROCESS_ROOM: usize = 3;
/// What starting and ending an item's processes takes, however short its ticks are.
const PROCESS_COST: Duration = Duration::from_millis(20);

/// The name of the thread that directs the others.
const MAIN: &str = "main";

/// A row of the catalogue: threads or processes at work.
pub trait Exercise: Send + Sync + 'static {
    /// What an item may say, made by `fields!`; the options of a batch may say the same for all its items.
    type Fields: Fields;
    /// What it gives beside messages and times.
    type Extras: Serialize + JsonSchema + Send + 'static;

    /// How many ticks it takes at most, whatever its fields say. Where it is 0, an item is soon over, and the setting
    /// `task.timeout` is enough.
    const MOST_TICKS: u64 = 0;

    /// The kind of machine that it needs: where it starts processes, [`Lane::Process`].
    const LANE: Lane = Lane::Wait;

    /// What people are told about it.
    fn about(&self) -> About;

    /// Checks what the types of the fields alone cannot say, of an item over its batch's options.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what is allowed.
    fn check(&self, _fields: &Self::Fields) -> Result<(), Invalid> {
        Ok(())
    }

    /// How many threads and processes it has at once, at most, beside the one that directs.
    fn room(&self, fields: &Self::Fields) -> usize;

    /// How many ticks it takes, roughly.
    fn ticks(&self, _fields: &Self::Fields) -> usize {
        0
    }

    /// Plays it, on a thread of its own. When it returns, every thread and process that it started has ended.
    ///
    /// # Errors
    /// [`super::Stopped`], or what went wrong.
    fn play(&self, fields: &Self::Fields, scene: &Scene) -> Result<Self::Extras, Failure>;
}

/// An exercise as a task.
#[derive(Clone, Copy, Debug)]
pub struct Play<E>(pub E);

impl<E: Exercise> Task for Play<E> {
    type Input = E::Fields;
    type Options = E::Fields;
    type Output = Output<E::Extras>;
    type Plan = E::Fields;

    fn about(&self) -> About {
        self.0.about()
    }

    fn plan(&self, options: E::Fields) -> Result<E::Fields, Invalid> {
        Ok(options)
    }

    fn check(&self, batch: &E::Fields, input: &E::Fields) -> Result<(), Invalid> {
        self.0.check(&input.clone().or(batch))
    }

    fn cost(&self, batch: &E::Fields) -> Cost {
        let ticks = u32::try_from(self.0.ticks(batch)).unwrap_or(u32::MAX);
        let starts = if E::LANE == Lane::Process { PROCESS_COST } else { Duration::ZERO };
        Cost::of(batch.common().tick.saturating_mul(ticks).saturating_add(starts))
    }

    fn lane(&self, _batch: &E::Fields) -> Lane {
        E::LANE
    }

    fn timeout(&self, _batch: &E::Fields) -> Option<Duration> {
        // Whatever its batch says, an item may say a longer tick.
        let longest = Duration::from_millis(MAX_TICK_MS * E::MOST_TICKS);
        (!longest.is_zero()).then(|| timeout_for(longest))
    }

    /// A number is a scenario.
    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        match word.parse::<i64>() {
            Ok(scenario) => raw(&serde_json::json!({ "scenario": scenario })),
            Err(_) => raw_word(word),
        }
    }
}

impl<E: Exercise> Wait for Play<E> {
    async fn run(
        self: Arc<Self>,
        batch: Arc<E::Fields>,
        input: E::Fields,
        _tools: Tools,
    ) -> Result<Output<E::Extras>, Failure> {
        let fields = input.or(&batch);
        let scene = Scene::new(fields.common());
        // Whoever drops this future ends the scene with it.
        let _stop = StopAtEnd(scene.clone());
        let (answer, answered) = oneshot::channel();
        let playing = move || {
            let result = play(&self.0, &fields, &scene);
            // Nobody may be listening any more.
            drop(answer.send(result));
        };
        Builder::new().name(MAIN.to_owned()).spawn(playing).map_err(|error| Failure::no_thread(&error))?;
        answered.await.unwrap_or_else(|_| Err(Failure::panicked("its main thread is gone")))
    }

    fn room(&self, batch: &E::Fields, input: &E::Fields) -> usize {
        let each = if E::LANE == Lane::Process { PROCESS_ROOM } else { 1 };
        // And the main thread.
        1 + each * self.0.room(&input.clone().or(batch))
    }

    fn hands(&self, _batch: &E::Fields) -> Hands {
        if E::LANE == Lane::Process { Hands::PerCore(PROCESS_HANDS) } else { Hands::Many }
    }
}

fn play<E: Exercise>(exercise: &E, fields: &E::Fields, scene: &Scene) -> Result<Output<E::Extras>, Failure> {
    // A panicking item leaves nothing behind: its scene ends with it.
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| exercise.play(fields, scene)))
        .unwrap_or_else(|panic| Err(Failure::panicked(&message_of(panic.as_ref()))));
    match played {
        Ok(extras) => Ok(scene.output(extras)),
        // What stopped the others is what went wrong.
        Err(failure) => Err(scene.take_cause().unwrap_or(failure)),
    }
}

/// Stops the scene when it is dropped; one that is over does not mind.
struct StopAtEnd(Scene);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}
