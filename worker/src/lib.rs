//! The worker: takes deliveries, runs their items, publishes the outcomes, settles.
//!
//! ```text
//!  Broker ─▶ intake ─▶ decode ─▶ run ─▶ decide ─▶ report ─▶ settle ─▶ Broker
//!                                 │
//!                   rayon ◀───────┴───────▶ tokio
//!                 (computes)               (waits)
//! ```
//!
//! Beside it: `suspects` runs alone what may have ended other workers, `in_hand` tells others what this one has, `heartbeat`
//! says that it lives, `room` is for what items hold and for the threads and processes that they start, `networks` is what it
//! asks of whatever runs its networks.
//!
//! One file a stage. What a delivery came to is one value, the [`Verdict`]; [`settle`] is the only code that turns it
//! into the broker's verbs, and it publishes outcomes, confirmed, before it acknowledges.

mod cancelled;
mod decide;
mod decode;
mod heartbeat;
mod in_hand;
mod intake;
mod networks;
mod report;
mod room;
mod run;
mod settle;
mod suspects;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidemill_core::broker::{Broker, BrokerError, Heartbeat};
use tidemill_core::compute::Pool;
use tidemill_core::notes::Notes;
use tidemill_core::task::{Lane, Register, Tools};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use decide::{Again, Refusal, Verdict};
pub use networks::{Networks, OwnNetworks};
pub use suspects::Suspected;

/// How long a worker waits, once its grace period is over, for a broker that is to take back what is held.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name, as outcomes give it.
    pub name: String,
    /// The queues it takes from.
    pub lanes: Vec<Lane>,
    /// Deliveries of a lane that it holds at once: no more than there are hands for.
    pub permits: fn(Lane, &Setup) -> usize,
    /// Computing threads; what [`Setup::permits`] goes by.
    pub threads: usize,
    /// What [`Setup::permits`] goes by where items only wait.
    pub waiting: usize,
    /// How long it may go on with what it holds once it is told to stop.
    pub grace: Duration,
    /// How long an item may go on after its timeout before it is dead and its thread is given up; or after its batch was
    /// cancelled before its thread is.
    pub stuck_after: Duration,
    /// A larger output is a failure: it would not fit into a message.
    pub max_output_bytes: usize,
    /// How it finds out which items end their workers; `None` where nothing outlives this process anyway.
    pub isolation: Option<Isolation>,
    /// What it says of itself, and how often; `None`: nothing.
    pub heartbeat: Option<Heartbeat>,
    /// What runs its networks.
    pub networks: OwnNetworks,
}

/// How items that end their workers are found out.
#[derive(Clone, Copy, Debug)]
pub struct Isolation {
    /// A chunk that was handed out so often without an end is a suspect, which runs alone.
    pub suspect_after: u32,
    /// An item that ended so many workers while it ran alone is dead.
    pub crash_limit: u32,
}

/// How a worker's run came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// An item keeps a computing thread and will not give it back: only a new process has all its threads again.
    ThreadsLost,
    /// A device answers nothing any more, and why: only a new process may have it again.
    DeviceLost(String),
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
    reporter: report::Reporter,
    /// Held shared by whatever runs, and alone by a suspect.
    gate: Arc<RwLock<()>>,
    /// Deliveries in its hands, until they are settled.
    held: TaskTracker,
    /// Their chunks, for other workers that ask.
    in_hand: in_hand::InHand,
    /// For threads and processes that items start.
    room: room::Room,
    /// For items that hold memory.
    hands: room::Hands,
    tally: Arc<Tally>,
    notes: Notes,
}

/// What a worker counts of itself.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Items that have ended.
    pub(crate) items: AtomicU64,
    /// Cancelled once a computing thread is lost.
    pub(crate) threads_lost: CancellationToken,
}

/// What goes on until a worker is told to stop.
struct Taking {
    listening: JoinHandle<()>,
    beating: Option<JoinHandle<()>>,
    intakes: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Makes a worker; [`Worker::run`] starts it. To be called within a tokio runtime.
    pub fn new(setup: Setup, broker: Arc<dyn Broker>, register: Arc<Register>, tools: Tools) -> Self {
        Self {
            hands: room::Hands::of(tools.compute.threads()),
            setup: Arc::new(setup),
            reporter: report::Reporter::start(Arc::clone(&broker)),
            broker,
            register,
            tools,
            cancelled: cancelled::Cancelled::default(),
            jobs: decode::Jobs::default(),
            gate: Arc::default(),
            held: TaskTracker::new(),
            in_hand: in_hand::InHand::default(),
            room: room::Room::default(),
            tally: Arc::default(),
            notes: Notes::default(),
        }
    }

