//! The directories of a TIFF file, and so of EXIF, which is kept as one: whole numbers by their tag.

use ::image::metadata::Orientation;

use super::turn::Turn;

/// What is at the beginning of EXIF in a JPEG. Some write it in other formats too.
pub(super) const NAME: &[u8] = b"Exif\0\0";
/// The tag of the orientation.
pub(super) const ORIENTATION: u16 = 0x0112;

/// A number that stands in its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// Where its bytes begin.
    pub(super) at: usize,
    /// Its bytes: 1, 2 or 4.
    pub(super) length: usize,
    /// What they say.
    pub(super) value: u32,
}

/// The numbers of a file, in its order of digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    is_little: bool,
}

impl Numbers {
    /// Those of a file that begins as one.
    pub(super) fn of(tiff: &[u8]) -> Option<Self> {
        match tiff {
            [b'I', b'I', 42, 0, ..] => Some(Self { is_little: true }),
            [b'M', b'M', 0, 42, ..] => Some(Self { is_little: false }),
            _ => None,
        }
    }

    /// Where the first directory begins.
    pub(super) fn first(self, tiff: &[u8]) -> Option<usize> {
        Some(self.read(tiff, 4, 4)? as usize)
    }

    /// Where the directory behind another one begins, if there is one.
    pub(super) fn next(self, tiff: &[u8], directory: usize) -> Option<Number> {
        let entries = self.read(tiff, directory, 2)? as usize;
        let at = directory.saturating_add(2 + 12 * entries);
        let value = self.read(tiff, at, 4)?;
        (value != 0).then_some(Number { at, length: 4, value })
    }

    /// Finds a number by its tag; of several, the first.
    pub(super) fn find(self, tiff: &[u8], directory: usize, tag: u16) -> Option<Number> {
        let read = |at, length| self.read(tiff, at, length);
        let entries = read(directory, 2)? as usize;
        let mut places = (0..entries).map(|entry| directory.saturating_add(2 + 12 * entry));
        let entry = places.find(|&entry| read(entry, 2) == Some(u32::from(tag)))?;
        let length = match read(entry + 2, 2)? {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return None,
        };
        if read(entry + 4, 4)? == 0 {
            return None;
        }
        Some(Number { at: entry + 8, length, value: read(entry + 8, length)? })
    }

    /// Writes another value over a number that was found there, if that has room for it.
    pub(super) fn write(self, tiff: &mut [u8], number: Number, value: u32) {
        let Number { at, length, .. } = number;
        if u64::from(value) >> (8 * length) != 0 {
            return;
        }
        let digits = if self.is_little { value.to_le_bytes() } else { value.to_be_bytes() };
        let digits = if self.is_little { &digits[..length] } else { &digits[4 - length..] };
        tiff[at..at + length].copy_from_slice(digits);
    }

    /// Writes another value where that number is, if it is there.
    pub(super) fn replace(self, tiff: &mut [u8], directory: usize, tag: u16, value: u32) {
        if let Some(number) = self.find(tiff, directory, tag) {
            self.write(tiff, number, value);
        }
    }

    fn read(self, tiff: &[u8], at: usize, length: usize) -> Option<u32> {
        let digits = tiff.get(at..)?.get(..length)?.iter();
        let join = |number: u32, &digit: &u8| (number << 8) | u32::from(digit);
        Some(if self.is_little { digits.rev().fold(0, join) } else { digits.fold(0, join) })
    }
}

/// Finds a number of the first directory by its tag; of several, the first.
pub(super) fn number(tiff: &[u8], tag: u16) -> Option<Number> {
    let numbers = Numbers::of(tiff)?;
    numbers.find(tiff, numbers.first(tiff)?, tag)
}

/// What makes a picture upright with this EXIF, if that says so.
pub(super) fn upright(exif: &[u8]) -> Option<Turn> {
    let orientation = number(exif.strip_prefix(NAME).unwrap_or(exif), ORIENTATION)?;
    u8::try_from(orientation.value).ok().and_then(Orientation::from_exif).map(Turn::upright)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// EXIF of one entry, least digit first.
    pub(in crate::image) fn exif(tag: u16, kind: u16, value: u32) -> Vec<u8> {
        let mut exif = b"II*\0\x08\0\0\0\x01\0".to_vec();
        exif.extend_from_slice(&tag.to_le_bytes());
        exif.extend_from_slice(&kind.to_le_bytes());
        exif.extend_from_slice(&1_u32.to_le_bytes());
        exif.extend_from_slice(&value.to_le_bytes());
        exif.extend_from_slice(&[0; 4]); // no further directory
        exif
    }

    #[test]
    fn an_orientation_is_found_whatever_the_size_of_its_number() {
        for kind in [1, 3, 4] {
            assert_eq!(upright(&exif(ORIENTATION, kind, 6)), Some(Turn::QUARTER));
        }
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        assert_eq!(upright(big), Some(Turn::QUARTER));
        assert_eq!(number(big, ORIENTATION), Some(Number { at: 18, length: 2, value: 6 }));
    }

    #[test]
    fn exif_may_begin_with_its_name() {
        let named = [NAME, &exif(ORIENTATION, 3, 8)[..]].concat();

        assert_eq!(upright(&named), Some(Turn::THREE_QUARTERS));
    }

    #[test]
    fn what_says_nothing_turns_nothing() {
        let whole = exif(ORIENTATION, 3, 6);
        for length in 0..whole.len() - 4 - 2 {
            assert_eq!(upright(&whole[..length]), None, "{length} bytes");
        }
        for other in [exif(ORIENTATION, 3, 9), exif(ORIENTATION, 4, 65_542), exif(ORIENTATION, 5, 6), exif(7, 3, 6)] {
            assert_eq!(upright(&other), None);
        }
    }
}
