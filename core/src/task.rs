//! Tasks: named kinds of work with typed input, options and output.
//!
//! A task implements [`Task`] and, by the way it runs, [`Compute`] (it keeps a core busy) or [`Wait`]
//! (it waits for sockets, timers, devices). [`Register`] holds every task of a program behind the untyped
//! [`Kind`], and [`Kind::prepare`] turns a batch's options into a [`Job`], which runs its items.

mod typed;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::sync::CancellationToken;

use self::typed::{ByComputing, ByWaiting, Typed};
use crate::batch::Priority;
use crate::blobs::Blobs;
use crate::compute;
use crate::failure::Failure;
use crate::notes::Notepad;

/// A job queue for a kind of machine; a worker serves some lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Work for any machine.
    Cpu,
    /// Work for any machine that keeps none busy: it waits, thousands at a time ([`Hands::Many`]). In a queue with work
    /// that computes, it would have to wait for that.
    Wait,
    /// Work that needs the network engine (libtorch).
    Vision,
    /// Work that starts processes, where the machine is to be lent for that: they take memory and places in its tables.
    Process,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Wait, Self::Vision, Self::Process];

    /// The word for it in queue names, settings and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wait => "wait",
            Self::Vision => "vision",
            Self::Process => "process",
        }
    }
}

/// What people are told about a task, and what the producer needs to know of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct About {
    /// `group.name`.
    pub name: &'static str,
    /// One line: what it does, as an imperative.
    pub summary: &'static str,
    /// A paragraph or more: input, output, what to look for.
    pub details: &'static str,
    /// Commands to paste.
    pub examples: &'static [&'static str],
    /// How words on the command line become inputs.
    pub arguments: Arguments,
    /// Whether its outputs are files, for which the command line asks where to put them.
    pub makes_files: bool,
}

/// How a word on the command line becomes an input of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arguments {
    /// A file, a folder, a glob or a URL; the input is its path, a string.
    Files,
    /// A value: JSON, else a string. [`Job::input_from_word`] gives it its form.
    Values,
    /// A file, folder or glob where there is one, given as `{"path": …}`; else a value.
    FilesOrValues,
}

/// What one item costs, as far as can be said before it has run; chunks are sized by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// A usual one.
    pub usual: Duration,
    /// Whether every item costs about that; else any of them may cost a thousand times as much.
    pub is_even: bool,
}

impl Cost {
    /// Cost of a usual item.
    pub const fn of(usual: Duration) -> Self {
        Self { usual, is_even: false }
    }

    /// Cost of a usual item in microseconds.
    pub const fn micros(micros: u64) -> Self {
        Self::of(Duration::from_micros(micros))
    }

    /// Cost of a usual item in milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self::of(Duration::from_millis(millis))
    }

    /// The same, where every item costs about as much.
    #[must_use]
    pub const fn even(self) -> Self {
        Self { is_even: true, ..self }
    }
}

/// Options or an input that the task does not take. The message says which field and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_input(invalid.0)
    }
}

/// A named kind of work. `#[serde(deny_unknown_fields)]` on input and options makes unknown fields errors.
pub trait Task: Send + Sync + Sized + 'static {
    /// One input.
    type Input: DeserializeOwned + JsonSchema + Send + 'static;
    /// The options of a batch.
    type Options: DeserializeOwned + JsonSchema + Send + 'static;
    /// What one input gives.
    type Output: Serialize + JsonSchema + Send + 'static;
    /// The options, checked and made ready once per batch: parsed, compiled, looked up.
    type Plan: Send + Sync + 'static;

    /// What people are told about it.
    fn about(&self) -> About;

    /// Checks the options and makes them ready.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what is allowed.
    fn plan(&self, options: Self::Options) -> Result<Self::Plan, Invalid>;

    /// Checks what the input's type alone cannot say. Called before anything is sent and again before it runs.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what is allowed.
    fn check(&self, _plan: &Self::Plan, _input: &Self::Input) -> Result<(), Invalid> {
        Ok(())
    }

    /// What one item costs, roughly.
    fn cost(&self, plan: &Self::Plan) -> Cost;

    /// The kind of machine that it needs.
    fn lane(&self, _plan: &Self::Plan) -> Lane {
        Lane::Cpu
    }

    /// How long one attempt of one item may take where the batch does not say; `None` leaves it to the setting
    /// `task.timeout`.
    fn timeout(&self, _plan: &Self::Plan) -> Option<Duration> {
        None
    }

    /// Turns a word of the command line into an input: JSON where it is JSON, else a string.
    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw_word(word)
    }
}

