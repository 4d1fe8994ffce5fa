//! Cut: how many items make a chunk.

use std::time::Duration;

use tidemill_core::chunk::Item;
use tidemill_core::task::Cost;

/// By how much chunks grow. Every message costs some 200 µs of everybody's time, so few are small: by doubling a batch of
/// 100,000 short items had 69 messages, half of them with less work in them than they cost.
const GROWTH: usize = 4;

/// How chunks are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// No chunk has more items.
    pub max_items: usize,
    /// No chunk has more bytes, unless a single item does.
    pub max_bytes: u64,
    /// Chunks of one size before the size is four times as large; 0 cuts every chunk at `max_items`.
    pub ramp: usize,
}

impl Cut {
    /// Chunks that hold `target` of work each, by the task's cost. They begin with one item and grow, so that a short
    /// batch uses every core and the first outcomes of a long one come at once.
    pub fn by_cost(cost: Cost, target: Duration, max_items: usize, max_bytes: u64, cores: usize) -> Self {
        let fitting = target.as_nanos() / cost.0.as_nanos().max(1);
        let max_items = usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, max_items.max(1));
        Self { max_items, max_bytes, ramp: 2 * cores }
    }

    /// Chunks of so many items each.
    pub fn fixed(items: usize, max_bytes: u64) -> Self {
        Self { max_items: items.max(1), max_bytes, ramp: 0 }
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
}

impl Cutter {
    pub(crate) fn new(cut: Cut) -> Self {
        let size = if cut.ramp == 0 { cut.max_items } else { 1 };
        Self { cut, size, of_this_size: 0, items: Vec::new(), bytes: 0 }
    }

    /// Adds an item; gives a chunk's items when they are complete, which may be the ones before this.
    pub(crate) fn push(&mut self, item: Item) -> Option<Vec<Item>> {
        let bytes = item.weight_bytes();
        let complete =
            if !self.items.is_empty() && self.bytes + bytes > self.cut.max_bytes { self.take() } else { None };
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

    /// The items of the last chunk.
    pub(crate) fn take(&mut self) -> Option<Vec<Item>> {
        if self.items.is_empty() {
            return None;
        }
        self.of_this_size += 1;
        if self.cut.ramp > 0 && self.of_this_size >= self.cut.ramp {
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
    fn chunks_begin_with_one_item_and_grow_fourfold() {
        let cut = Cut { max_items: 8, max_bytes: u64::MAX, ramp: 2 };
        let sizes: Vec<usize> = cut_all(cut, &[1; 40]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 4, 4, 8, 8, 8, 6]);
    }

    #[test]
    fn dear_items_travel_alone_and_cheap_ones_together() {
        let cut = |cost| Cut::by_cost(cost, Duration::from_millis(50), 4096, 1 << 20, 2).max_items;
        assert_eq!(cut(Cost::millis(1000)), 1);
        assert_eq!(cut(Cost::millis(10)), 5);
        assert_eq!(cut(Cost::micros(1)), 4096);
        assert_eq!(cut(Cost(Duration::ZERO)), 4096);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_nothing_is_reordered_and_bounds_hold(
            lengths in proptest::collection::vec(0usize..2000, 0..200),
            max_items in 1usize..50, max_bytes in 300u64..5000, ramp in 0usize..4,
        ) {
            let chunks = cut_all(Cut { max_items, max_bytes, ramp }, &lengths);
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
