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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_core::broker::{Deliveries, Permits, Settlement};

    use super::*;
    use crate::Setup;
    use crate::run::tests::idle;

    async fn next(beats: &mut Deliveries) -> Heartbeat {
        let beat = beats.next().await.unwrap();
        let Body::Heartbeat(heartbeat) = beat.message.body.clone() else { panic!("{beat:?}") };
        beat.settle(Settlement::Ack).await.unwrap();
        heartbeat
    }

    #[tokio::test(start_paused = true)]
    async fn good_bye_is_said_when_all_that_is_held_is_settled() {
        let mut worker = idle();
        let heartbeat = Heartbeat { every: 1000, ..Heartbeat::default() };
        worker.setup = Arc::new(Setup { heartbeat: Some(heartbeat), ..(*worker.setup).clone() });
        let mut beats = worker.broker.consume(Queue::Workers, Permits(1), CancellationToken::new()).await.unwrap();
        let in_hand = worker.held.token();
        let stop = CancellationToken::new();
        stop.cancel();
        worker.held.close();

        let beating = start(&worker, worker.held.clone(), stop).unwrap();
        let last = next(&mut beats).await;
        drop(in_hand);
        beating.await.unwrap();
        let good_bye = next(&mut beats).await;

        assert_eq!((last.every, last.held, last.is_stopping), (1000, 1, true));
        assert_eq!((good_bye.every, good_bye.held, good_bye.is_stopping), (0, 0, true));
    }
}