/// A word of the command line as JSON where it is JSON, else as a string.
pub fn raw_word(word: &str) -> Box<RawValue> {
    serde_json::from_str(word).unwrap_or_else(|_| raw(&word))
}

/// Any value that has a JSON form for sure (strings, numbers, our own structs) as raw JSON.
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A task that keeps a core busy. Its items run on rayon, one chunk a thread.
pub trait Compute: Task {
    /// Runs one item.
    ///
    /// # Errors
    /// What became of a bad input; never a panic (one is caught and becomes the item's failure).
    fn run(&self, plan: &Self::Plan, input: Self::Input, stop: &Stop<'_>) -> Result<Self::Output, Failure>;

    /// Whether a chunk's items run at once, by [`Compute::run_together`]: right where many take hardly longer than one,
    /// as on a GPU.
    fn runs_together(&self, _plan: &Self::Plan) -> bool {
        false
    }

    /// Runs a chunk's items at once, where [`Compute::runs_together`] says so: one result an input, in their order.
    ///
    /// The batch's timeout is that of the whole; a panic is caught and becomes the failure of every item.
    fn run_together(
        &self,
        plan: &Self::Plan,
        inputs: Vec<Self::Input>,
        stop: &Stop<'_>,
    ) -> Vec<Result<Self::Output, Failure>> {
        inputs.into_iter().map(|input| self.run(plan, input, stop)).collect()
    }

    /// The device that outcomes name.
    fn device(&self, _plan: &Self::Plan) -> String {
        "cpu".into()
    }
}

/// Says to a computing item that nobody waits for it any more.
#[derive(Clone, Copy, Debug)]
pub struct Stop<'a>(pub &'a CancellationToken);

impl Stop<'_> {
    /// Whether the item should end where it is; asked between the steps of long work.
    pub fn is_asked(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// A task that mostly waits. Its items run on tokio, many at once; what it computes it sends over
/// [`Tools::compute`]. Dropping the future must be safe at every `await`: cancellation and timeouts do so.
pub trait Wait: Task {
    /// Runs one item.
    fn run(
        self: Arc<Self>,
        plan: Arc<Self::Plan>,
        input: Self::Input,
        tools: Tools,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// The device that outcomes name.
    fn device(&self, _plan: &Self::Plan) -> String {
        "cpu".into()
    }

    /// How many items at once keep it busy; more only wait inside the task and hold memory.
    fn hands(&self, _plan: &Self::Plan) -> Hands {
        Hands::Many
    }

    /// How many threads and processes of its own an item starts. A worker has room for a number of them; an item for
    /// which there is none yet has not begun, and its timeout neither.
    fn room(&self, _plan: &Self::Plan, _input: &Self::Input) -> usize {
        0
    }
}

/// How many items of a waiting task should be held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hands {
    /// As many as the settings allow: an item is little more than a timer or a socket.
    Many,
    /// As many as this, for the task itself lets no more go on.
    AtMost(usize),
    /// A few per core: an item holds real memory (a picture), and most of its time is computing.
    PerCore(usize),
}

/// An item that waits, ready to begin.
pub struct Waiting {
    /// See [`Wait::room`].
    pub room: usize,
    /// Runs it. Dropping the future ends it.
    pub running: BoxFuture<'static, Result<Box<RawValue>, Failure>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("room", &self.room).finish_non_exhaustive()
    }
}

/// What a waiting task works with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The bridge to the cores.
    pub compute: compute::Pool,
    /// Where bytes are stored and fetched.
    pub blobs: Blobs,
    /// Where an item that takes long says how far it has come.
    pub notepad: Notepad,
    /// Before whom it goes, where several wait for the same.
    pub priority: Priority,
}

impl Tools {
    /// Tools for any item; nobody reads what it writes.
    pub fn new(compute: compute::Pool, blobs: Blobs) -> Self {
        Self { compute, blobs, notepad: Notepad::default(), priority: Priority::default() }
    }
}

