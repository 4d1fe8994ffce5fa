//! The reader: takes a stream up again where it broke off, until it is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_core::batch::BatchId;
use tidemill_core::store::BatchInfo;
use tidemill_core::store::frame::Frames;

use super::kept::Kept;
use super::patience::Patience;
use super::sink::{Sink, Stop};
use super::{Following, is_at_the_end};
use crate::client::{ApiError, Client, Trouble, Wanted};
use crate::error::CliError;

/// Reads one batch.
pub(super) struct Reader<'a> {
    client: &'a Client,
    batch: &'a BatchId,
    following: Following,
    sink: Sink,
    /// The place of the next outcome; shared with whoever says goodbye.
    place: Arc<AtomicU64>,
    patience: Patience,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        client: &'a Client,
        batch: &'a BatchId,
        following: Following,
        sink: Sink,
        place: Arc<AtomicU64>,
    ) -> Self {
        let patience = Patience::of(&following);
        Self { client, batch, following, sink, place, patience }
    }

    /// Reads to the end, and says where the batch stands then; nothing where nobody listens any more.
    pub(super) async fn read(&mut self) -> Result<Option<BatchInfo>, CliError> {
        loop {
            let error = match self.once().await {
                Ok(Some(info)) => return Ok(Some(info)),
                Ok(None) => self.cut_short(),
                Err(Stop::Api(error)) => error,
                Err(Stop::Cli(error)) => return Err(error),
                Err(Stop::Deaf) => return Ok(None),
            };
            self.patience.wait_out(error).await?;
        }
    }

    /// Ends what is printed; gives what is kept.
    pub(super) fn end(self) -> Result<Kept, CliError> {
        self.sink.end()
    }

    /// The same where nothing came of it.
    pub(super) fn give_up(self) -> Result<Kept, CliError> {
        self.sink.give_up()
    }

    /// Reads one answer; the batch, if that was all of it.
    async fn once(&mut self) -> Result<Option<BatchInfo>, Stop> {
        let left = self.following.limit.map(|limit| limit.saturating_sub(self.received()));
        if left != Some(0) {
            let wanted = Wanted {
                order: self.following.order,
                from: self.place.load(Ordering::Relaxed),
                limit: left,
                follows: self.following.waits,
            };
            let mut response = self.client.results(self.batch, &wanted).await?;
            self.patience.is_back();
            let mut frames = Frames::default();
            while let Some(piece) = response.chunk().await.map_err(|error| self.client.unreachable(error))? {
                frames.push(&piece);
                while let Some(page) = frames.take().map_err(|error| self.client.strange(&error.to_string()))? {
                    if !page.is_from(wanted.order, self.place.load(Ordering::Relaxed)) {
                        return Err(self.client.strange("it sends other outcomes than were asked for").into());
                    }
                    let next = page.next();
                    self.sink.take(self.client, page).await?;
                    self.place.store(next, Ordering::Relaxed);
                    self.patience.has_got_on();
                }
            }
            if !frames.is_empty() {
                return Ok(None);
            }
        }
        let info = self.client.batch(self.batch).await?;
        let has_enough = self.following.limit.is_some_and(|limit| self.received() >= limit);
        // Something between us and the API may end an answer as if it were whole.
        let is_whole = !self.following.waits || has_enough || is_at_the_end(&info, self.place.load(Ordering::Relaxed));
        Ok(is_whole.then_some(info))
    }

    fn received(&self) -> u64 {
        self.place.load(Ordering::Relaxed).saturating_sub(self.following.from)
    }

    fn cut_short(&self) -> ApiError {
        ApiError::new(Trouble::Unreachable, format!("{} ended its answer before its end", self.client.url()))
    }
}
