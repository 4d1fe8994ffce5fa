//! Hall: simulated racks, which get warm by what they do and cool by what their fans do.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Action, Plan, Reading};
use crate::scenario::Seeded;

/// The air that racks take in, in °C.
const AIR_C: f64 = 24.0;
/// How much warmer than the air a rack at full load becomes, in °C.
const FULL_LOAD_C: f64 = 40.0;
/// What part of the way to its own temperature a rack goes each tick.
const INERTIA: f64 = 0.3;

/// One rack.
#[derive(Debug)]
struct Rack {
    number: usize,
    celsius: f64,
    /// How much it has to do, 0 to 1.
    load: f64,
    /// How much its fan takes away each tick, in °C.
    cooling: f64,
    is_cooled: bool,
    /// What its fan is told.
    commands: mpsc::Receiver<Action>,
}

impl Rack {
    fn new(number: usize, cooling: f64, chance: &mut Seeded) -> (Self, mpsc::Sender<Action>) {
        // No more than one command a reading.
        let (sender, commands) = mpsc::channel(1);
        let celsius = 38.0 + 10.0 * chance.share();
        let rack = Self { number, celsius, load: 0.4 + 0.6 * chance.share(), cooling, is_cooled: false, commands };
        (rack, sender)
    }

    /// A tick goes by. Chance is asked as often whatever the fan does, so that two halls of one seed differ by their
    /// fans alone.
    fn read(&mut self, sample: usize, chance: &mut Seeded) -> Reading {
        while let Ok(action) = self.commands.try_recv() {
            self.is_cooled = action == Action::Cool;
        }
        self.load = (self.load + 0.2 * (chance.share() - 0.45)).clamp(0.3, 1.0);
        let noise = chance.share() - 0.5;
        let own = AIR_C + FULL_LOAD_C * self.load;
        self.celsius += INERTIA * (own - self.celsius) + noise;
        if self.is_cooled {
            self.celsius = (self.celsius - self.cooling).max(AIR_C);
        }
        Reading { sample, rack: self.number, celsius: (self.celsius * 100.0).round() / 100.0 }
    }
}

/// The readings of a hall, and the way to each rack's fan. All racks are read in one tick, the next ones a tick later;
/// whoever takes them too late makes nothing flow faster afterwards.
pub(super) fn hall(plan: Plan) -> (impl Stream<Item = Reading>, Vec<mpsc::Sender<Action>>) {
    let mut chance = Seeded::new(plan.seed);
    let (racks, fans): (Vec<_>, Vec<_>) =
        (1..=plan.racks).map(|number| Rack::new(number, plan.cooling, &mut chance)).unzip();
    let began = Instant::now();
    let readings = stream::iter(0..plan.samples)
        .then(move |sample| async move {
            sleep_until(began + ticks(plan.tick, sample)).await;
            sample
        })
        .flat_map(move |sample| stream::iter(1..=plan.racks).map(move |rack| (sample, rack)))
        .scan((racks, chance), |(racks, chance), (sample, rack)| {
            // Read when it is asked for, not before: a rack that was told something by then shows it.
            std::future::ready(racks.get_mut(rack - 1).map(|rack| rack.read(sample, chance)))
        });
    (readings, fans)
}

fn ticks(tick: Duration, count: usize) -> Duration {
    tick.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}
