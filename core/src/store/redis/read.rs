//! Reading, in either order.

use super::entries::Window;
use super::plan::Token;
use super::prefix::Prefix;
use super::{PROGRESS, Redis, number, progress_of};
use crate::batch::BatchId;
use crate::store::page::{Content, MOST};
use crate::store::{AtMost, Fetched, Order, StoreError, StoreErrorKind};

pub(super) const ACTION: &str = "read outcomes";

/// Segments a page: beyond it the page ends, with one outcome at least.
const PAGE_BYTES: usize = 8 << 20;

impl Redis {
    pub(super) async fn fetch_page(
        &self,
        batch: &BatchId,
        order: Order,
        from: u64,
        most: AtMost,
    ) -> Result<Fetched, StoreError> {
        let limit = (most.count as u64).min(MOST);
        let window = Window::new(most.bytes, PAGE_BYTES);
        match order {
            Order::Input => self.page_by_index(batch, from, limit, window).await,
            Order::Completion => self.page_by_landing(batch, from, limit, window).await,
        }
    }

    async fn page_by_index(
        &self,
        batch: &BatchId,
        from: u64,
        limit: u64,
        mut window: Window,
    ) -> Result<Fetched, StoreError> {
        let Prefix { mut upto, total, mut tokens } = self.prefix(batch, from, limit).await?;
        if upto == from.saturating_add(limit) {
            // There is more, and where the page ends is a choice.
            upto = whole_entries(&tokens, from, upto);
            tokens.retain(|token| token.first < upto);
        }
        let mut entries = Vec::new();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window.size().min(rest.len()));
            let fetched = self.entries_of(ACTION, batch, now.iter().map(|token| token.id)).await?;
            window.add(&fetched);
            entries.extend(fetched);
            rest = later;
            // All that can hold items before the next entry's first are here. Where many entries lie over one another, as of
            // items that end in random order, these are few at first, and the next page would have all entries once more.
            let frontier = rest.first().map_or(upto, |next| next.first);
            let is_worth_it = frontier.saturating_sub(from) >= window.outcomes().div_ceil(2);
            if frontier > from && (window.is_full() || (window.has_enough() && is_worth_it)) {
                upto = upto.min(frontier);
                break;
            }
        }
        let is_last = total.is_some_and(|total| upto >= total);
        Ok(Fetched { order: Order::Input, places: from..upto, is_last, content: Content::Entries(entries) })
    }

    async fn page_by_landing(
        &self,
        batch: &BatchId,
        from: u64,
        limit: u64,
        mut window: Window,
    ) -> Result<Fetched, StoreError> {
        let mut names = [""; PROGRESS.len() + 2];
        names[..PROGRESS.len()].copy_from_slice(&PROGRESS);
        names[PROGRESS.len()..].copy_from_slice(&["landed", "forgotten_completion"]);
        let fields = self.fields(ACTION, batch, names).await?;
        let progress = progress_of(&fields);
        let [landed, forgotten] = [0, 1].map(|place| number(fields[PROGRESS.len() + place].as_deref()));
        check_kept(from, forgotten)?;
        let mut end = from.saturating_add(limit).min(landed).max(from);
        let mut entries = Vec::new();
        let mut next = from;
        while next < end && !window.has_enough() {
            let fetched = self.entries_between(ACTION, batch, next + 1..=landed, window.size_for(end - next)).await?;
            if fetched.is_empty() {
                return Err(self.gone(ACTION, batch).await);
            }
            window.add(&fetched);
            for entry in fetched {
                let is_cut_at_will = entry.end > end && next - from >= (end - from).div_ceil(2);
                if next >= end || is_cut_at_will {
                    end = end.min(next);
                    break;
                }
                if entry.end.saturating_sub(entry.count) > next {
                    return Err(self.gone(ACTION, batch).await);
                }
                next = entry.end.min(end);
                entries.push(entry);
            }
        }
        let is_last = progress.is_complete() && next >= landed;
        Ok(Fetched { order: Order::Completion, places: from..next, is_last, content: Content::Entries(entries) })
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
