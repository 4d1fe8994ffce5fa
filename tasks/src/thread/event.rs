//! `thread.event`: threads wait for a flag.

use std::collections::VecDeque;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::{MAX_ITEMS, own_name, primitive};
use crate::scenario::{Exercise, Fields as _, Monitor, Nothing, Scene, Stopped, Within, fields};

/// Lets consumers wait for an event that a producer sets.
#[derive(Clone, Copy, Debug)]
pub struct Event;

fields! {
    /// What an item of `thread.event` says.
    pub struct Fields, scenarios: 3 {
        /// How many items are produced.
        items: Within<1, MAX_ITEMS> = 5,
    }
}

/// The largest item.
const MAX_ITEM: u64 = 100;

impl Exercise for Event {
    type Fields = Fields;
    type Extras = Nothing;

    const MOST_TICKS: u64 = MAX_ITEMS;

    fn about(&self) -> About {
        About {
            name: "thread.event",
            summary: "Let consumers wait for an event that a producer sets",
            details: "An event is a flag: all who wait for it go on when it is set. The producer works for a tick, appends a \
                      random number from 0 to 100 (it follows from the seed) and sets the event; a consumer pops the item \
                      and clears the event, and only then does the next round begin. Scenario 1: `Producer notify: item {x} \
                      appended by Producer`, `Consumer notify: {x} popped by Consumer`, in each round. Scenario 2: the \
                      consumer is first and says so, `Consumer is waiting`, and the producer sets nothing before somebody \
                      waits. Scenario 3: two consumers see each setting and take turns; the one whose turn it is not waits \
                      for the next, so each item is consumed once.",
            examples: &["tidemill run thread.event 1 2 3 -o tick_ms=100", "tidemill run thread.event 3 -o items=8"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        3
    }

    fn ticks(&self, fields: &Fields) -> usize {
        fields.items()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Nothing, Failure> {
        let pair = &Pair {
            scene,
            items: fields.items(),
            event: primitive::Event::new(scene),
            appended: Monitor::new(scene, VecDeque::new()),
            consumer_is_first: fields.common().scenario == 2,
        };
        scene.crew(|crew| {
            match scene.scenario() {
                3 => {
                    crew.start("Consumer-1", move || Ok(pair.consume(0, 2)?))?;
                    crew.start("Consumer-2", move || Ok(pair.consume(1, 2)?))?;
                }
                _ => drop(crew.start("Consumer", move || Ok(pair.consume(0, 1)?))?),
            }
            crew.start("Producer", move || Ok(pair.produce()?))?.join()
        })?;
        Ok(Nothing {})
    }
}

/// What producer and consumers share.
struct Pair<'a> {
    scene: &'a Scene,
    items: usize,
    event: primitive::Event,
    appended: Monitor<VecDeque<u64>>,
    consumer_is_first: bool,
}

impl Pair<'_> {
    fn produce(&self) -> Result<(), Stopped> {
        let mut seeded = self.scene.seeded();
        for _ in 0..self.items {
            self.event.wait_clear()?;
            if self.consumer_is_first {
                self.event.wait_for_waiters(1)?;
            }
            self.scene.nap(1)?;
            let item = seeded.number(0..=MAX_ITEM);
            self.appended.lock().push_back(item);
            self.scene.say(format!("Producer notify: item {item} appended by {}", own_name()))?;
            self.event.set();
        }
        Ok(())
    }

    /// Consumes each item whose number, counted from 0, is `first` and so many more.
    fn consume(&self, first: usize, step: usize) -> Result<(), Stopped> {
        let mut seen = 0;
        for own in (first..self.items).step_by(step) {
            if self.consumer_is_first {
                self.scene.say("Consumer is waiting")?;
            }
            // Every setting is one item; what was set for the other's is only seen.
            while seen != own + 1 {
                seen = self.event.wait_after(seen)?;
            }
            if let Some(item) = self.appended.lock().pop_front() {
                self.scene.say(format!("Consumer notify: {item} popped by {}", own_name()))?;
            }
            self.event.clear();
        }
        Ok(())
    }
}
