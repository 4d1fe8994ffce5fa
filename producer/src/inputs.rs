//! Inputs: what people name on the command line, walked as a stream.

mod files;
mod glob;
mod lines;
mod names;

use std::io::Read;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;
use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;
use tidemill_core::task::{Job, raw};
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
    /// The whole numbers from the first up to, not including, the second; where there is a job, what its task makes of
    /// them as words.
    Range(i64, i64, Option<Arc<dyn Job>>),
    /// A file, a folder, a glob, a URL or a bucket.
    Place(Place),
    /// NDJSON: a value a line. The name is for messages.
    Lines {
        /// `standard input` or the file's path.
        name: String,
        /// Where the lines come from.
        from: Box<dyn Read + Send>,
        /// Whether strings in it are paths, whose names produced files keep.
        are_paths: bool,
        /// Whose task makes inputs of numbers and strings in it, as it does of words.
        scalars: Option<Arc<dyn Job>>,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Values(values) => f.debug_tuple("Values").field(values).finish(),
            Self::Range(from, to, _) => f.debug_tuple("Range").field(from).field(to).finish(),
            Self::Place(place) => f.debug_tuple("Place").field(place).finish(),
            Self::Lines { name, .. } => f.debug_struct("Lines").field("name", name).finish_non_exhaustive(),
        }
    }
}

/// Inputs that travel together from the walking thread: large enough that the hand-over costs nothing.
const BUNDLE: usize = 512;
/// The same for long ones: with so many bytes a bundle goes, however few they are.
const BUNDLE_BYTES: usize = 1 << 20;
/// Bundles that may wait: the walk is never far ahead of the chunks.
const BUNDLES: usize = 4;

/// The inputs, as they are found.
#[derive(Debug)]
pub struct Inputs {
    bundles: mpsc::Receiver<Vec<Input>>,
    /// Read of them, and not yet given.
    ahead: Vec<Input>,
    total: Option<u64>,
    /// Why the walk ended early; set before the last sender is dropped.
    failure: Arc<OnceLock<InputsError>>,
}

/// The inputs end where they should not; why, for people.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct InputsError {
    message: String,
    /// Whether it is a fault of ours, and not of where they come from.
    pub is_fault: bool,
}

impl InputsError {
    /// Where they come from there is an end.
    fn broken_off(message: String) -> Self {
        Self { message, is_fault: false }
    }
}

/// The first inputs are not those that they were before.
#[derive(Debug, thiserror::Error)]
pub enum NotTheSame {
    /// There are fewer now.
    #[error("there were at least {before} before, and there are {now} now")]
    Fewer {
        /// How many there were.
        before: u64,
        /// How many there are.
        now: u64,
    },
    /// There are more now.
    #[error("it is complete, with {before} of them")]
    More {
        /// How many there were.
        before: u64,
    },
    /// Another stands in the place of the last one.
    #[error("number {number} was {before} before, and is {now} now")]
    Other {
        /// Which one, counted from 1.
        number: u64,
        /// What it was, JSON.
        before: Box<RawValue>,
        /// What it is.
        now: Box<RawValue>,
    },
    /// They cannot be read so far.
    #[error(transparent)]
    Broken(#[from] InputsError),
}

impl Inputs {
    /// Walks the sources one after the other, on a thread for blocking work; it ends when this value is dropped.
    pub fn walk(sources: Vec<Source>) -> Self {
        let (send, mut inputs) = Self::channel();
        inputs.total = sources.iter().map(Source::count).sum();
        let failure = Arc::clone(&inputs.failure);
        tokio::task::spawn_blocking(move || {
            let mut bundler = Bundler { send, bundle: Vec::new(), bytes: 0, size: 1, failure };
            let walk = || sources.into_iter().try_for_each(|source| source.each(&mut bundler));
            match std::panic::catch_unwind(AssertUnwindSafe(walk)) {
                Ok(ControlFlow::Continue(())) if bundler.flush().is_continue() => {}
                Ok(_) => tracing::debug!("nobody wants more inputs, the walk is broken off"),
                // Its end must not look like that of the inputs.
                Err(panic) => {
                    let message = format!("the inputs could not all be found: {}", message_of(&*panic));
                    bundler.failure.get_or_init(|| InputsError { message, is_fault: true });
                }
            }
        });
        inputs
    }

