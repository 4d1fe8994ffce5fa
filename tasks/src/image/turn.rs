//! The eight ways to turn a picture by right angles and to mirror it.
//!
//! Turning commutes with blurring and with shrinking, so the plan keeps turns aside as one value and carries
//! them out once, on the smallest picture.

use super::picture::{Channels, Picture};

/// A turn: first, if `transpose`, rows become columns; then the mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    transpose: bool,
    mirror_x: bool,
    mirror_y: bool,
}

impl Turn {
    /// Leaves everything as it is.
    pub const NONE: Self = Self::new(false, false, false);
    /// A quarter turn clockwise.
    pub const QUARTER: Self = Self::new(true, true, false);
    /// Half a turn.
    pub const HALF: Self = Self::new(false, true, true);
    /// A quarter turn counter-clockwise.
    pub const THREE_QUARTERS: Self = Self::new(true, false, true);
    /// Left and right change places.
    pub const MIRROR_X: Self = Self::new(false, true, false);
    /// Top and bottom change places.
    pub const MIRROR_Y: Self = Self::new(false, false, true);

    const fn new(transpose: bool, mirror_x: bool, mirror_y: bool) -> Self {
        Self { transpose, mirror_x, mirror_y }
    }

    /// The turn that makes a picture upright whose EXIF orientation is this one.
    pub fn upright(orientation: ::image::metadata::Orientation) -> Self {
        use ::image::metadata::Orientation as O;
        match orientation {
            O::NoTransforms => Self::NONE,
            O::Rotate90 => Self::QUARTER,
            O::Rotate180 => Self::HALF,
            O::Rotate270 => Self::THREE_QUARTERS,
            O::FlipHorizontal => Self::MIRROR_X,
            O::FlipVertical => Self::MIRROR_Y,
            O::Rotate90FlipH => Self::QUARTER.then(Self::MIRROR_X),
            O::Rotate270FlipH => Self::THREE_QUARTERS.then(Self::MIRROR_X),
        }
    }

    /// This turn, and after it another one, as one.
    pub const fn then(self, next: Self) -> Self {
        let (x, y) = if next.transpose { (self.mirror_y, self.mirror_x) } else { (self.mirror_x, self.mirror_y) };
        Self::new(self.transpose != next.transpose, x != next.mirror_x, y != next.mirror_y)
    }

    /// The size that a picture has after the turn; also the size before it that gives this one after.
    pub const fn size(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// Where a rectangle `[x, y, width, height]` of the turned picture of `size` lies in the picture before the turn.
    pub const fn source_of(self, [mut x, mut y, width, height]: [u32; 4], size: (u32, u32)) -> [u32; 4] {
        if self.mirror_x {
            x = size.0 - x - width;
        }
        if self.mirror_y {
            y = size.1 - y - height;
        }
        if self.transpose { [y, x, height, width] } else { [x, y, width, height] }
    }

    /// Turns a picture.
    pub fn apply(self, picture: Picture) -> Picture {
        if self == Self::NONE {
            return picture;
        }
        match picture.channels {
            Channels::Gray => self.apply_n::<1>(picture),
            Channels::Rgb => self.apply_n::<3>(picture),
            Channels::Rgba => self.apply_n::<4>(picture),
        }
    }

    fn apply_n<const N: usize>(self, mut picture: Picture) -> Picture {
        if self.transpose {
            picture = transposed::<N>(&picture);
        }
        let stride = picture.stride();
        if self.mirror_x {
            for row in picture.data.chunks_exact_mut(stride) {
                row.as_chunks_mut::<N>().0.reverse();
            }
        }
        if self.mirror_y {
            let rows = picture.height as usize;
            for y in 0..rows / 2 {
                let (above, below) = picture.data.split_at_mut((rows - 1 - y) * stride);
                above[y * stride..][..stride].swap_with_slice(&mut below[..stride]);
            }
        }
        picture
    }
}

/// Swaps rows and columns, in squares of 32 pixels so that both sides stay in the cache.
fn transposed<const N: usize>(picture: &Picture) -> Picture {
    const SIDE: usize = 32;
    let (width, height) = (picture.width as usize, picture.height as usize);
    let mut turned = Picture::blank(picture.height, picture.width, picture.channels);
    let from = picture.data.as_chunks::<N>().0;
    let to = turned.data.as_chunks_mut::<N>().0;
    for top in (0..height).step_by(SIDE) {
        for left in (0..width).step_by(SIDE) {
            for y in top..height.min(top + SIDE) {
                for x in left..width.min(left + SIDE) {
                    to[x * height + y] = from[y * width + x];
                }
            }
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture { width: 3, height: 2, channels: Channels::Gray, data: vec![1, 2, 3, 4, 5, 6] }
    }

    #[test]
    fn a_quarter_turn_is_clockwise() {
        let turned = Turn::QUARTER.apply(picture());

        assert_eq!((turned.width, turned.height), (2, 3));
        assert_eq!(turned.data, [4, 1, 5, 2, 6, 3]);
    }

    #[test]
    fn turns_composed_are_turns_one_after_another() {
        let basic = [Turn::QUARTER, Turn::HALF, Turn::THREE_QUARTERS, Turn::MIRROR_X, Turn::MIRROR_Y, Turn::NONE];
        let all: Vec<Turn> = basic.iter().flat_map(|a| basic.iter().map(|b| a.then(*b))).collect();
        for &first in &all {
            for &second in &all {
                let apart = second.apply(first.apply(picture()));
                assert_eq!(first.then(second).apply(picture()), apart, "{first:?} {second:?}");
            }
        }
    }

    #[test]
    fn a_rectangle_is_found_again_before_the_turn() {
        for turn in
            [Turn::QUARTER, Turn::HALF, Turn::THREE_QUARTERS, Turn::MIRROR_X, Turn::QUARTER.then(Turn::MIRROR_X)]
        {
            let turned = turn.apply(picture());
            let [x, y, w, h] = turn.source_of([1, 0, 1, 2], (turned.width, turned.height));

            let before = picture().crop(x, y, w, h).unwrap();

            assert_eq!(turn.apply(before), turned.crop(1, 0, 1, 2).unwrap(), "{turn:?}");
        }
    }
}
