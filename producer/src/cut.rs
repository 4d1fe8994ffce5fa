//! Cut: how many items make a chunk.

use std::time::Duration;

use tidemill_core::chunk::Item;
use tidemill_core::task::Cost;
use tokio::time::Instant;

/// What a message costs of everybody's time: as much work is in the first one, where the task knows how much that is.
const MESSAGE: Duration = Duration::from_micros(200);
/// By how much chunks grow: by doubling a batch of 100,000 short items had 69 messages, half of them with less work in them
/// than they cost.
const GROWTH: usize = 4;

/// How chunks are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first chunks have so many items.
    pub first_items: usize,
    /// No chunk has more items.
    pub max_items: usize,
    /// No chunk has more bytes, unless a single item does.
    pub max_bytes: u64,
    /// Chunks of one size before the size is four times as large.
    pub ramp: usize,
}

impl Cut {
    /// Chunks that hold `target` of work each, by the task's cost. They begin small and grow, so that a short batch uses
    /// every core and the first outcomes of a long one come at once: with one item, whose cost nobody knows, or with as many
    /// as are worth a message.
    pub fn by_cost(cost: Cost, target: Duration, max_items: usize, max_bytes: u64, cores: usize) -> Self {
        let fitting = |work: Duration| usize::try_from(work.as_nanos() / cost.usual.as_nanos().max(1));
        let max_items = fitting(target).unwrap_or(usize::MAX).clamp(1, max_items.max(1));
        let first_items = if cost.is_even { fitting(MESSAGE).unwrap_or(usize::MAX).clamp(1, max_items) } else { 1 };
        Self { first_items, max_items, max_bytes, ramp: 2 * cores }
    }

    /// Chunks of so many items each.
    pub fn fixed(items: usize, max_bytes: u64) -> Self {
        let items = items.max(1);
        Self { first_items: items, max_items: items, max_bytes, ramp: 1 }
    }
}

/// Cuts a stream of items.
#[derive(Debug)]
pub(crate) struct Cutter {
    cut: Cut,
    size: usize,
    of_this_size: usize,
    items: Vec<Item>,
    bytes: u64,
    /// When the first of them came.
    begun: Instant,
}

impl Cutter {
    pub(crate) fn new(cut: Cut) -> Self {
        let items = Vec::with_capacity(cut.first_items);
        Self { cut, size: cut.first_items, of_this_size: 0, items, bytes: 0, begun: Instant::now() }
    }

    /// Adds an item; gives a chunk's items when they are complete, which may be the ones before this.
    pub(crate) fn push(&mut self, item: Item) -> Option<Vec<Item>> {
        let bytes = item.weight_bytes();
        let complete =
            if !self.items.is_empty() && self.bytes + bytes > self.cut.max_bytes { self.take() } else { None };
        if self.items.is_empty() {
            self.begun = Instant::now();
        }
        self.items.push(item);
        self.bytes += bytes;
        if complete.is_none() && self.items.len() >= self.size {
            return self.take();
        }
        complete
    }

    /// Whether no item waits for the rest of its chunk.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Since when an item waits for the rest of its chunk.
    pub(crate) fn begun(&self) -> Option<Instant> {
        (!self.items.is_empty()).then_some(self.begun)
    }

    /// The items of the last chunk.
    pub(crate) fn take(&mut self) -> Option<Vec<Item>> {
        if self.items.is_empty() {
            return None;
        }
        self.of_this_size += 1;
        if self.of_this_size >= self.cut.ramp {
            self.size = (GROWTH * self.size).min(self.cut.max_items);
            self.of_this_size = 0;
        }
        self.bytes = 0;
        Some(std::mem::replace(&mut self.items, Vec::with_capacity(self.size)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemill_core::batch::ItemIndex;
    use tidemill_core::task::raw;

    use super::*;

    fn cut_all(cut: Cut, lengths: &[usize]) -> Vec<Vec<Item>> {
        let mut cutter = Cutter::new(cut);
        let items = lengths.iter().zip(0..);
        let item = |(length, index): (&usize, u64)| Item {
            index: ItemIndex(index),
            input: raw(&"x".repeat(*length)),
            name: None,
            source: None,
        };
        let mut chunks: Vec<Vec<Item>> = items.filter_map(|pair| cutter.push(item(pair))).collect();
        chunks.extend(cutter.take());
        chunks
    }

    #[test]
    fn chunks_begin_with_one_item_or_a_message_s_worth_and_grow_fourfold() {
        let sizes = |cost, max_items, count| -> Vec<usize> {
            let cut = Cut::by_cost(cost, Duration::from_millis(50), max_items, u64::MAX, 1);
            cut_all(cut, &vec![1; count]).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(Cost::micros(1), 8, 40), [1, 1, 4, 4, 8, 8, 8, 6]);
        assert_eq!(sizes(Cost::micros(1).even(), 2000, 6000), [200, 200, 800, 800, 2000, 2000]);
        assert_eq!(sizes(Cost::micros(1).even(), 150, 300), [150, 150]);
        assert_eq!(sizes(Cost::millis(1).even(), 8, 6), [1, 1, 4]);
    }

    #[test]
    fn dear_items_travel_alone_and_cheap_ones_together() {
        let cut = |cost| Cut::by_cost(cost, Duration::from_millis(50), 4096, 1 << 20, 2).max_items;
        assert_eq!(cut(Cost::millis(1000)), 1);
        assert_eq!(cut(Cost::millis(10)), 5);
        assert_eq!(cut(Cost::micros(1)), 4096);
        assert_eq!(cut(Cost::micros(0)), 4096);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_nothing_is_reordered_and_bounds_hold(
            lengths in proptest::collection::vec(0usize..2000, 0..200),
            max_items in 1usize..50, first in 0usize..50, max_bytes in 300u64..5000, ramp in 1usize..4,
        ) {
            let first_items = 1 + first % max_items;
            let chunks = cut_all(Cut { first_items, max_items, max_bytes, ramp }, &lengths);
            let indices: Vec<u64> = chunks.iter().flatten().map(|item| item.index.0).collect();
            prop_assert_eq!(indices, (0..lengths.len() as u64).collect::<Vec<_>>());
            for chunk in &chunks {
                prop_assert!((1..=max_items).contains(&chunk.len()));
                let bytes: u64 = chunk.iter().map(Item::weight_bytes).sum();
                prop_assert!(chunk.len() == 1 || bytes <= max_bytes);
            }
        }
    }
}
