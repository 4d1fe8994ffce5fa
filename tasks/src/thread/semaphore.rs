//! `thread.semaphore`: threads wait for a counter.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::{MAX_ITEMS, own_name, primitive};
use crate::scenario::{Exercise, Fields as _, Monitor, Scene, Seeded, Within, fields};

/// Lets consumers wait for what producers release.
#[derive(Clone, Copy, Debug)]
pub struct Semaphore;

fields! {
    /// What an item of `thread.semaphore` says.
    pub struct Fields, scenarios: 3 {
        /// How many items are produced: rounds in scenario 1. Scenario 2 produces none.
        items: Within<1, MAX_ITEMS> = 10,
    }
}

/// What it gives beside messages and times.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// In scenario 2, what the consumer was doing when it was abandoned: `waiting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
}

/// The largest item.
const MAX_ITEM: u64 = 1000;
const PRODUCERS: usize = 2;
const CONSUMERS: usize = 3;
/// What the queue of scenario 3 holds.
const CAPACITY: usize = 2;

impl Exercise for Semaphore {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 2 * MAX_ITEMS;

    fn about(&self) -> About {
        About {
            name: "thread.semaphore",
            summary: "Let consumers wait on a counting semaphore",
            details: "A semaphore counts how many may pass; to acquire it is to wait until somebody releases it. Items are \
                      random numbers from 0 to 1000 that follow from the seed. Scenario 1: in each round a new consumer \
                      waits, a new producer works for a tick and releases, the consumer passes, and both are joined. \
                      Scenario 2: nothing is released and nobody is joined, so the consumer only waits: that is the \
                      `state` which is given, and then its thread is ended. Scenario 3: two producers and three consumers \
                      over a queue that holds 2. Each producer works for a tick before it appends, each consumer for a \
                      tick after it has popped; in between, one permit goes round between a semaphore of the producers \
                      and one of the consumers. A producer passes it on to the other while there is room, then each pop \
                      lets one append. Both semaphores serve who came first.",
            examples: &[
                "tidemill run thread.semaphore 1 2 3 -o tick_ms=100",
                "tidemill run thread.semaphore 3 -o seed=7",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, fields: &Fields) -> usize {
        if fields.common().scenario == 3 { PRODUCERS + CONSUMERS } else { 2 }
    }

    fn ticks(&self, fields: &Fields) -> usize {
        fields.items()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let state = match scene.scenario() {
            1 => rounds(scene, fields.items()).map(|()| None)?,
            2 => Some(abandon(scene)?),
            _ => over_a_queue(scene, fields.items()).map(|()| None)?,
        };
        Ok(Extras { state })
    }
}

/// Scenario 1: a consumer and a producer in each round.
fn rounds(scene: &Scene, items: usize) -> Result<(), Failure> {
    let semaphore = &primitive::Semaphore::new(scene, 0);
    let item = &Monitor::new(scene, 0);
    let mut seeded = scene.seeded();
    for _ in 0..items {
        let next = seeded.number(0..=MAX_ITEM);
        scene.crew(|crew| {
            let consumer = crew.start("Consumer", move || {
                scene.say("Consumer is waiting")?;
                semaphore.acquire()?;
                Ok(scene.say(format!("Consumer notified: item number {}", *item.lock()))?)
            })?;
            let producer = crew.start("Producer", move || {
                semaphore.wait_for_waiters(1)?;
                scene.nap(1)?;
                *item.lock() = next;
                scene.say(format!("Producer notified: item number {next}"))?;
                semaphore.release();
                Ok(())
            })?;
            consumer.join()?;
            producer.join()
        })?;
    }
    Ok(())
}

/// Scenario 2: a consumer that nobody will ever wake. Says what it was doing when it was left, and ends it.
fn abandon(scene: &Scene) -> Result<&'static str, Failure> {
    let semaphore = &primitive::Semaphore::new(scene, 0);
    scene.crew(|crew| {
        crew.start("Consumer", move || {
            scene.say("Consumer is waiting")?;
            if semaphore.acquire()? {
                scene.say("Consumer notified")?;
            }
            Ok(())
        })?;
        semaphore.wait_for_waiters(1)?;
        // As long as a producer would take: nothing comes.
        scene.nap(1)?;
        let state = if semaphore.waiting() == 1 { "waiting" } else { "running" };
        semaphore.close();
        Ok(state)
    })
}

/// Scenario 3: producers and consumers over a bounded queue.
fn over_a_queue(scene: &Scene, items: usize) -> Result<(), Failure> {
    let hall = &Hall {
        scene,
        items,
        // One permit for all: it is with the producers first.
        to_append: primitive::Semaphore::new(scene, 1),
        to_pop: primitive::Semaphore::new(scene, 0),
        queue: Monitor::new(scene, Queue { seeded: scene.seeded(), waiting: VecDeque::new(), appended: 0, popped: 0 }),
    };
    scene.crew(|crew| {
        // All have a place in their queue before any of them runs, and may queue again.
        let producers: Vec<_> = (1..=PRODUCERS.min(items)).map(|number| (number, hall.to_append.queue())).collect();
        let consumers: Vec<_> = (1..=CONSUMERS.min(items)).map(|number| (number, hall.to_pop.queue())).collect();
        for (number, place) in producers {
            crew.start(format!("Producer-{number}"), move || hall.produce(place))?;
        }
        for (number, place) in consumers {
            crew.start(format!("Consumer-{number}"), move || hall.consume(place))?;
        }
        Ok(())
    })
}

/// What the producers and consumers of scenario 3 share.
struct Hall<'a> {
    scene: &'a Scene,
    items: usize,
    to_append: primitive::Semaphore,
    to_pop: primitive::Semaphore,
    queue: Monitor<Queue>,
}

struct Queue {
    seeded: Seeded,
    waiting: VecDeque<u64>,
    appended: usize,
    popped: usize,
}

impl<'a> Hall<'a> {
    fn produce(&'a self, place: primitive::Ticket<'a>) -> Result<(), Failure> {
        let mut next = Some(place);
        while let Some(place) = next.take() {
            self.scene.nap(1)?;
            place.wait()?;
            let mut queue = self.queue.lock();
            let item = queue.seeded.number(0..=MAX_ITEM);
            queue.waiting.push_back(item);
            queue.appended += 1;
            self.scene.say(format!("Producer notify: item N°{item} appended to queue by {}", own_name()))?;
            // Behind the others before anybody is let on: who is served next does not depend on who is quicker.
            next = (queue.appended + PRODUCERS <= self.items).then(|| self.to_append.queue());
            if queue.waiting.len() < CAPACITY && queue.appended < self.items {
                self.to_append.release();
            } else {
                self.to_pop.release();
            }
        }
        Ok(())
    }

    fn consume(&'a self, place: primitive::Ticket<'a>) -> Result<(), Failure> {
        let mut next = Some(place);
        while let Some(place) = next.take() {
            place.wait()?;
            let mut queue = self.queue.lock();
            let item = queue.waiting.pop_front();
            let item =
                item.ok_or_else(|| Failure::permanent("empty", "the queue was empty when it was to be popped"))?;
            queue.popped += 1;
            self.scene.say(format!("Consumer notify: {item} popped from queue by {}", own_name()))?;
            next = (queue.popped + CONSUMERS <= self.items).then(|| self.to_pop.queue());
            if queue.appended < self.items {
                self.to_append.release();
            } else {
                self.to_pop.release();
            }
            drop(queue);
            self.scene.nap(1)?;
        }
        Ok(())
    }
}
