//! The pictures that people look at: mask, overlay, and input beside mask.
//!
//! # Source
//!
//! Classes are coloured by *inferno*, from the first (black) to the last (pale yellow), by Stéfan van der Walt and Nathaniel
//! Smith for matplotlib (CC0), <https://bids.github.io/colormap/>; the table is that of the crate colorous, which is D3's.

use std::borrow::Cow;

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::mask::Mask;
use crate::image::picture::{Channels, Picture};
use crate::image::{ErrorKind, ImageError};

/// The longer side of each of two pictures side by side, in pixels.
const PANEL: u32 = 512;
/// Around and between them.
const MARGIN: u32 = 24;
/// The height of a title, with the room below it.
const TITLE: u32 = 40;
/// How much of the picture shows through a class in the overlay, in 256ths.
const SEE_THROUGH: u32 = 128;

const WEIGHT: FontWeight = FontWeight::Regular;
const HEIGHT: RasterHeight = RasterHeight::Size24;

/// The colour of a class among so many.
pub(super) fn colour(class: usize, classes: usize) -> [u8; 3] {
    let last = classes.max(2) - 1;
    let colour = colorous::INFERNO.eval_rational(class.min(last) * 255 / last, 256);
    [colour.r, colour.g, colour.b]
}

/// Writes a mask as PNG: a pixel's value is its class's number, and a palette gives it a colour.
pub(super) fn mask_png(mask: &Mask, classes: usize) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let failed =
        |error: png::EncodingError| ImageError::new(ErrorKind::Encode, format!("the mask cannot be written: {error}"));
    let mut encoder = png::Encoder::new(&mut bytes, mask.width, mask.height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let palette: Vec<u8> = (0..classes.clamp(1, 256)).flat_map(|class| colour(class, classes)).collect();
    encoder.set_palette(Cow::Owned(palette));
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&mask.classes).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Puts the colours of all classes but the first over a picture of the mask's size.
pub(super) fn overlay(mut picture: Picture, mask: &Mask, classes: usize) -> Picture {
    let colours: Vec<[u8; 3]> = (0..256).map(|class| colour(class, classes)).collect();
    for (pixel, &class) in picture.data.as_chunks_mut::<3>().0.iter_mut().zip(&mask.classes) {
        if class > 0 {
            for (sample, over) in pixel.iter_mut().zip(colours[usize::from(class)]) {
                let sum = u32::from(*sample) * SEE_THROUGH + u32::from(over) * (256 - SEE_THROUGH);
                *sample = (sum / 256) as u8;
            }
        }
    }
    picture
}

/// The size of each of two pictures side by side: the longer side is [`PANEL`].
pub(super) fn panel((width, height): (u32, u32)) -> (u32, u32) {
    let longer = u64::from(width.max(height).max(1));
    let scaled = |side: u32| (u64::from(side) * u64::from(PANEL) / longer).max(1) as u32;
    (scaled(width), scaled(height))
}

/// Puts a picture beside its mask, each under its title. Both are of a [`panel`]'s size.
pub(super) fn side_by_side(picture: &Picture, mask: &Mask, classes: usize) -> Picture {
    let titles = ["Input Image", "Segmentation Mask"];
    let widest = titles.map(text_width).into_iter().max().unwrap_or(0);
    let column = mask.width.max(widest);
    let mut canvas = Picture::blank(2 * column + 3 * MARGIN, mask.height + TITLE + 2 * MARGIN, Channels::Rgb);
    canvas.data.fill(255);
    let coloured: Vec<u8> = mask.classes.iter().flat_map(|&class| colour(class.into(), classes)).collect();
    let coloured = Picture { width: mask.width, height: mask.height, channels: Channels::Rgb, data: coloured };
    for (number, (title, panel)) in (0..).zip(titles.into_iter().zip([picture, &coloured])) {
        let left = MARGIN + number * (column + MARGIN);
        write(&mut canvas, (left + (column - text_width(title)) / 2, MARGIN), title);
        paste(&mut canvas, (left + (column - panel.width) / 2, MARGIN + TITLE), panel);
    }
    canvas
}

