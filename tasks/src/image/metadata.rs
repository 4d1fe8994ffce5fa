//! What a file says beside its pixels, where it is kept: EXIF, made true of the new picture.

use ::image::ImageDecoder as _;

use super::directory::{NAME, Numbers, ORIENTATION};
use super::header::{self, Format, Limits};
use super::jpeg;

/// The tag of where the directory of details begins.
const DETAILS: u16 = 0x8769;
/// Tags of the details: pixels to a row, rows, and what the colours are.
const WIDTH: u16 = 0xA002;
const HEIGHT: u16 = 0xA003;
const COLOURS: u16 = 0xA001;
/// Tags of the second directory: where a small picture begins, and its bytes.
const SMALL_AT: u16 = 0x0201;
const SMALL_BYTES: u16 = 0x0202;

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
/// The small picture within is taken out, since it shows what was before the steps. All else stays where it is, byte for
/// byte, as the notes of makers need it. `None` where the EXIF is damaged.
pub(super) fn adapted(mut exif: Vec<u8>, (width, height): (u32, u32), had_profile: bool) -> Option<Vec<u8>> {
    let numbers = Numbers::of(&exif)?;
    let first = numbers.first(&exif)?;
    numbers.replace(&mut exif, first, ORIENTATION, UPRIGHT);
    if let Some(details) = numbers.find(&exif, first, DETAILS) {
        let details = details.value as usize;
        numbers.replace(&mut exif, details, WIDTH, width);
        numbers.replace(&mut exif, details, HEIGHT, height);
        if had_profile {
            numbers.replace(&mut exif, details, COLOURS, SRGB);
        }
    }
    if let Some(second) = numbers.next(&exif, first) {
        let value = |tag| numbers.find(&exif, second.value as usize, tag).map_or(0, |number| number.value as usize);
        let (start, length) = (value(SMALL_AT), value(SMALL_BYTES));
        if let Some(small) = exif.get_mut(start..start.saturating_add(length)) {
            small.fill(0);
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
        // At 8, 38, 80 and 110.
        let first = directory(&[entry(ORIENTATION, 3, 6), entry(DETAILS, 4, 38)], 80);
        let details = directory(&[entry(COLOURS, 3, 0xFFFF), entry(WIDTH, 3, 4000), entry(HEIGHT, 4, 3000)], 0);
        let second = directory(&[entry(SMALL_AT, 4, 110), entry(SMALL_BYTES, 4, 4)], 0);
        let head = if is_little { b"II*\0" } else { b"MM\0*" };
        [&head[..], &long(8), &first, &details, &second, &[9; 4]].concat()
    }

    #[test]
    fn exif_is_made_true_of_the_new_picture_in_either_order_of_digits() {
        for is_little in [true, false] {
            let old = camera(is_little);
            assert_eq!(old.len(), 114);

            let new = adapted(old.clone(), (600, 800), true).unwrap();

            let numbers = Numbers::of(&new).unwrap();
            let value = |directory, tag| numbers.find(&new, directory, tag).unwrap().value;
            assert_eq!(value(8, ORIENTATION), UPRIGHT);
            assert_eq!([value(38, WIDTH), value(38, HEIGHT), value(38, COLOURS)], [600, 800, SRGB]);
            assert_eq!(numbers.next(&new, 8), None, "nothing leads to the small picture any more");
            assert_eq!(new[110..], [0; 4]);
            let changed = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            assert!(changed <= 1 + 4 + 2 + 4 + 4, "{changed} bytes: all else stays");
        }
    }

    #[test]
    fn colours_that_were_not_converted_stay_what_they_are_called() {
        let new = adapted(camera(true), (1, 1), false).unwrap();

        assert_eq!(Numbers::of(&new).unwrap().find(&new, 38, COLOURS).unwrap().value, 0xFFFF);
    }

    #[test]
    fn a_number_that_has_no_room_in_its_place_is_not_written() {
        let new = adapted(camera(true), (70_000, 70_000), false).unwrap();

        let value = |tag| Numbers::of(&new).unwrap().find(&new, 38, tag).unwrap().value;
        assert_eq!([value(WIDTH), value(HEIGHT)], [4000, 70_000]);
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
            let adapted = adapted(odd, (1, 1), true);
            assert!(adapted.is_none_or(|adapted| adapted.len() == whole.len()));
        }
    }
}
