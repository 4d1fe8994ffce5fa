//! Scene: where the threads of one item meet: its clock, its transcript, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidemill_core::failure::Failure;

use super::output::{Output, Ran, Said};
use super::{Common, Seeded};

/// Nobody waits for the item any more: every thread ends where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item was stopped")]
pub struct Stopped;

impl From<Stopped> for Failure {
    fn from(_: Stopped) -> Self {
        Self::stopped()
    }
}

/// What the threads of an item share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scene(Arc<Shared>);

struct Shared {
    common: Common,
    started: Instant,
    transcript: Mutex<Transcript>,
    is_stopped: AtomicBool,
    /// Naps wait here; nobody holds it for longer than it takes to begin to wait.
    naps: Mutex<()>,
    wake: Condvar,
    at_stop: Mutex<Vec<Hook>>,
    cause: Mutex<Option<Failure>>,
}

type Hook = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene")
            .field("common", &self.common)
            .field("is_stopped", &self.is_stopped)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Transcript {
    messages: Vec<String>,
    timeline: Vec<Said>,
    runs: Vec<Ran>,
}

/// A thread or process in the transcript, from [`Scene::begins`].
#[derive(Clone, Copy, Debug)]
pub struct RunId(usize);

impl Scene {
    pub(super) fn new(common: Common) -> Self {
        Self(Arc::new(Shared {
            common,
            started: Instant::now(),
            transcript: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            naps: Mutex::default(),
            wake: Condvar::new(),
            at_stop: Mutex::default(),
            cause: Mutex::default(),
        }))
    }

    /// Which scenario is played, from 1 on.
    pub fn scenario(&self) -> u64 {
        self.0.common.scenario
    }

    /// One "second" of the exercise.
    pub fn tick(&self) -> Duration {
        self.0.common.tick
    }

    /// A generator at the item's seed.
    pub fn seeded(&self) -> Seeded {
        Seeded::new(self.0.common.seed)
    }

    /// How long it has been going on, in milliseconds with three decimals.
    pub fn now_ms(&self) -> f64 {
        (self.0.started.elapsed().as_secs_f64() * 1e6).round() / 1e3
    }

    /// Sleeps for so many ticks.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn nap(&self, ticks: u32) -> Result<(), Stopped> {
        self.nap_for(self.tick() * ticks)
    }

    /// Sleeps.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn nap_for(&self, time: Duration) -> Result<(), Stopped> {
        let awake = |(): &mut ()| !self.is_stopped();
        drop(self.0.wake.wait_timeout_while(lock(&self.0.naps), time, awake).unwrap_or_else(PoisonError::into_inner));
        self.go_on()
    }

    /// Adds a message of the thread that calls, under its name.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn say(&self, message: impl Into<String>) -> Result<(), Stopped> {
        let thread = std::thread::current();
        self.say_as(thread.name().unwrap_or_default(), None, message)
    }

    /// Adds a message of another process, or under another name.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn say_as(&self, by: &str, pid: Option<u32>, message: impl Into<String>) -> Result<(), Stopped> {
        self.go_on()?;
        let mut transcript = lock(&self.0.transcript);
        // Read under the lock, so that times never go back.
        let at_ms = self.now_ms();
        transcript.messages.push(message.into());
        transcript.timeline.push(Said { at_ms, by: by.to_owned(), pid });
        Ok(())
    }

    /// Adds a message of another process, which says itself when it was said.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub(crate) fn heard(&self, by: &str, pid: u32, at_ms: f64, message: String) -> Result<(), Stopped> {
        self.go_on()?;
        let mut transcript = lock(&self.0.transcript);
        transcript.messages.push(message);
        transcript.timeline.push(Said { at_ms, by: by.to_owned(), pid: Some(pid) });
        Ok(())
    }

    /// Notes that a thread or process is started.
    pub fn begins(&self, by: &str, pid: Option<u32>) -> RunId {
        self.began(by, pid, self.now_ms())
    }

    /// Notes that a thread or process was started then.
    pub(crate) fn began(&self, by: &str, pid: Option<u32>, from_ms: f64) -> RunId {
        let mut transcript = lock(&self.0.transcript);
        transcript.runs.push(Ran { by: by.to_owned(), tid: None, pid, from_ms, to_ms: from_ms });
        RunId(transcript.runs.len() - 1)
    }

    /// Notes the system's number of a thread, which only the thread knows.
    pub(super) fn is_thread(&self, run: RunId, tid: i32) {
        if let Some(ran) = lock(&self.0.transcript).runs.get_mut(run.0) {
            ran.tid = Some(tid);
        }
    }

    /// Notes that it has ended.
    pub fn ends(&self, run: RunId) {
        let mut transcript = lock(&self.0.transcript);
        let to_ms = self.now_ms();
        if let Some(ran) = transcript.runs.get_mut(run.0) {
            ran.to_ms = to_ms;
        }
    }

    /// Lets a row turn over what was collected, where its description says so: messages with who said them and when.
    pub fn rearrange(&self, arrange: impl FnOnce(&mut Vec<(String, Said)>)) {
        let mut transcript = lock(&self.0.transcript);
        let Transcript { messages, timeline, .. } = &mut *transcript;
        let mut said: Vec<_> = messages.drain(..).zip(timeline.drain(..)).collect();
        arrange(&mut said);
        (*messages, *timeline) = said.into_iter().unzip();
    }

    /// Whether the item was stopped.
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::SeqCst)
    }

    /// Goes on, unless the item was stopped.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn go_on(&self) -> Result<(), Stopped> {
        if self.is_stopped() { Err(Stopped) } else { Ok(()) }
    }

    /// Does something when the item is stopped, at once if it already is: what ends a wait that the scene does not know
    /// (kill a child, close a socket). It must be quick: whoever stops the item may be a tokio thread.
    pub fn at_stop(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = lock(&self.0.at_stop);
        if self.is_stopped() {
            drop(hooks);
            hook();
        } else {
            hooks.push(Box::new(hook));
        }
    }

    /// Ends every wait of the item's threads.
    pub fn stop(&self) {
        let hooks = {
            let mut hooks = lock(&self.0.at_stop);
            self.0.is_stopped.store(true, Ordering::SeqCst);
            std::mem::take(&mut *hooks)
        };
        // Held once between the flag and the call: whoever saw no flag waits by now, and hears it.
        drop(lock(&self.0.naps));
        self.0.wake.notify_all();
        for hook in hooks {
            hook();
        }
    }

    /// Stops the item because of a failure; the first one becomes the item's.
    pub fn fail(&self, failure: Failure) {
        if !self.is_stopped() {
            lock(&self.0.cause).get_or_insert(failure);
        }
        self.stop();
    }

    pub(super) fn take_cause(&self) -> Option<Failure> {
        lock(&self.0.cause).take()
    }

    pub(super) fn output<X>(&self, extras: X) -> Output<X> {
        let Transcript { messages, timeline, runs } = std::mem::take(&mut *lock(&self.0.transcript));
        Output { messages, elapsed_ms: self.now_ms(), extras, timeline, runs }
    }
}

/// Of a thread that panicked while it held one, the others learn by the scene's end.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
