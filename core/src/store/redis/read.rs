//! Reading, in either order, as values or as text.

use std::ops::Range;

use super::entries::{self, Window};
use super::plan::{PAGE, Token};
use super::prefix::Prefix;
use super::sink::{Place, Sink, Text, Values};
use super::{PROGRESS, Redis, number, progress_of};
use crate::batch::BatchId;
use crate::segment::{self, Entry, Head};
use crate::store::{Fetched, Order, Page, StoreError, StoreErrorKind};

pub(super) const ACTION: &str = "read outcomes";

/// Segments a page: beyond it the page ends, with one outcome at least.
const PAGE_BYTES: usize = 8 << 20;

/// Items a page, whatever is asked for.
const PAGE_ITEMS: u64 = PAGE;

/// A page as Redis has it.
struct Raw {
    entries: Vec<entries::Entry>,
    order: Order,
    /// What of the entries is on the page.
    places: Range<u64>,
    is_last: bool,
}

impl Raw {
    /// Gives the sink the page's outcomes.
    fn pour<S: Sink>(self, mut sink: S) -> Result<S, StoreError> {
        let Self { entries, order, places, .. } = self;
        let wanted = places.end - places.start;
        let count = entries.iter().fold(0_u64, |count, entry| count.saturating_add(entry.count));
        let bytes: u64 = entries.iter().map(|entry| entry.json.len() as u64).sum();
        // Never more than was fetched, whatever count stands in the store.
        sink.reserve(wanted.min(count) as usize, (bytes / count.max(1)) as usize);
        for entry in entries {
            let mut landed = entry.id.saturating_sub(entry.count);
            visit(&entry.json, |head, outcome| {
                let place = match order {
                    Order::Input => outcome.index,
                    Order::Completion => landed,
                };
                if places.contains(&place) {
                    sink.put(head, outcome, Place { place, id: entry.id });
                }
                landed += 1;
            })?;
        }
        let found = sink.arrange(places);
        if found < wanted {
            return Err(broken(&format_args!("{found} outcomes are where {wanted} were recorded")));
        }
        Ok(sink)
    }
}

impl Redis {
    pub(super) async fn read_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let raw = self.page(batch, order, from, limit).await?;
        let (next, is_last) = (raw.places.end, raw.is_last);
        Ok(Page { outcomes: raw.pour(Values::default())?.into_outcomes(), next, is_last })
    }

    pub(super) async fn fetch_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        limit: usize,
    ) -> Result<Fetched, StoreError> {
        let raw = self.page(batch, order, from, limit).await?;
        let Range { start, end } = raw.places;
        Ok(Fetched::new(end - start, end, raw.is_last, || raw.pour(Text::default()).map(Text::into_lines)))
    }

    async fn page(&self, batch: &BatchId, order: Order, from: u64, limit: usize) -> Result<Raw, StoreError> {
        let limit = (limit as u64).min(PAGE_ITEMS);
        match order {
            Order::Input => self.page_by_index(batch, from, limit).await,
            Order::Completion => self.page_by_landing(batch, from, limit).await,
        }
    }

    async fn page_by_index(&self, batch: &BatchId, from: u64, limit: u64) -> Result<Raw, StoreError> {
        let Prefix { mut upto, total, mut tokens } = self.prefix(batch, from, limit).await?;
        if upto == from.saturating_add(limit) {
            // There is more, and where the page ends is a choice.
            upto = whole_entries(&tokens, from, upto);
            tokens.retain(|token| token.first < upto);
        }
        let mut window = Window::new(PAGE_BYTES);
        let mut entries = Vec::new();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window.size().min(rest.len()));
            let fetched = self.entries_of(ACTION, batch, now.iter().map(|token| token.id)).await?;
            window.add(&fetched);
            entries.extend(fetched);
            rest = later;
            // All that can hold items before the next entry's first are here.
            let frontier = rest.first().map_or(upto, |next| next.first);
            if window.is_full() && frontier > from {
                upto = upto.min(frontier);
                break;
            }
        }
        let is_last = total.is_some_and(|total| upto >= total);
        Ok(Raw { entries, order: Order::Input, places: from..upto, is_last })
    }

    async fn page_by_landing(&self, batch: &BatchId, from: u64, limit: u64) -> Result<Raw, StoreError> {
        let mut names = [""; PROGRESS.len() + 2];
        names[..PROGRESS.len()].copy_from_slice(&PROGRESS);
        names[PROGRESS.len()..].copy_from_slice(&["landed", "forgotten_completion"]);
        let fields = self.fields(ACTION, batch, names).await?;
        let progress = progress_of(&fields);
        let [landed, forgotten] = [0, 1].map(|place| number(fields[PROGRESS.len() + place].as_deref()));
        check_kept(from, forgotten)?;
        let end = from.saturating_add(limit).min(landed).max(from);
        let mut window = Window::new(PAGE_BYTES);
        let mut entries = Vec::new();
        let mut next = from;
        while next < end && !window.is_full() {
            let fetched = self.entries_between(ACTION, batch, next + 1..=landed, window.size_for(end - next)).await?;
            if fetched.is_empty() {
                return Err(self.gone(ACTION, batch).await);
            }
            window.add(&fetched);
            for entry in fetched {
                if next >= end {
                    break;
                }
                if entry.id.saturating_sub(entry.count) > next {
                    return Err(self.gone(ACTION, batch).await);
                }
                next = entry.id.min(end);
                entries.push(entry);
            }
        }
        let is_last = progress.is_complete() && next >= landed;
        Ok(Raw { entries, order: Order::Completion, places: from..next, is_last })
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