/// Which of the two engines runs a job's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Rayon, a chunk a thread.
    Compute,
    /// tokio, items at once.
    Wait(Hands),
}

/// A task without its types, as the [`Register`] holds it.
pub trait Kind: Send + Sync {
    /// What people are told about it.
    fn about(&self) -> About;
    /// JSON Schema of input, options and output.
    fn schemas(&self) -> Schemas;
    /// Makes a batch's options ready.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what is allowed.
    fn prepare(&self, options: &RawValue) -> Result<Arc<dyn Job>, Invalid>;
}

/// JSON Schema of what a task takes and gives.
#[derive(Clone, Debug, Serialize)]
pub struct Schemas {
    /// One input.
    pub input: Schema,
    /// The batch's options.
    pub options: Schema,
    /// One output.
    pub output: Schema,
}

/// A task with one batch's options: runs the items of that batch.
pub trait Job: Send + Sync {
    /// Which engine runs it: this one asks for [`Job::compute`] or [`Job::wait`].
    fn engine(&self) -> Engine;
    /// The kind of machine it needs.
    fn lane(&self) -> Lane;
    /// What one item costs, roughly.
    fn cost(&self) -> Cost;
    /// See [`Task::timeout`].
    fn timeout(&self) -> Option<Duration>;
    /// The device that outcomes name.
    fn device(&self) -> String;
    /// See [`Task::input_from_word`].
    fn input_from_word(&self, word: &str) -> Box<RawValue>;
    /// Checks an input without running it.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what is allowed.
    fn check(&self, input: &RawValue) -> Result<(), Invalid>;
    /// Runs one item on the thread that calls. A panic is caught and becomes the item's failure.
    ///
    /// # Errors
    /// The item's failure.
    fn compute(&self, input: &RawValue, stop: &Stop<'_>) -> Result<Box<RawValue>, Failure>;
    /// Whether a chunk is run by [`Job::compute_together`] rather than item by item.
    fn runs_together(&self) -> bool;
    /// Runs a chunk's items at once on the thread that calls: one result an input, in their order. An input that the
    /// task does not take fails alone; a panic is caught and becomes the failure of all the others.
    fn compute_together(&self, inputs: &[&RawValue], stop: &Stop<'_>) -> Vec<Result<Box<RawValue>, Failure>>;
    /// Makes one item that waits ready to begin.
    fn wait(&self, input: &RawValue, tools: Tools) -> Waiting;
}

/// Every task of a program.
#[derive(Default)]
pub struct Register {
    kinds: Vec<Box<dyn Kind>>,
}

impl std::fmt::Debug for Register {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kinds.iter().map(|kind| kind.about().name)).finish()
    }
}

impl Register {
    /// Adds a task that computes; one of the same name is replaced.
    #[must_use]
    pub fn compute<T: Compute>(self, task: T) -> Self {
        self.insert(Box::new(Typed { task: Arc::new(task), by: ByComputing }))
    }

    /// Adds a task that waits; one of the same name is replaced (an engine linked in replaces the
    /// description of a task that cannot run without it).
    #[must_use]
    pub fn wait<T: Wait>(self, task: T) -> Self {
        self.insert(Box::new(Typed { task: Arc::new(task), by: ByWaiting }))
    }

    fn insert(mut self, kind: Box<dyn Kind>) -> Self {
        let name = kind.about().name;
        match self.kinds.iter_mut().find(|known| known.about().name == name) {
            Some(known) => *known = kind,
            None => self.kinds.push(kind),
        }
        self
    }

    /// The task of that name.
    ///
    /// # Errors
    /// [`UnknownTask`], with the nearest names.
    pub fn find(&self, name: &str) -> Result<&dyn Kind, UnknownTask> {
        self.iter().find(|kind| kind.about().name == name).ok_or_else(|| UnknownTask {
            name: name.to_owned(),
            nearest: crate::nearest::nearest(name, self.iter().map(|kind| kind.about().name)),
        })
    }

    /// Every task, in the order in which they were registered.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kind> {
        self.kinds.iter().map(AsRef::as_ref)
    }
}

/// No task has that name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no task is called {name:?}")]
pub struct UnknownTask {
    /// What was asked for.
    pub name: String,
    /// The names that are most like it, best first.
    pub nearest: Vec<String>,
}