    /// Inputs that somebody sends, in bundles; they end when the sender is dropped.
    pub fn channel() -> (mpsc::Sender<Vec<Input>>, Self) {
        let (send, bundles) = mpsc::channel(BUNDLES);
        (send, Self { bundles, ahead: Vec::new(), total: None, failure: Arc::default() })
    }

    /// How many there are, where that is known before they are walked.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Passes over the first inputs, which were done before; `last` is what the last of them was, where that is known.
    ///
    /// # Errors
    /// [`NotTheSame`] where it is not that one now.
    pub async fn pass_over(&mut self, count: u64, last: Option<&RawValue>) -> Result<(), NotTheSame> {
        // One that was too large to travel is not in its outcome.
        let last = last.filter(|last| last.get() != "null");
        let mut passed = 0;
        while passed < count {
            let Some(mut bundle) = self.next().await else {
                self.whole()?;
                return Err(NotTheSame::Fewer { before: count, now: passed });
            };
            let known = (count - passed).min(bundle.len() as u64);
            passed += known;
            // No more than the bundle has.
            self.ahead = bundle.split_off(usize::try_from(known).unwrap_or(usize::MAX));
            if passed == count
                && let Some(last) = last
                && let Some(now) = bundle.pop().filter(|now| !is_same(&now.json, last))
            {
                return Err(NotTheSame::Other { number: count, before: last.to_owned(), now: now.json });
            }
        }
        Ok(())
    }

    /// Checks that these are as many as before; see [`Self::pass_over`].
    ///
    /// # Errors
    /// [`NotTheSame`]
    pub async fn must_be(&mut self, count: u64, last: Option<&RawValue>) -> Result<(), NotTheSame> {
        self.pass_over(count, last).await?;
        if self.next().await.is_some() {
            return Err(NotTheSame::More { before: count });
        }
        Ok(self.whole()?)
    }

    /// The next few; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<Input>> {
        if self.ahead.is_empty() { self.bundles.recv().await } else { Some(std::mem::take(&mut self.ahead)) }
    }

    /// Whether these were all; only to be asked at their end.
    ///
    /// # Errors
    /// [`InputsError`]: a list broke off.
    pub fn whole(&self) -> Result<(), InputsError> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }
}

/// Whether two inputs are the same value, however they are written.
fn is_same(one: &RawValue, other: &RawValue) -> bool {
    let value = |json: &RawValue| serde_json::from_str::<serde_json::Value>(json.get()).ok();
    one.get() == other.get() || value(one).is_some_and(|one| Some(one) == value(other))
}

/// What a task makes of a number or a string, where it is asked; anything else stays what it is.
fn input_from_scalar(json: Box<RawValue>, job: Option<&dyn Job>) -> Box<RawValue> {
    let Some(job) = job else { return json };
    match json.get().as_bytes() {
        [b'"', ..] => serde_json::from_str::<String>(json.get()).map_or(json, |word| job.input_from_word(&word)),
        [b'-' | b'0'..=b'9', ..] => job.input_from_word(json.get()),
        _ => json,
    }
}

/// What inputs are handed to as they are found. Both break off when nobody wants more.
trait Sink {
    /// One more.
    fn push(&mut self, input: Input) -> ControlFlow<()>;
    /// The next one may be long in coming.
    fn flush(&mut self) -> ControlFlow<()>;
    /// There are more that cannot be told; it breaks off.
    fn fail(&mut self, failure: InputsError) -> ControlFlow<()>;
}

struct Bundler {
    send: mpsc::Sender<Vec<Input>>,
    bundle: Vec<Input>,
    /// Of the inputs in it.
    bytes: usize,
    /// Grows, so that the first ones are not kept waiting.
    size: usize,
    failure: Arc<OnceLock<InputsError>>,
}

impl Sink for Bundler {
    fn push(&mut self, input: Input) -> ControlFlow<()> {
        self.bytes += input.json.get().len();
        self.bundle.push(input);
        if self.bundle.len() < self.size && self.bytes < BUNDLE_BYTES {
            return ControlFlow::Continue(());
        }
        self.size = (2 * self.size).min(BUNDLE);
        self.flush()
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.bundle.is_empty() {
            return ControlFlow::Continue(());
        }
        self.bytes = 0;
        let bundle = std::mem::replace(&mut self.bundle, Vec::with_capacity(self.size));
        self.send.blocking_send(bundle).map_or(ControlFlow::Break(()), ControlFlow::Continue)
    }

