//! Augmentation: pictures that are a little different each time they are seen, and their masks with them.

use serde::{Deserialize, Serialize};

use super::data::{Item, Size, Target};
use crate::scenario::Seeded;

/// How pictures are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Whether every other one is mirrored, left to right.
    pub flip: bool,
    /// How far it is moved at most, as a share of its size.
    pub shift: f64,
}

/// What is done to one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    is_mirrored: bool,
    /// Pixels to the right.
    across: i64,
    /// Pixels down.
    down: i64,
}

impl Augmentation {
    /// Whether pictures stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Changes a picture, and its mask alike. The same numbers give the same change.
    pub fn apply(&self, item: &Item, size: Size, seed: u64, epoch: u32, place: usize) -> Item {
        if self.is_none() {
            return item.clone();
        }
        let change = self.draw(size, seed, epoch, place);
        let pixels = change.carry_out::<3>(&item.pixels, size);
        let target = match &item.target {
            Target::Class(class) => Target::Class(*class),
            Target::Mask(mask) => Target::Mask(change.carry_out::<1>(mask, size).into()),
        };
        Item { pixels: pixels.into(), target }
    }

    fn draw(&self, size: Size, seed: u64, epoch: u32, place: usize) -> Change {
        // Neighbouring seeds of the generator have nothing in common, so it is enough that no two are equal by rule.
        let mut seeded = Seeded::new(seed ^ (u64::from(epoch) << 40) ^ place as u64 ^ (1 << 63));
        let mut moved = |side: u32| {
            let most = (self.shift * f64::from(side)).round() as u64;
            seeded.number(0..=2 * most) as i64 - most as i64
        };
        let (across, down) = (moved(size.width), moved(size.height));
        Change { is_mirrored: self.flip && seeded.number(0..=1) == 1, across, down }
    }
}

impl Change {
    /// Carries it out on rows of pixels of `N` bytes.
    fn carry_out<const N: usize>(self, pixels: &[u8], size: Size) -> Vec<u8> {
        let (width, height) = (i64::from(size.width), i64::from(size.height));
        let mut changed = Vec::with_capacity(pixels.len());
        for y in 0..height {
            let row = (y - self.down).clamp(0, height - 1) * width;
            for x in 0..width {
                let x = if self.is_mirrored { width - 1 - x } else { x };
                let from = (row + (x - self.across).clamp(0, width - 1)) as usize * N;
                changed.extend_from_slice(&pixels[from..from + N]);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 3, height: 2 };

    #[test]
    fn a_picture_is_mirrored_and_moved_and_its_edge_is_repeated() {
        let pixels = [1, 2, 3, 4, 5, 6];
        let change = |is_mirrored, across, down| Change { is_mirrored, across, down }.carry_out::<1>(&pixels, SIZE);

        assert_eq!(change(false, 0, 0), pixels);
        assert_eq!(change(true, 0, 0), [3, 2, 1, 6, 5, 4]);
        assert_eq!(change(false, 1, 0), [1, 1, 2, 4, 4, 5]);
        assert_eq!(change(false, 0, -1), [4, 5, 6, 4, 5, 6]);
    }

    #[test]
    fn a_mask_goes_where_its_picture_goes_and_the_same_numbers_give_the_same() {
        let augmentation = Augmentation { flip: true, shift: 0.5 };
        let mask = [0_u8, 1, 2, 3, 4, 5];
        let pixels: Vec<u8> = mask.iter().flat_map(|&value| [value; 3]).collect();
        let item = Item { pixels: pixels.into(), target: Target::Mask(mask.to_vec().into()) };

        let mut seen = std::collections::BTreeSet::new();
        for place in 0..50 {
            let changed = augmentation.apply(&item, SIZE, 7, 2, place);
            assert_eq!(changed, augmentation.apply(&item, SIZE, 7, 2, place));
            let Target::Mask(mask) = &changed.target else { panic!("it was a mask") };
            let every_third: Vec<u8> = changed.pixels.iter().step_by(3).copied().collect();
            assert_eq!(every_third, mask.to_vec());
            seen.insert(every_third);
        }
        assert!(seen.len() > 10, "{} different ones of 50", seen.len());
        assert_eq!(Augmentation::default().apply(&item, SIZE, 7, 2, 0), item);
    }
}
