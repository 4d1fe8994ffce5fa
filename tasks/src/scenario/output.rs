//! Output: what was said, by whom and when.

use schemars::JsonSchema;
use serde::Serialize;

/// What an item of an exercise gives.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output<X> {
    /// What the threads or processes said, in their order.
    pub messages: Vec<String>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
    /// What the row gives beside that. (It is only ever written: `flatten` spoils messages of what is read.)
    #[serde(flatten)]
    pub extras: X,
    /// To each message who said it, and when.
    pub timeline: Vec<Said>,
    /// Which threads or processes there were, in the order in which they were started.
    pub runs: Vec<Ran>,
}

/// Who said a message, and when.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Said {
    /// Milliseconds since the item began.
    pub at_ms: f64,
    /// The name of the thread or process; `main` for the one that directs the others.
    pub by: String,
    /// The process, where it is not the worker's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// A thread or process, and when it ran.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Ran {
    /// Its name.
    pub by: String,
    /// The system's number of the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<i32>,
    /// The process, where it is not the worker's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was started, in milliseconds since the item began.
    pub from_ms: f64,
    /// When it ended.
    pub to_ms: f64,
}

/// For rows that give nothing beside messages and times.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Nothing {}