    fn fail(&mut self, failure: InputsError) -> ControlFlow<()> {
        // What came before it is good.
        self.flush()?;
        self.failure.get_or_init(|| failure);
        ControlFlow::Break(())
    }
}

impl Source {
    /// The place, where it is one.
    pub fn place(&self) -> Option<&Place> {
        if let Self::Place(place) = self { Some(place) } else { None }
    }

    fn count(&self) -> Option<u64> {
        match self {
            Self::Values(values) => Some(values.len() as u64),
            Self::Range(from, to, _) => Some(u64::try_from(to.saturating_sub(*from)).unwrap_or(0)),
            Self::Place(place) => place.is_one().then_some(1),
            Self::Lines { .. } => None,
        }
    }

    fn each(self, sink: &mut dyn Sink) -> ControlFlow<()> {
        match self {
            Self::Values(values) => values.into_iter().try_for_each(|value| sink.push(Input::value(value))),
            Self::Range(from, to, scalars) => (from..to).try_for_each(|number| {
                let json = raw(&number);
                sink.push(Input::value(input_from_scalar(json, scalars.as_deref())))
            }),
            Self::Place(place) => place.each(sink),
            Self::Lines { name, from, are_paths, scalars } => {
                lines::each(&name, from, are_paths, scalars.as_deref(), sink)
            }
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

    fn fail(&mut self, failure: InputsError) -> ControlFlow<()> {
        panic!("{failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn how_many_there_are_is_known_where_nothing_must_be_looked_at() {
        let url = || Source::Place(Place::find("https://example.org/a.jpg", false).unwrap());
        let lines = Source::Lines { name: "x".into(), from: Box::new(&b""[..]), are_paths: false, scalars: None };
        assert_eq!(Inputs::walk(vec![Source::Range(-2, 5, None), url(), Source::Range(5, 3, None)]).total(), Some(8));
        assert_eq!(Inputs::walk(vec![url(), lines]).total(), None);
    }

    #[tokio::test]
    async fn long_inputs_travel_few_at_a_time() {
        const LONG: usize = 300 << 10;
        let values = (0..100).map(|_| raw(&"x".repeat(LONG))).collect();
        let mut inputs = Inputs::walk(vec![Source::Values(values)]);

        let mut seen = 0;
        while let Some(bundle) = inputs.next().await {
            let bytes: usize = bundle.iter().map(|input| input.json.get().len()).sum();
            assert!(bytes < BUNDLE_BYTES + LONG + 2, "{} of {bytes} bytes", bundle.len());
            seen += bundle.len();
        }
        assert_eq!(seen, 100);
    }

    #[tokio::test]
    async fn lines_that_cannot_be_read_on_are_not_the_end_of_the_inputs() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("out of flour"))
            }
        }
        let too_long = " ".repeat(lines::MAX_LINE_BYTES + 1);
        for (text, line) in [("1\n2\n", 3), ("1\n2", 2), (&too_long[..], 1)] {
            let from = Box::new(std::io::Cursor::new(text.to_owned()).chain(Broken));
            let lines = Source::Lines { name: "x".into(), from, are_paths: false, scalars: None };
            let mut inputs = Inputs::walk(vec![lines, Source::Range(3, 9, None)]);

            let mut seen = 0;
            while let Some(bundle) = inputs.next().await {
                seen += bundle.len();
            }

            let error = inputs.whole().unwrap_err();
            assert!(!error.is_fault && seen <= 2, "{seen}");
            assert_eq!(error.to_string(), format!("cannot read line {line} of x: out of flour"));
        }
    }

    #[tokio::test]
    async fn a_walk_that_panics_is_not_the_end_of_the_inputs() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                panic!("out of flour");
            }
        }
        let lines = Source::Lines { name: "x".into(), from: Box::new(Broken), are_paths: false, scalars: None };
        let mut inputs = Inputs::walk(vec![Source::Range(0, 3, None), lines, Source::Range(3, 9, None)]);

        let mut seen = 0;
        while let Some(bundle) = inputs.next().await {
            seen += bundle.len();
        }

        let error = inputs.whole().unwrap_err();
        assert!(error.is_fault && seen <= 3, "{seen}");
        assert_eq!(error.to_string(), "the inputs could not all be found: out of flour");
    }
}