fn text_width(text: &str) -> u32 {
    text.chars().count() as u32 * get_raster_width(WEIGHT, HEIGHT) as u32
}

/// Writes in black.
fn write(canvas: &mut Picture, (left, top): (u32, u32), text: &str) {
    let mut left = left as usize;
    for letter in text.chars() {
        let Some(letter) = get_raster(letter, WEIGHT, HEIGHT) else { continue };
        for (row, line) in letter.raster().iter().enumerate() {
            for (column, ink) in line.iter().enumerate() {
                let at = ((top as usize + row) * canvas.width as usize + left + column) * 3;
                if let Some(pixel) = canvas.data.get_mut(at..at + 3) {
                    pixel.fill(255 - ink);
                }
            }
        }
        left += letter.width();
    }
}

fn paste(canvas: &mut Picture, (left, top): (u32, u32), part: &Picture) {
    let (stride, from) = (canvas.stride(), left as usize * 3);
    let rows = canvas.data.chunks_exact_mut(stride).skip(top as usize);
    for (row, line) in rows.zip(part.data.chunks_exact(part.stride())) {
        row[from..from + line.len()].copy_from_slice(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_run_from_black_to_pale_yellow() {
        // matplotlib's `inferno` at 0, 85, 170 and 255 of 255, times 255; how it is rounded is nobody's matter.
        let expected = [[0.4, 0.1, 3.5], [120.3, 28.4, 109.2], [237.1, 104.9, 37.1], [252.0, 254.8, 164.4]];
        for (class, expected) in (0..).zip(expected) {
            let found = colour(class, 4);
            let is_near =
                found.iter().zip(expected).all(|(&found, expected)| (f64::from(found) - expected).abs() < 1.0);
            assert!(is_near, "{found:?} instead of {expected:?}");
        }
        assert_eq!([colour(0, 2), colour(1, 2)], [[0, 0, 4], [252, 255, 164]]);
        assert_eq!(colour(0, 1), [0, 0, 4]);
    }

    #[test]
    fn a_masks_values_are_its_classes() {
        let mask = Mask { width: 2, height: 1, classes: vec![1, 0] };

        let bytes = mask_png(&mask, 2).unwrap();

        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut values = [9; 2];
        reader.next_frame(&mut values).unwrap();
        assert_eq!(values, [1, 0]);
        assert_eq!(reader.info().palette.as_deref(), Some(&[0, 0, 4, 252, 255, 164][..]));
    }

    #[test]
    fn the_first_class_of_an_overlay_is_the_picture() {
        let picture = Picture { width: 2, height: 1, channels: Channels::Rgb, data: vec![10, 20, 30, 10, 20, 30] };
        let mask = Mask { width: 2, height: 1, classes: vec![0, 1] };

        let overlay = overlay(picture, &mask, 2);

        assert_eq!(overlay.data, [10, 20, 30, 131, 137, 97]);
    }

    #[test]
    fn both_pictures_stand_under_their_titles() {
        let size = panel((100, 3000));
        assert_eq!(size, (17, 512), "narrower than its title");
        let picture = Picture { width: 17, height: 512, channels: Channels::Rgb, data: vec![77; 17 * 512 * 3] };
        let mask = Mask { width: 17, height: 512, classes: vec![1; 17 * 512] };

        let canvas = side_by_side(&picture, &mask, 2);

        let count = |pixel: [u8; 3]| canvas.data.as_chunks::<3>().0.iter().filter(|&&found| found == pixel).count();
        assert!(count([77; 3]) >= 17 * 512 && count([252, 255, 164]) == 17 * 512);
        assert!(count([0; 3]) > 100, "the titles are written");
        assert_eq!(canvas.data[..3], [255; 3]);
    }
}
