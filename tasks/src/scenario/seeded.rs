//! Seeded: random values that are the same in every run.

use std::ops::RangeInclusive;

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// A generator whose values follow from its seed, in every run and on every machine: ChaCha with 8 rounds. A test below
/// holds its values, so that no new version of the library changes them unnoticed.
#[derive(Debug)]
pub struct Seeded(ChaCha8Rng);

impl Seeded {
    /// Begins at that seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from the range.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// A share: from 0 on, and below 1.
    pub fn share(&mut self) -> f64 {
        self.0.random()
    }

    /// Puts the values in a random order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        values.shuffle(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_a_seed_never_change() {
        let mut seeded = Seeded::new(7);
        let numbers = [(); 6].map(|()| seeded.number(0..=1000));
        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        seeded.shuffle(&mut order);

        assert_eq!(numbers, [157, 168, 704, 727, 601, 359]);
        assert_eq!(order, [5, 2, 7, 1, 6, 0, 4, 3]);
        let mut seeded = Seeded::new(7);
        let shares = [(); 3].map(|()| seeded.share());
        assert_eq!(shares, [0.157_796_097_020_619_36, 0.167_989_362_772_101_3, 0.704_276_128_036_456_5]);
    }
}