    /// Tells it how long results are kept, where that may be short: after that time the id of a cancelled batch may come again
    /// for a new one, made of the same key.
    #[must_use]
    pub fn where_results_are_kept_for(self, ttl: Duration) -> Self {
        Self { cancelled: cancelled::Cancelled::where_results_are_kept_for(ttl), ..self }
    }

    /// Works until `stop` is cancelled, or everybody is told to: then takes nothing new, finishes what it holds within
    /// the grace period, and gives back what is left.
    ///
    /// Dropping the future gives everything back at once.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot begin to consume.
    pub async fn run(self, stop: CancellationToken) -> Result<Ended, BrokerError> {
        // A child: being told by a notice, or having lost a thread, stops this worker and nothing beside it.
        let stop = stop.child_token();
        let stop_working = CancellationToken::new();
        // When it is dropped it takes nothing any more, and gives everything back.
        let _guards = (stop.clone().drop_guard(), stop_working.clone().drop_guard());

        let Some(Taking { listening, beating, intakes }) = self.begin(&stop, &stop_working).await? else {
            return Ok(Ended::Stopped);
        };
        let lost_before = self.until_stopped(&stop).await;
        if lost_before.is_some() {
            // What it holds for the device would never end here.
            stop_working.cancel();
        }
        let lost_at_last = self.finish(intakes, beating, &stop_working).await;
        listening.abort();
        Ok(match lost_at_last.or(lost_before) {
            Some(reason) => Ended::DeviceLost(reason),
            None if self.tally.threads_lost.is_cancelled() => Ended::ThreadsLost,
            None => Ended::Stopped,
        })
    }

    /// Begins to listen, to beat and to take; nothing where it is told to stop before it listens.
    async fn begin(
        &self,
        stop: &CancellationToken,
        stop_working: &CancellationToken,
    ) -> Result<Option<Taking>, BrokerError> {
        // A broker that is away is waited for, but not by whoever is told to stop.
        let listening = intake::listen(self, stop.clone(), stop_working.clone());
        let Some(listening) = stop.run_until_cancelled(listening).await.transpose()? else { return Ok(None) };
        let beating = heartbeat::start(self, self.held.clone(), stop.clone());
        let mut intakes = Vec::new();
        for lane in self.setup.lanes.clone() {
            let starting = intake::start(self.clone(), lane, stop.clone(), stop_working.clone(), self.held.clone());
            // What was begun before ends with the others.
            let Some(started) = stop.run_until_cancelled(starting).await.transpose()? else { break };
            intakes.extend(started);
            if self.setup.isolation.is_some() {
                intakes.push(suspects::start(self.clone(), lane, stop.clone(), stop_working.clone()));
            }
        }
        Ok(Some(Taking { listening, beating, intakes }))
    }

    /// Resolves when it is to take nothing new, which all who take are told; with the reason, where a device is lost.
    async fn until_stopped(&self, stop: &CancellationToken) -> Option<String> {
        let lost = tokio::select! {
            () = stop.cancelled() => None,
            // Where nothing would start it anew it goes on: the pool has fresh threads, and the lost one ends with the
            // process.
            () = self.tally.threads_lost.cancelled(), if self.setup.isolation.is_some() => None,
            reason = self.setup.networks.lost() => Some(reason),
        };
        stop.cancel();
        lost
    }

    /// Finishes what it holds within the grace period and gives back what is left; the reason, where a device is lost.
    async fn finish(
        &self,
        intakes: Vec<JoinHandle<()>>,
        beating: Option<JoinHandle<()>>,
        stop_working: &CancellationToken,
    ) -> Option<String> {
        let held = &self.held;
        held.close();
        let mut settled = std::pin::pin!(async {
            for intake in intakes {
                // An intake ends by itself when it is told to stop; a panic in it would be ours and is logged by the hook.
                drop(intake.await);
            }
            held.wait().await;
            if let Some(beating) = beating {
                // It says good-bye.
                drop(beating.await);
            }
        });
        let (is_settled, lost) = tokio::select! {
            () = &mut settled => (true, None),
            () = tokio::time::sleep(self.setup.grace) => {
                tracing::warn!(deliveries = held.len(), "the grace period is over, giving back what is held");
                (false, None)
            }
            reason = self.setup.networks.lost() => (false, Some(reason)),
        };
        stop_working.cancel();
        if !is_settled && tokio::time::timeout(GIVE_BACK, settled).await.is_err() {
            // What it could not say the broker finds out, once this process is gone.
            tracing::warn!(
                deliveries = held.len(),
                "the broker takes nothing; what is held goes back with the connection"
            );
        }
        lost
    }

    fn compute(&self) -> &Pool {
        &self.tools.compute
    }
}
