//! Resizing, by convolution with a filter that widens when it shrinks (as Pillow's does), on one thread.

use fast_image_resize as fir;

use super::error::{ErrorKind, ImageError};
use super::means::{LONGEST_BLOCK, means};
use super::picture::{Channels, Picture};
use super::steps::Filter;

/// A rectangle in pixels, not bound to whole ones: x, y, width, height.
pub type Window = [f64; 4];

/// A filter weighs so many pixels to a new one at most. Weights have 21 bits after the point: of thousands of times as
/// many each is nothing, and the picture black.
const MOST_TO_ONE: f64 = 2048.0;
/// A filter goes along so many pixels at most: its table of weights takes some 60 bytes for each.
const LONGEST: f64 = 1_048_576.0;
/// So many pixels to a new one are left to the filter at least, so that the means before it are not seen.
const LEFT_TO_FILTER: f64 = 4.0;

/// Resizes the part of a picture under a window to a size. Pixels beside the window count where the filter reaches
/// over its edge. Alpha is respected: a transparent pixel lends no colour to its neighbours.
///
/// # Errors
/// [`ErrorKind::BadOption`] if the window does not lie inside the picture.
pub fn resize(picture: &Picture, window: Window, size: (u32, u32), filter: Filter) -> Result<Picture, ImageError> {
    let filter = match filter {
        Filter::Bilinear => fir::FilterType::Bilinear,
        Filter::Bicubic => fir::FilterType::CatmullRom,
        Filter::Lanczos3 => fir::FilterType::Lanczos3,
    };
    convolve(picture, window, size, filter)
}

/// The window that is the picture.
pub fn whole(picture: &Picture) -> Window {
    [0.0, 0.0, f64::from(picture.width), f64::from(picture.height)]
}

pub(super) const fn pixel_type(channels: Channels) -> fir::PixelType {
    match channels {
        Channels::Gray => fir::PixelType::U8,
        Channels::Rgb => fir::PixelType::U8x3,
        Channels::Rgba => fir::PixelType::U8x4,
    }
}

fn convolve(
    picture: &Picture,
    [x, y, width, height]: Window,
    size: (u32, u32),
    filter: fir::FilterType,
) -> Result<Picture, ImageError> {
    let block = (block_before(width, size.0), block_before(height, size.1));
    if block != (1, 1) {
        let reduced = means(picture, block, (0, 0));
        let part = |start: f64, length: f64, block: u32, whole: u32| {
            let start = start / f64::from(block);
            (start, (length / f64::from(block)).min(f64::from(whole) - start))
        };
        let (x, width) = part(x, width, block.0, reduced.width);
        let (y, height) = part(y, height, block.1, reduced.height);
        return convolve(&reduced, [x, y, width, height], size, filter);
    }
    // Columns are resized first. Of a long row that becomes a long column that makes far more than either; rows first
    // then make less than the larger of the two.
    let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
    if pixels(picture.width, size.1) > pixels(picture.width, picture.height).max(pixels(size.0, size.1)) {
        let narrow = convolve(picture, [x, 0.0, width, f64::from(picture.height)], (size.0, picture.height), filter)?;
        return convolve(&narrow, [0.0, y, f64::from(size.0), height], size, filter);
    }
    let failed = |e: &dyn std::fmt::Display| ImageError::new(ErrorKind::BadOption, format!("cannot resize: {e}"));
    let kind = pixel_type(picture.channels);
    let source =
        fir::images::ImageRef::new(picture.width, picture.height, &picture.data, kind).map_err(|e| failed(&e))?;
    let mut target = fir::images::Image::new(size.0, size.1, kind);
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter)).crop(x, y, width, height);
    fir::Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(&e))?;
    Ok(Picture { width: size.0, height: size.1, channels: picture.channels, data: target.into_vec() })
}

/// How many pixels become one by their mean before a filter makes `wanted` of a length.
fn block_before(length: f64, wanted: u32) -> u32 {
    let factor = length / f64::from(wanted);
    let needed = (factor / MOST_TO_ONE).max((length / LONGEST).ceil());
    needed.min(factor / LEFT_TO_FILTER).clamp(1.0, f64::from(LONGEST_BLOCK)) as u32
}

/// The size of a picture of `size` shrunk to fit within `bound`, as Pillow's `thumbnail` has it: the side that is not
/// bound is rounded to what keeps the aspect best. Never larger than the picture.
pub fn fit((width, height): (u32, u32), (bound_width, bound_height): (u32, u32)) -> (u32, u32) {
    if bound_width >= width && bound_height >= height {
        return (width, height);
    }
    let aspect = f64::from(width) / f64::from(height);
    let best = |length: f64, error: &dyn Fn(f64) -> f64| {
        let (low, high) = (length.floor(), length.ceil());
        (if error(high) < error(low) { high } else { low }).max(1.0) as u32
    };
    let (x, y) = (f64::from(bound_width), f64::from(bound_height));
    if x / y >= aspect {
        (best(y * aspect, &|n| (aspect - n / y).abs()), bound_height)
    } else {
        (bound_width, best(x / aspect, &|n| if n == 0.0 { 0.0 } else { (aspect - x / n).abs() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_within_its_bound_and_is_never_enlarged() {
        assert_eq!(fit((6000, 4000), (1200, 1200)), (1200, 800));
        assert_eq!(fit((4000, 6000), (1200, 1200)), (800, 1200));
        assert_eq!(fit((451, 300), (320, 320)), (320, 213));
        assert_eq!(fit((300, 200), (320, 320)), (300, 200));
        assert_eq!(fit((10_000, 3), (100, 100)), (100, 1));
    }

    #[test]
    fn only_what_is_extremely_long_is_reduced_before_the_filter() {
        for (length, wanted) in
            [(4000.0, 1), (65_535.0, 20), (1_000_000.0, 65_535), (3_000_000.0, 3_000_000), (9.0, 99)]
        {
            assert_eq!(block_before(length, wanted), 1, "{length} to {wanted}");
        }
        assert_eq!(block_before(5e6, 10), 244);
        assert_eq!(block_before(1e8, 65_535), 96);
        assert_eq!(block_before(6e7, 1), 29_296);
    }

    #[test]
    fn a_slender_picture_keeps_its_brightness() {
        for channels in [Channels::Gray, Channels::Rgb, Channels::Rgba] {
            let mut picture = Picture::blank(1, 1_500_000, channels);
            picture.data.fill(200);

            let small = resize(&picture, whole(&picture), (1, 2), Filter::Lanczos3).unwrap();

            assert!(small.data.iter().all(|sample| sample.abs_diff(200) <= 1), "{:?}", small.data);
        }
    }

    #[test]
    fn a_transparent_pixel_lends_no_colour() {
        let data = vec![200, 10, 10, 255, 0, 255, 0, 0];
        let picture = Picture { width: 2, height: 1, channels: Channels::Rgba, data };

        let one = resize(&picture, whole(&picture), (1, 1), Filter::Bilinear).unwrap();

        assert!(one.data[0].abs_diff(200) <= 2 && one.data[1].abs_diff(10) <= 2, "{:?}", one.data);
        assert!(one.data[3].abs_diff(128) <= 1);
    }
}
