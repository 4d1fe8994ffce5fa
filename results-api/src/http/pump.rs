//! Pump: a batch's outcomes as bytes, page by page. While the reader takes one, the next is written and the one after it
//! is fetched.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidemill_core::batch::BatchId;
use tidemill_core::outcome::Outcome;
use tidemill_core::store::{AtMost, Fetched, Order, Page, Shared, StoreError, Version};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// About how many bytes a page has; three are held for one reader.
const PAGE_BYTES: usize = 1 << 20;
/// Outcomes in the first page, before anything is known of their size, and in any page.
const FIRST_PAGE: u64 = 64;
const MAX_PAGE: u64 = 8192;
/// A page of segments: about so many bytes, which become four times as many where they are read, and at most so many
/// outcomes. Our own segments are never longer.
const SEGMENT_BYTES: usize = 256 << 10;
const SEGMENT_PAGE: u64 = 16_384;
/// How often a stream of events says that it lives; proxies end what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How outcomes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON object a line.
    Lines,
    /// Server-sent events: the same objects, each with the place after it as its id.
    Events,
    /// Segments as they are kept, in frames; whoever reads makes lines of them.
    Segments,
}

/// Of which batch outcomes are, and how they are written.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) batch: BatchId,
    pub(super) form: Form,
    /// Whether each object has the relative path of its item, as `name`.
    pub(super) has_names: bool,
}

/// What is read, and how.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) store: Arc<dyn Shared>,
    pub(super) order: Order,
    /// The place of the next outcome.
    pub(super) next: u64,
    /// How many may still be written.
    pub(super) left: u64,
    /// Whether it waits for outcomes to come, until the batch is complete.
    pub(super) follows: bool,
    pub(super) manner: Manner,
    pub(super) stop: CancellationToken,
}

/// Why a stream breaks off. The reader sees an answer that was cut short, and goes on elsewhere or later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the results API stops")]
    Stopping,
    #[error("a page could not be read or written: {0}")]
    Ended(#[from] JoinError),
}

/// A pump at work.
#[derive(Debug)]
pub(super) struct Running {
    pump: Pump,
    /// How many outcomes a page may have, by those that were written last.
    page: Arc<AtomicU64>,
    seen: Version,
    /// Since when the reader has been given nothing.
    silent_since: Instant,
    /// Whether it has had to wait for outcomes to come.
    has_caught_up: bool,
    /// The outcome of the batch's one item, where the store need not be asked for it.
    known: Option<Arc<Outcome>>,
    is_over: bool,
}

/// A piece that is not bytes yet.
#[derive(Debug)]
pub(super) enum Piece {
    /// Outcomes; of as many as they are, the next page is made.
    Outcomes { fetched: Fetched, manner: Manner, is_over: bool, page: Arc<AtomicU64> },
    /// A sign that a stream of events lives.
    Life,
}

impl Pump {
    /// Reads what is there, without waiting: the first piece, perhaps empty, and the rest. So that what is wrong is known
    /// before the answer has begun. Where the outcome of the batch's one item is `known`, nothing is asked.
    pub(super) async fn start(self, known: Option<Arc<Outcome>>) -> Result<(Bytes, Running), StoreError> {
        let mut running = Running {
            pump: self,
            page: Arc::new(AtomicU64::new(FIRST_PAGE)),
            seen: Version::default(),
            silent_since: Instant::now(),
            has_caught_up: false,
            known,
            is_over: false,
        };
        let first = running.piece().await?.write()?;
        Ok((first, running))
    }

    async fn fetch(&self, page: u64) -> Result<Fetched, StoreError> {
        let (count, bytes) = match self.manner.form {
            Form::Lines | Form::Events => (page, usize::MAX),
            // Not by what they were last: a page that ends within a segment has that sent twice.
            Form::Segments => (SEGMENT_PAGE, SEGMENT_BYTES),
        };
        let count = usize::try_from(count.min(self.left)).unwrap_or(usize::MAX);
        self.store.fetch(&self.manner.batch, self.order, self.next, AtMost { count, bytes }).await
    }
}

impl Running {
    /// Whether nothing is left to be read.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The place of the next outcome.
    pub(super) fn place(&self) -> u64 {
        self.pump.next
    }

