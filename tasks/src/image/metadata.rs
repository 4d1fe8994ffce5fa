//! What a file says beside its pixels, where it is kept: EXIF, made true of the new picture.

use ::image::ImageDecoder as _;

use super::directory::{NAME, Numbers, ORIENTATION};
use super::header::{self, Format, Limits};
use super::jpeg;

/// The tag of where the directory of details begins.
const DETAILS: u16 = 0x8769;
/// Tags of pixels to a row, and of rows: in the first directory, where some cameras write them too, and in the details.
const WIDTHS: [u16; 2] = [0x0100, 0xA002];
const HEIGHTS: [u16; 2] = [0x0101, 0xA003];
/// The tag of the details that says what the colours are.
const COLOURS: u16 = 0xA001;
/// Tags of the second directory: where a small picture begins, and its bytes.
const SMALL_AT: u16 = 0x0201;
const SMALL_BYTES: u16 = 0x0202;

/// The bytes before the directories.
const HEAD: usize = 8;

/// The orientation of what is shown as it is stored.
const UPRIGHT: u32 = 1;
/// The number for sRGB.
const SRGB: u32 = 1;

/// The EXIF of a file, without the name with which it begins in a JPEG. A TIFF has none apart from its own directories.
pub(super) fn exif(bytes: &[u8], format: Format, limits: &Limits) -> Option<Vec<u8>> {
    let exif = match format {
        Format::Tiff => return None,
        Format::Jpeg => return jpeg::exif(bytes).map(<[u8]>::to_vec),
        other => header::decoder(bytes, other, limits).ok()?.exif_metadata().ok()??,
    };
    Some(match exif.strip_prefix(NAME) {
        Some(exif) => exif.to_vec(),
        None => exif,
    })
}

/// Makes EXIF true of the picture that was made: that is upright, has this size, and is sRGB where the source had a profile.
/// The small JPEG within is taken out, since it shows what was before the steps. All else stays where it is, byte for
/// byte, as the notes of makers need it. `None` where the EXIF is damaged.
pub(super) fn adapted(mut exif: Vec<u8>, (width, height): (u32, u32), had_profile: bool) -> Option<Vec<u8>> {
    let numbers = Numbers::of(&exif)?;
    let first = numbers.first(&exif)?;
    let details = numbers.find(&exif, first, DETAILS).map(|details| details.value as usize);
    numbers.replace(&mut exif, first, ORIENTATION, UPRIGHT);
    for (place, directory) in [Some(first), details].into_iter().enumerate() {
        if let Some(directory) = directory {
            numbers.replace(&mut exif, directory, WIDTHS[place], width);
            numbers.replace(&mut exif, directory, HEIGHTS[place], height);
        }
    }
    if let Some(details) = details.filter(|_| had_profile) {
        numbers.replace(&mut exif, details, COLOURS, SRGB);
    }
    if let Some(second) = numbers.next(&exif, first) {
        let value = |tag| numbers.find(&exif, second.value as usize, tag).map(|number| number.value as usize);
        if let (Some(start), Some(length @ 1..)) = (value(SMALL_AT), value(SMALL_BYTES)) {
            let end = start.saturating_add(length);
            // Damaged numbers may lead into the head, or into the directory that was just written.
            let is_apart = start >= HEAD && (end <= first || start >= second.at + 4);
            exif.get_mut(start..end).filter(|_| is_apart)?.fill(0);
        }
        numbers.write(&mut exif, second, 0);
    }
    Some(exif)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF with two directories and details, and a small picture of 4 bytes at its end.
    fn camera(is_little: bool) -> Vec<u8> {
        let short = |number: u16| if is_little { number.to_le_bytes() } else { number.to_be_bytes() };
        let long = |number: u32| if is_little { number.to_le_bytes() } else { number.to_be_bytes() };
        let entry = |tag: u16, kind: u16, value: u32| {
            let value = match kind {
                3 => [&short(value as u16)[..], &[0; 2]].concat(),
                _ => long(value).to_vec(),
            };
            [&short(tag)[..], &short(kind), &long(1), &value].concat()
        };
        let directory = |entries: &[Vec<u8>], next: u32| {
            [&short(entries.len() as u16)[..], &entries.concat(), &long(next)].concat()
        };
        // At 8, 62, 104 and 134.
        let [width, height] = [WIDTHS, HEIGHTS];
        let first = directory(
            &[entry(width[0], 4, 4000), entry(height[0], 3, 3000), entry(ORIENTATION, 3, 6), entry(DETAILS, 4, 62)],
            104,
        );
        let details = directory(&[entry(COLOURS, 3, 0xFFFF), entry(width[1], 3, 4000), entry(height[1], 4, 3000)], 0);
        let second = directory(&[entry(SMALL_AT, 4, 134), entry(SMALL_BYTES, 4, 4)], 0);
        let head = if is_little { b"II*\0" } else { b"MM\0*" };
        [&head[..], &long(8), &first, &details, &second, &[9; 4]].concat()
    }

    #[test]
    fn exif_is_made_true_of_the_new_picture_in_either_order_of_digits() {
        for is_little in [true, false] {
            let old = camera(is_little);
            assert_eq!(old.len(), 138);

            let new = adapted(old.clone(), (600, 800), true).unwrap();

            let numbers = Numbers::of(&new).unwrap();
            let value = |directory, tag| numbers.find(&new, directory, tag).unwrap().value;
            assert_eq!(value(8, ORIENTATION), UPRIGHT);
            assert_eq!([value(8, WIDTHS[0]), value(8, HEIGHTS[0])], [600, 800]);
            assert_eq!([value(62, WIDTHS[1]), value(62, HEIGHTS[1]), value(62, COLOURS)], [600, 800, SRGB]);
            assert_eq!(numbers.next(&new, 8), None, "nothing leads to the small picture any more");
            assert_eq!(new[134..], [0; 4]);
            let changed = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            assert!(changed <= 1 + 4 + 2 + 4 + 2 + 4 + 4, "{changed} bytes: all else stays");
        }
    }

    #[test]
    fn colours_that_were_not_converted_stay_what_they_are_called() {
        let new = adapted(camera(true), (1, 1), false).unwrap();

        assert_eq!(Numbers::of(&new).unwrap().find(&new, 62, COLOURS).unwrap().value, 0xFFFF);
    }

    #[test]
    fn a_number_that_has_no_room_in_its_place_is_not_written() {
        let new = adapted(camera(true), (70_000, 70_000), false).unwrap();

        let value = |tag| Numbers::of(&new).unwrap().find(&new, 62, tag).unwrap().value;
        assert_eq!([value(WIDTHS[1]), value(HEIGHTS[1])], [4000, 70_000]);
    }

    #[test]
    fn damaged_exif_harms_nothing() {
        let whole = camera(false);
        for length in 0..whole.len() {
            let cut = adapted(whole[..length].to_vec(), (1, 1), true);
            assert!(cut.is_none_or(|cut| cut.len() == length), "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut odd = whole.clone();
            odd[at] = 0xFF;
            if let Some(adapted) = adapted(odd.clone(), (1, 1), true) {
                assert_eq!(adapted.len(), whole.len());
                assert_eq!(adapted[..8], odd[..8], "byte {at}: the head is as it was");
            }
        }
        // Where the small picture is said to be in the head, or in the first directory.
        for start in [0, 1, 8, 20] {
            let mut odd = whole.clone();
            odd[114..118].copy_from_slice(&u32::to_be_bytes(start));
            assert_eq!(adapted(odd, (1, 1), true), None, "{start}");
        }
    }
}
