//! `thread.condition`: threads wait for a condition on what they share.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Serialize;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments};

use super::MAX_ITEMS;
use crate::scenario::{Exercise, Fields as _, Monitor, Scene, Stopped, Within, fields};

/// Lets a producer and a consumer share a bounded buffer.
#[derive(Clone, Copy, Debug)]
pub struct Condition;

fields! {
    /// What an item of `thread.condition` says.
    pub struct Fields, scenarios: 3 {
        /// How many items are produced, and consumed.
        items: Within<1, MAX_ITEMS> = 10,
        /// How many the buffer holds: 1 unless given, in scenario 2 3.
        capacity: Within<1, MAX_ITEMS>,
    }
}

/// What it gives beside messages and times.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The most that were in the buffer at once.
    pub fullest: usize,
}

impl Exercise for Condition {
    type Fields = Fields;
    type Extras = Extras;

    const MOST_TICKS: u64 = 4 * MAX_ITEMS;

    fn about(&self) -> About {
        About {
            name: "thread.condition",
            summary: "Share a bounded buffer by a condition variable",
            details: "A condition variable lets a thread give back the mutex until what it waits for may have come true: the \
                      producer waits while the buffer is full, the consumer while it is empty. Messages are `Producer \
                      notify: item N°{n} produced, {k} in the buffer`, `Consumer notify: item N°{n} consumed, {k} in the \
                      buffer`, and of who must wait `Consumer is waiting: the buffer is empty` or `Producer is waiting: the \
                      buffer is full`. Scenario 1 goes in turn: the producer takes a tick for an item, the consumer \
                      waits for each. Scenario 2: the buffer holds 3, the producer takes no time and runs ahead until it \
                      is full, the consumer takes a tick for an item. Scenario 3: the producer takes one tick, the \
                      consumer two more, so the producer has to wait again and again. `fullest` is never above the capacity.",
            examples: &[
                "tidemill run thread.condition 1 2 3 -o tick_ms=100",
                "tidemill run thread.condition 2 -o items=20 -o capacity=5 --format table",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        2
    }

    fn ticks(&self, fields: &Fields) -> usize {
        let each = if fields.common().scenario == 3 { 3 } else { 1 };
        each * fields.items()
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let (capacity, producer_ticks, consumer_ticks) = match scene.scenario() {
            1 => (1, 1, 0),
            2 => (3, 0, 1),
            _ => (1, 1, 3),
        };
        let pair = &Pair {
            scene,
            items: fields.items(),
            capacity: fields.capacity.map_or(capacity, Within::count),
            buffer: Monitor::new(scene, Buffer::default()),
        };
        scene.crew(|crew| {
            if scene.scenario() == 1 {
                crew.start("Consumer", move || Ok(pair.consume_what_comes()?))?;
                crew.start("Producer", move || Ok(pair.produce_for_who_waits(producer_ticks)?))?;
            } else {
                crew.start("Consumer", move || Ok(pair.consume_from_full(consumer_ticks)?))?;
                crew.start("Producer", move || Ok(pair.produce_until_full(producer_ticks)?))?;
            }
            Ok(())
        })?;
        let fullest = pair.buffer.lock().fullest;
        Ok(Extras { fullest })
    }
}

/// What producer and consumer share.
struct Pair<'a> {
    scene: &'a Scene,
    items: usize,
    capacity: usize,
    buffer: Monitor<Buffer>,
}

#[derive(Default)]
struct Buffer {
    items: VecDeque<usize>,
    fullest: usize,
    /// One of the two waits for the other.
    somebody_waits: bool,
    /// All were produced.
    is_done: bool,
}

impl Pair<'_> {
    /// Scenario 1: produces each item for a consumer that waits for it.
    fn produce_for_who_waits(&self, ticks: u32) -> Result<(), Stopped> {
        for number in 1..=self.items {
            self.scene.nap(ticks)?;
            let mut buffer = self.buffer.wait_until(|buffer| buffer.somebody_waits)?;
            buffer.somebody_waits = false;
            self.put(&mut buffer, number)?;
            buffer.tell_all();
        }
        Ok(())
    }

    /// Scenario 1: waits for each item.
    fn consume_what_comes(&self) -> Result<(), Stopped> {
        for _ in 0..self.items {
            let mut buffer = self.buffer.lock();
            self.scene.say("Consumer is waiting: the buffer is empty")?;
            buffer.somebody_waits = true;
            buffer.tell_all();
            let mut buffer = buffer.wait_until(|buffer| !buffer.items.is_empty())?;
            self.take(&mut buffer)?;
        }
        Ok(())
    }

    /// Scenarios 2 and 3: produces until the buffer is full, and waits for room then.
    fn produce_until_full(&self, ticks: u32) -> Result<(), Stopped> {
        for number in 1..=self.items {
            self.scene.nap(ticks)?;
            let mut buffer = self.buffer.lock();
            if buffer.items.len() == self.capacity {
                self.scene.say("Producer is waiting: the buffer is full")?;
                buffer.somebody_waits = true;
                buffer.tell_all();
                buffer = buffer.wait_until(|buffer| buffer.items.len() < self.capacity)?;
            }
            self.put(&mut buffer, number)?;
        }
        self.buffer.change(|buffer| buffer.is_done = true);
        Ok(())
    }

    /// Scenarios 2 and 3: consumes one whenever the producer waits for room, and the rest when it is done.
    fn consume_from_full(&self, ticks: u32) -> Result<(), Stopped> {
        for _ in 0..self.items {
            self.scene.nap(ticks)?;
            let mut buffer = self.buffer.wait_until(|buffer| buffer.somebody_waits || buffer.is_done)?;
            buffer.somebody_waits = false;
            self.take(&mut buffer)?;
            buffer.tell_all();
        }
        Ok(())
    }

    fn put(&self, buffer: &mut Buffer, number: usize) -> Result<(), Stopped> {
        buffer.items.push_back(number);
        let inside = buffer.items.len();
        buffer.fullest = buffer.fullest.max(inside);
        self.scene.say(format!("Producer notify: item N°{number} produced, {inside} in the buffer"))
    }

    fn take(&self, buffer: &mut Buffer) -> Result<(), Stopped> {
        let Some(number) = buffer.items.pop_front() else { return Ok(()) };
        let inside = buffer.items.len();
        self.scene.say(format!("Consumer notify: item N°{number} consumed, {inside} in the buffer"))
    }
}
