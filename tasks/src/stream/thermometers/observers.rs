//! Observers: who watches the readings, and what they do about them.
//!
//! ```text
//!  hall ──readings──▶ all            ─▶ recorder
//!   ▲                 > threshold    ─▶ alarm ──alerts──▶ cooler ─┐ cool
//!   │                 < threshold−5  ─▶ calm ────────────────────┐│ rest
//!   └────────────────────────── commands ◀───────────────────────┴┘
//! ```

use std::collections::HashSet;
use std::sync::Mutex;

use futures::StreamExt as _;

use super::hall::hall;
use super::subject::Subject;
use super::{Action, Plan, Reading};

/// How far below the threshold a rack must be for its fan to rest, in °C: without a gap it would start and stop all the
/// time.
const GAP_C: f64 = 5.0;

/// What was seen and done, in order.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) readings: Vec<Reading>,
    pub(super) alerts: Vec<Reading>,
    /// What was answered, and how.
    pub(super) commands: Vec<(Reading, Action)>,
}

/// Lets the hall run, and everybody watch it. Dropping the future ends them all.
pub(super) async fn watch(plan: Plan) -> Seen {
    let (readings, fans) = hall(plan);
    let (mut subject, mut alerts) = (Subject::new(), Subject::new());
    let mut all = std::pin::pin!(subject.subscribe(Box::new(|_: &Reading| true)));
    let mut hot =
        std::pin::pin!(subject.subscribe(Box::new(move |reading: &Reading| reading.celsius > plan.threshold_c)));
    let mut cold =
        std::pin::pin!(subject.subscribe(Box::new(move |reading| reading.celsius < plan.threshold_c - GAP_C)));
    let mut raised = std::pin::pin!(alerts.subscribe(Box::new(move |_| plan.cooling > 0.0)));
    // Locked for a moment only, never across a wait.
    let (alarmed, cooled) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let (mut recorded, mut told, cooling, resting) = (Vec::new(), Vec::new(), Mutex::new(Vec::new()), &fans);

    let command = |at: Reading, action: Action| {
        let (cooling, fans) = (&cooling, resting);
        async move {
            if fans[at.rack - 1].send(action).await.is_ok() {
                lock(cooling).push((at, action));
            }
        }
    };
    let source = async {
        let mut readings = std::pin::pin!(readings);
        while let Some(reading) = readings.next().await {
            subject.tell(reading).await;
        }
        // The observers' streams end with it.
        drop(subject);
    };
    let recorder = async {
        while let Some(reading) = all.next().await {
            recorded.push(reading);
        }
    };
    let alarm = async {
        while let Some(reading) = hot.next().await {
            if lock(&alarmed).insert(reading.rack) {
                told.push(reading);
                alerts.tell(reading).await;
            }
        }
        drop(alerts);
    };
    let cooler = async {
        while let Some(alert) = raised.next().await {
            lock(&cooled).insert(alert.rack);
            command(alert, Action::Cool).await;
        }
    };
    let calm = async {
        while let Some(reading) = cold.next().await {
            lock(&alarmed).remove(&reading.rack);
            if lock(&cooled).remove(&reading.rack) {
                command(reading, Action::Rest).await;
            }
        }
    };
    futures::join!(source, recorder, alarm, cooler, calm);
    Seen { readings: recorded, alerts: told, commands: cooling.into_inner().unwrap_or_default() }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