    /// The next piece, never empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Broken> {
        while !self.is_over {
            // Who has caught up still gets what has come until now: it may be the end that they wait for.
            let stops = self.pump.stop.is_cancelled();
            if stops && !self.has_caught_up {
                return Err(Broken::Stopping);
            }
            let piece = self.piece().await?;
            if !piece.is_empty() {
                self.silent_since = Instant::now();
                return Ok(Some(piece));
            }
            if stops && !self.is_over {
                return Err(Broken::Stopping);
            }
            self.has_caught_up = true;
            if !self.is_over && !self.wait().await? {
                self.silent_since = Instant::now();
                return Ok(Some(Piece::Life));
            }
        }
        Ok(None)
    }

    /// Waits until the batch has changed or we stop; `false` when it is time to say that we live.
    async fn wait(&mut self) -> Result<bool, Broken> {
        let silent_until = self.silent_since + KEEP_ALIVE;
        let is_silence_long = async {
            match self.pump.manner.form {
                Form::Events => tokio::time::sleep_until(silent_until).await,
                Form::Lines | Form::Segments => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Before what has changed: a batch may go on changing, behind a gap.
            () = is_silence_long => Ok(false),
            changed = self.pump.store.changed(&self.pump.manner.batch, self.seen) => {
                self.seen = changed?;
                Ok(true)
            }
            () = self.pump.stop.cancelled() => Ok(true),
        }
    }

    /// What is there now, at most a page.
    async fn piece(&mut self) -> Result<Piece, StoreError> {
        let fetched = match &self.known {
            Some(outcome) => {
                let page = Page { outcomes: vec![Arc::clone(outcome)], next: 1, is_last: true };
                Fetched::of(self.pump.order, 0, page)
            }
            None => self.pump.fetch(self.page.load(Ordering::Relaxed)).await?,
        };
        self.pump.next = fetched.next();
        self.pump.left -= fetched.len().min(self.pump.left);
        let is_dry = !self.pump.follows && fetched.is_empty();
        self.is_over = fetched.is_last() || self.pump.left == 0 || is_dry;
        let (manner, is_over, page) = (self.pump.manner.clone(), self.is_over, Arc::clone(&self.page));
        Ok(Piece::Outcomes { fetched, manner, is_over, page })
    }
}

impl Piece {
    fn is_empty(&self) -> bool {
        match self {
            Self::Outcomes { fetched, manner, is_over, .. } => {
                let has_end = manner.form == Form::Events && *is_over;
                fetched.is_empty() && !has_end
            }
            Self::Life => false,
        }
    }

    /// The piece as bytes, which takes a moment of computing.
    pub(super) fn write(self) -> Result<Bytes, StoreError> {
        let Self::Outcomes { fetched, manner: Manner { batch, form, has_names }, is_over, page } = self else {
            return Ok(Bytes::from_static(b": still here\n\n"));
        };
        if form == Form::Segments {
            return Ok(if fetched.is_empty() { Bytes::new() } else { fetched.into_frame(&batch).into() });
        }
        let (count, next, is_last) = (fetched.len(), fetched.next(), fetched.is_last());
        let lines = if has_names { with_names(&fetched.into_outcomes()?) } else { fetched.into_lines()? };
        if count > 0 {
            // The next page gets as many outcomes as fit it, if they are like these.
            let each = (lines.len() as u64).div_ceil(count).max(1);
            page.store((PAGE_BYTES as u64 / each).clamp(1, MAX_PAGE), Ordering::Relaxed);
        }
        if form == Form::Lines {
            return Ok(lines.into());
        }
        let mut events = events(&lines, next - count, count);
        if is_over {
            let end = format!("{{\"next\":{next},\"complete\":{is_last}}}");
            write_event(&mut events, next, "event: end\n", end.as_bytes());
        }
        Ok(events.into())
    }
}

/// Lines that have the relative paths of their items too.
fn with_names(outcomes: &[Arc<Outcome>]) -> Vec<u8> {
    let mut lines = Vec::new();
    for outcome in outcomes {
        outcome.write_line(&mut lines);
        if let Some(name) = &outcome.name {
            // Within the object: its last character is its brace.
            lines.pop();
            lines.extend_from_slice(b",\"name\":");
            lines.extend_from_slice(tidemill_core::task::raw(name).get().as_bytes());
            lines.push(b'}');
        }
        lines.push(b'\n');
    }
    lines
}

/// Lines as events: the id is the place of the next one, which is where a reader that lost its connection goes on.
fn events(lines: &[u8], from: u64, count: u64) -> Vec<u8> {
    let mut events = Vec::with_capacity(lines.len() + 32 * usize::try_from(count).unwrap_or_default() + 64);
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (line, place) in lines.zip(from..) {
        write_event(&mut events, place + 1, "", line);
    }
    events
}

fn write_event(events: &mut Vec<u8>, id: u64, event: &str, data: &[u8]) {
    // Writing to memory cannot fail.
    write!(events, "{event}id: {id}\ndata: ").unwrap_or_default();
    events.extend_from_slice(data);
    events.extend_from_slice(b"\n\n");
}
