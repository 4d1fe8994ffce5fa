//! Inputs: what people name on the command line, walked as a stream.

mod files;
mod lines;

use std::io::Read;
use std::ops::ControlFlow;

use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::raw;
use tokio::sync::mpsc;

pub use files::{Place, PlaceError};

/// One input.
#[derive(Debug)]
pub struct Input {
    /// The input, as JSON. Of one that cannot be read, whatever of it can be shown.
    pub json: Box<RawValue>,
    /// The relative path under which a file made of it is stored.
    pub name: Option<Box<str>>,
    /// Where a worker finds its bytes; see [`tidemill_core::chunk::Item::source`].
    pub source: Option<Box<str>>,
    /// Why it is none.
    pub refused: Option<Failure>,
}

impl Input {
    /// An input that is a value.
    pub fn value(json: Box<RawValue>) -> Self {
        Self { json, name: None, source: None, refused: None }
    }

    fn refused(shown: &str, failure: Failure) -> Self {
        Self { json: raw(shown), name: None, source: None, refused: Some(failure) }
    }
}

/// Where inputs come from.
pub enum Source {
    /// These values.
    Values(Vec<Box<RawValue>>),
    /// The whole numbers from the first up to, not including, the second.
    Range(i64, i64),
    /// A file, a folder, a glob or a URL.
    Place(Place),
    /// NDJSON: a value a line. The name is for messages.
    Lines {
        /// `standard input` or the file's path.
        name: String,
        /// Where the lines come from.
        from: Box<dyn Read + Send>,
        /// Whether strings in it are paths, whose names produced files keep.
        are_paths: bool,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Values(values) => f.debug_tuple("Values").field(values).finish(),
            Self::Range(from, to) => f.debug_tuple("Range").field(from).field(to).finish(),
            Self::Place(place) => f.debug_tuple("Place").field(place).finish(),
            Self::Lines { name, .. } => f.debug_struct("Lines").field("name", name).finish_non_exhaustive(),
        }
    }
}

/// Inputs that travel together from the walking thread: large enough that the hand-over costs nothing.
const BUNDLE: usize = 512;
/// Bundles that may wait: the walk is never far ahead of the chunks.
const BUNDLES: usize = 4;

/// The inputs, as they are found.
#[derive(Debug)]
pub struct Inputs {
    bundles: mpsc::Receiver<Vec<Input>>,
}

impl Inputs {
    /// Walks the sources one after the other, on a thread for blocking work; it ends when this value is dropped.
    pub fn walk(sources: Vec<Source>) -> Self {
        let (send, inputs) = Self::channel();
        tokio::task::spawn_blocking(move || {
            let mut bundler = Bundler { send, bundle: Vec::new(), size: 1 };
            let walked = sources.into_iter().try_for_each(|source| source.each(&mut bundler));
            if walked.is_break() || bundler.flush().is_break() {
                tracing::debug!("nobody wants more inputs, the walk is broken off");
            }
        });
        inputs
    }

    /// Inputs that somebody sends, in bundles; they end when the sender is dropped.
    pub fn channel() -> (mpsc::Sender<Vec<Input>>, Self) {
        let (send, bundles) = mpsc::channel(BUNDLES);
        (send, Self { bundles })
    }

    /// The next few; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<Input>> {
        self.bundles.recv().await
    }
}

/// What inputs are handed to as they are found. Both break off when nobody wants more.
trait Sink {
    /// One more.
    fn push(&mut self, input: Input) -> ControlFlow<()>;
    /// The next one may be long in coming.
    fn flush(&mut self) -> ControlFlow<()>;
}

struct Bundler {
    send: mpsc::Sender<Vec<Input>>,
    bundle: Vec<Input>,
    /// Grows, so that the first ones are not kept waiting.
    size: usize,
}

impl Sink for Bundler {
    fn push(&mut self, input: Input) -> ControlFlow<()> {
        self.bundle.push(input);
        if self.bundle.len() < self.size {
            return ControlFlow::Continue(());
        }
        self.size = (2 * self.size).min(BUNDLE);
        self.flush()
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.bundle.is_empty() {
            return ControlFlow::Continue(());
        }
        let bundle = std::mem::replace(&mut self.bundle, Vec::with_capacity(self.size));
        self.send.blocking_send(bundle).map_or(ControlFlow::Break(()), ControlFlow::Continue)
    }
}

impl Source {
    fn each(self, sink: &mut dyn Sink) -> ControlFlow<()> {
        match self {
            Self::Values(values) => values.into_iter().try_for_each(|value| sink.push(Input::value(value))),
            Self::Range(from, to) => (from..to).try_for_each(|number| sink.push(Input::value(raw(&number)))),
            Self::Place(place) => place.each(sink),
            Self::Lines { name, from, are_paths } => lines::each(&name, from, are_paths, sink),
        }
    }
}

#[cfg(test)]
impl Sink for Vec<Input> {
    fn push(&mut self, input: Input) -> ControlFlow<()> {
        Vec::push(self, input);
        ControlFlow::Continue(())
    }

    fn flush(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
