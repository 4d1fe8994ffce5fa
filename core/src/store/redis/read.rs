//! Reading, in either order, as values or as text.

use super::entries::Window;
use super::plan::{PAGE, Token};
use super::prefix::Prefix;
use super::sink::{Sink, Text, Values};
use super::{PROGRESS, Redis, number, progress_of};
use crate::batch::BatchId;
use crate::segment::{self, Entry, Head};
use crate::store::{Order, Page, Rendered, StoreError, StoreErrorKind};

pub(super) const ACTION: &str = "read outcomes";

/// Segments a page: beyond it the page ends, with one outcome at least.
const PAGE_BYTES: usize = 8 << 20;

/// Items a page, whatever is asked for.
const PAGE_ITEMS: u64 = PAGE;

impl Redis {
    pub(super) async fn read_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut values = Values::default();
        let (_, next, is_last) = self.page(batch, order, from, limit, &mut values).await?;
        let outcomes = values.into_outcomes();
        Ok(Page { outcomes, next, is_last })
    }

    pub(super) async fn render_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
        lines: &mut Vec<u8>,
    ) -> Result<Rendered, StoreError> {
        let start = lines.len();
        let mut text = Text::behind(lines);
        match self.page(batch, order, from, limit, &mut text).await {
            Ok((lines, next, is_last)) => Ok(Rendered { lines, next, is_last }),
            Err(error) => {
                lines.truncate(start);
                Err(error)
            }
        }
    }

    /// How many outcomes, where to go on, and whether nothing will ever come after them.
    async fn page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
        sink: &mut impl Sink,
    ) -> Result<(u64, u64, bool), StoreError> {
        let limit = (limit as u64).min(PAGE_ITEMS);
        match order {
            Order::Input => self.page_by_index(batch, from, limit, sink).await,
            Order::Completion => self.page_by_landing(batch, from, limit, sink).await,
        }
    }

    async fn page_by_index(
        &self,
        batch: &BatchId,
        from: u64,
        limit: u64,
        sink: &mut impl Sink,
    ) -> Result<(u64, u64, bool), StoreError> {
        let Prefix { mut upto, total, mut tokens } = self.prefix(batch, from, limit).await?;
        if upto == from.saturating_add(limit) {
            // There is more, and where the page ends is a choice.
            upto = whole_entries(&tokens, from, upto);
            tokens.retain(|token| token.first < upto);
        }
        let mut window = Window::new(PAGE_BYTES);
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window.size().min(rest.len()));
            let entries = self.entries_of(ACTION, batch, now.iter().map(|token| token.id)).await?;
            window.add(&entries);
            for entry in entries {
                visit(&entry.json, |head, outcome| {
                    if (from..upto).contains(&outcome.index) {
                        sink.put(head, outcome, entry.id);
                    }
                })?;
            }
            rest = later;
            // All that can hold items before the next entry's first have been seen.
            let frontier = rest.first().map_or(upto, |next| next.first);
            if window.is_full() && frontier > from {
                upto = upto.min(frontier);
                break;
            }
        }
        let count = sink.arrange(from, upto);
        let next = from + count;
        Ok((count, next, total.is_some_and(|total| next >= total)))
    }

    async fn page_by_landing(
        &self,
        batch: &BatchId,
        from: u64,
        limit: u64,
        sink: &mut impl Sink,
    ) -> Result<(u64, u64, bool), StoreError> {
        let fields: [_; PROGRESS.len()] = PROGRESS;
        let progress = progress_of(&self.fields(ACTION, batch, fields).await?);
        let [landed, forgotten] = self.fields(ACTION, batch, ["landed", "forgotten_completion"]).await?;
        let landed = number(landed.as_deref());
        check_kept(from, number(forgotten.as_deref()))?;
        let end = from.saturating_add(limit).min(landed).max(from);
        let mut window = Window::new(PAGE_BYTES);
        let mut next = from;
        while next < end && !window.is_full() {
            let entries = self.entries_between(ACTION, batch, next + 1..=landed, window.size_for(end - next)).await?;
            if entries.is_empty() {
                return Err(self.gone(ACTION, batch).await);
            }
            window.add(&entries);
            for entry in &entries {
                if next >= end {
                    break;
                }
                let mut place = entry.id.saturating_sub(entry.count);
                if place > next {
                    return Err(self.gone(ACTION, batch).await);
                }
                visit(&entry.json, |head, outcome| {
                    if (next..end).contains(&place) {
                        sink.put(head, outcome, entry.id);
                    }
                    place += 1;
                })?;
                next = entry.id.min(end);
            }
        }
        Ok((next - from, next, progress.is_complete() && next >= landed))
    }
}

/// Where a page better ends, so that an entry is not fetched and walked over for two pages: before the first one that
/// reaches behind its end, where that leaves half of it or more.
fn whole_entries(holders: &[Token], from: u64, upto: u64) -> u64 {
    let cut = holders.iter().filter(|token| token.last >= upto).map(|token| token.first).min();
    cut.filter(|cut| cut.saturating_sub(from) >= (upto - from).div_ceil(2)).unwrap_or(upto)
}

pub(super) fn check_kept(from: u64, forgotten: u64) -> Result<(), StoreError> {
    if from >= forgotten {
        return Ok(());
    }
    Err(StoreError {
        kind: StoreErrorKind::Forgotten,
        action: ACTION.into(),
        reason: format!("those before place {forgotten} are no longer kept"),
    })
}

/// Walks over an entry's outcomes.
pub(super) fn visit(json: &[u8], mut each: impl FnMut(&Head, &Entry<'_>)) -> Result<(), StoreError> {
    let walked = segment::visit(json, |head, entry| {
        each(head, &entry);
        Ok(())
    });
    walked.map(drop).map_err(|error| broken(&error))
}

/// What lies in Redis is not what we wrote there.
pub(super) fn broken(error: &dyn std::fmt::Display) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Broken,
        action: ACTION.into(),
        reason: format!(
            "what the store holds is not what was written: {error}\ndoes something else use this Redis with the same store.prefix?"
        ),
    }
}
