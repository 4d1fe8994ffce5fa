//! Heartbeat: says that this worker lives, and what it can do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_core::batch::{Priority, unix_millis};
use tidemill_core::broker::{Body, Heartbeat, Message, Queue};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Worker;

/// How many notes of items go along.
const NOTES: usize = 64;

/// How long the last word may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Beats until everything is settled after `stop`, then says good-bye. `None` where nobody wants to know.
pub(crate) fn start(worker: &Worker, held: TaskTracker, stop: CancellationToken) -> Option<JoinHandle<()>> {
    let about = worker.setup.heartbeat.clone()?;
    let worker = worker.clone();
    Some(tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(about.every.max(1)));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let settled = async {
            stop.cancelled().await;
            held.wait().await;
        };
        let mut settled = std::pin::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => break,
                _ = beat.tick() => {}
            }
            tokio::select! {
                () = &mut settled => break,
                // A broker that is away is waited for; meanwhile there is nothing to say to anybody.
                said = worker.say(&about, held.len() as u64, stop.is_cancelled()) => {
                    if let Err(error) = said {
                        tracing::debug!(%error, "a heartbeat was lost");
                    }
                }
            }
        }
        // After the broker went away for good nobody hears this.
        drop(tokio::time::timeout(GOODBYE, worker.say(&Heartbeat { every: 0, ..about }, 0, true)).await);
    }))
}

impl Worker {
    pub(crate) async fn say(
        &self,
        about: &Heartbeat,
        held: u64,
        is_stopping: bool,
    ) -> Result<(), tidemill_core::broker::BrokerError> {
        let items = self.tally.items.load(Ordering::Relaxed);
        let networks = self.setup.networks.work();
        let notes = self.notes.list(NOTES);
        let heartbeat = Heartbeat { at: unix_millis(), held, items, is_stopping, networks, notes, ..about.clone() };
        self.broker.publish(Queue::Workers, Message::new(Body::Heartbeat(heartbeat), Priority::default())).await
    }
}
