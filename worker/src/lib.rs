//! The worker: takes deliveries, runs their items, publishes the outcomes, settles.
//!
//! ```text
//!  Broker ─▶ intake ─▶ decode ─▶ run ─▶ decide ─▶ report ─▶ settle ─▶ Broker
//!                                 │
//!                   rayon ◀───────┴───────▶ tokio
//!                 (computes)               (waits)
//! ```
//!
//! One file a stage. What a delivery came to is one value, the [`Verdict`]; [`settle`] is the only code that turns it
//! into the broker's verbs, and it publishes outcomes, confirmed, before it acknowledges.

mod cancelled;
mod decide;
mod decode;
mod intake;
mod report;
mod run;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use tidemill_core::broker::{Broker, BrokerError};
use tidemill_core::compute::Pool;
use tidemill_core::task::{Lane, Register, Tools};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use decide::{Again, Refusal, Verdict};

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name, as outcomes give it.
    pub name: String,
    /// The queues it takes from.
    pub lanes: Vec<Lane>,
    /// Deliveries of each lane that it holds at once: no more than there are hands for.
    pub permits: usize,
    /// How long it may go on with what it holds once it is told to stop.
    pub grace: Duration,
}

/// What a worker works with.
#[derive(Clone, Debug)]
pub struct Worker {
    setup: Arc<Setup>,
    broker: Arc<dyn Broker>,
    register: Arc<Register>,
    tools: Tools,
    cancelled: cancelled::Cancelled,
    jobs: decode::Jobs,
}

impl Worker {
    /// Makes a worker; [`Worker::run`] starts it.
    pub fn new(setup: Setup, broker: Arc<dyn Broker>, register: Arc<Register>, tools: Tools) -> Self {
        Self {
            setup: Arc::new(setup),
            broker,
            register,
            tools,
            cancelled: cancelled::Cancelled::default(),
            jobs: decode::Jobs::default(),
        }
    }

    /// Works until `stop` is cancelled: then takes nothing new, finishes what it holds within the grace period, and
    /// gives back what is left.
    ///
    /// Dropping the future gives everything back at once.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot begin to consume.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BrokerError> {
        let stop_working = CancellationToken::new();
        let _gives_back_when_dropped = stop_working.clone().drop_guard();
        let held = TaskTracker::new();

        let listening = intake::listen(&self, stop_working.clone()).await?;
        let mut intakes = Vec::new();
        for lane in self.setup.lanes.clone() {
            intakes.push(intake::start(self.clone(), lane, stop.clone(), stop_working.clone(), held.clone()).await?);
        }
        for intake in intakes {
            // An intake ends by itself when it is told to stop; a panic in it would be ours and is logged by the hook.
            drop(intake.await);
        }

        held.close();
        if tokio::time::timeout(self.setup.grace, held.wait()).await.is_err() {
            tracing::warn!(deliveries = held.len(), "the grace period is over, giving back what is held");
            stop_working.cancel();
            held.wait().await;
        }
        listening.abort();
        Ok(())
    }

    fn compute(&self) -> &Pool {
        &self.tools.compute
    }
}
