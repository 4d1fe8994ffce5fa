//! Pump: a batch's outcomes as bytes, page by page, each made while the reader takes the one before.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_core::batch::BatchId;
use tidemill_core::outcome::Outcome;
use tidemill_core::store::{Order, Rendered, Shared, StoreError, Version};
use tokio_util::sync::CancellationToken;

use crate::ahead::Expected;

/// About how many bytes a page has; three are held for one reader.
const PAGE_BYTES: usize = 1 << 20;
/// Outcomes in the first page, before anything is known of their size, and in any page.
const FIRST_PAGE: u64 = 64;
const MAX_PAGE: u64 = 8192;
/// How often a stream of events says that it lives; proxies end what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long nothing but what is expected is looked for: by then it has come, or is lost, or takes its time anyway.
const MOMENT: Duration = Duration::from_millis(5);

/// How outcomes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON object a line.
    Lines,
    /// Server-sent events: the same objects, each with the place after it as its id.
    Events,
}

/// What is read, and how.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) store: Arc<dyn Shared>,
    pub(super) batch: BatchId,
    pub(super) order: Order,
    /// The place of the next outcome.
    pub(super) next: u64,
    /// How many may still be written.
    pub(super) left: u64,
    /// Whether it waits for outcomes to come, until the batch is complete.
    pub(super) follows: bool,
    /// Whether each object has the relative path of its item, as `name`.
    pub(super) has_names: bool,
    pub(super) form: Form,
    /// Where the one outcome may come from sooner than from the store.
    pub(super) expected: Option<Expected>,
    pub(super) stop: CancellationToken,
}

/// Why a stream breaks off. The reader sees an answer that was cut short, and goes on elsewhere or later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the results API stops")]
    Stopping,
}

/// A pump at work.
#[derive(Debug)]
pub(super) struct Running {
    pump: Pump,
    page: u64,
    seen: Version,
    /// What was expected.
    came: Option<Arc<Outcome>>,
    is_over: bool,
}

impl Pump {
    /// Reads what is there, without waiting (but for a moment, for what is expected): the first piece, perhaps empty, and
    /// the rest. So that what is wrong is known before the answer has begun.
    pub(super) async fn start(self) -> Result<(Bytes, Running), StoreError> {
        let mut running =
            Running { pump: self, page: FIRST_PAGE, seen: Version::default(), came: None, is_over: false };
        if let Some(expected) = &mut running.pump.expected {
            let recorded = tokio::time::timeout(MOMENT, expected.recorded());
            running.came = running.pump.stop.run_until_cancelled(recorded).await.and_then(Result::ok).flatten();
        }
        let first = running.piece().await?;
        Ok((first.into(), running))
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
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        while !self.is_over {
            if self.pump.stop.is_cancelled() {
                return Err(Broken::Stopping);
            }
            let piece = self.piece().await?;
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
            if !self.is_over && !self.wait().await? {
                return Ok(Some(Bytes::from_static(b": still here\n\n")));
            }
        }
        Ok(None)
    }

    /// Waits until the batch has changed; `false` when it is time to say that we live.
    async fn wait(&mut self) -> Result<bool, Broken> {
        let is_silence_long = async {
            match self.pump.form {
                Form::Events => tokio::time::sleep(KEEP_ALIVE).await,
                Form::Lines => std::future::pending().await,
            }
        };
        let recorded = async {
            match &mut self.pump.expected {
                Some(expected) => expected.recorded().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = recorded => {
                self.came = outcome;
                Ok(true)
            }
            changed = self.pump.store.changed(&self.pump.batch, self.seen) => {
                self.seen = changed?;
                Ok(true)
            }
            () = is_silence_long => Ok(false),
            () = self.pump.stop.cancelled() => Err(Broken::Stopping),
        }
    }

    /// What is there now, at most a page.
    async fn piece(&mut self) -> Result<Vec<u8>, StoreError> {
        let limit = self.page.min(self.pump.left);
        let from = self.pump.next;
        let mut lines = Vec::new();
        let rendered = match &self.came {
            Some(outcome) => {
                outcome.write_line(&mut lines);
                lines.push(b'\n');
                Rendered { lines: 1, next: 1, is_last: true }
            }
            None => self.pump.render(usize::try_from(limit).unwrap_or(usize::MAX), &mut lines).await?,
        };
        self.pump.next = rendered.next;
        self.pump.left -= rendered.lines.min(self.pump.left);
        let is_dry = !self.pump.follows && rendered.lines == 0;
        self.is_over = rendered.is_last || self.pump.left == 0 || is_dry;
        self.adapt(lines.len(), rendered.lines);
        Ok(match self.pump.form {
            Form::Lines => lines,
            Form::Events => events(&lines, from, rendered, self.is_over),
        })
    }

    /// Makes the next page as many outcomes as fit it, if they are like these.
    fn adapt(&mut self, bytes: usize, lines: u64) {
        if lines > 0 {
            let each = (bytes as u64).div_ceil(lines).max(1);
            self.page = (PAGE_BYTES as u64 / each).clamp(1, MAX_PAGE);
        }
    }
}

impl Pump {
    async fn render(&self, limit: usize, lines: &mut Vec<u8>) -> Result<Rendered, StoreError> {
        if !self.has_names {
            return self.store.render(&self.batch, self.order, self.next, limit, lines).await;
        }
        let page = self.store.read(&self.batch, self.order, self.next, limit).await?;
        for outcome in &page.outcomes {
            outcome.write_line(lines);
            if let Some(name) = &outcome.name {
                // Within the object: its last character is its brace.
                lines.pop();
                lines.extend_from_slice(b",\"name\":");
                lines.extend_from_slice(tidemill_core::task::raw(name).get().as_bytes());
                lines.push(b'}');
            }
            lines.push(b'\n');
        }
        Ok(Rendered { lines: page.outcomes.len() as u64, next: page.next, is_last: page.is_last })
    }
}

/// Lines as events: the id is the place of the next one, which is where a reader that lost its connection goes on.
fn events(lines: &[u8], from: u64, rendered: Rendered, is_over: bool) -> Vec<u8> {
    let mut events = Vec::with_capacity(lines.len() + 32 * usize::try_from(rendered.lines).unwrap_or_default() + 64);
    let mut write = |id: u64, event: &[u8], data: &[u8]| {
        // Writing to memory cannot fail.
        write!(events, "{}id: {id}\ndata: ", String::from_utf8_lossy(event)).unwrap_or_default();
        events.extend_from_slice(data);
        events.extend_from_slice(b"\n\n");
    };
    let mut place = from;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        place += 1;
        // Places that were given up lie behind the page, so that none before them is passed over.
        write(if place - from == rendered.lines { rendered.next } else { place }, b"", line);
    }
    if is_over {
        let end = format!("{{\"next\":{},\"complete\":{}}}", rendered.next, rendered.is_last);
        write(rendered.next, b"event: end\n", end.as_bytes());
    }
    events
}
