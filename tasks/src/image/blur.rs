//! Gaussian blur by its standard deviation, as Pillow's `GaussianBlur` counts it; beyond the edge, the edge goes on.
//!
//! A wide blur leaves nothing that a smaller picture could not hold. So the picture is first reduced by means of
//! 2, 4, 8, … pixels, as long as the standard deviation stays over `finest` pixels there; it is blurred by a true
//! Gaussian of what variance remains, and enlarged again. So that the outermost pixel goes on beyond the edge, and not
//! the mean of the outermost ones, there is one more reduced pixel on every side, made of it alone.
//!
//! With [`FINEST`] that differs from the Gaussian at full size by a PSNR of about 50 dB, at hard edges too; at worst, of
//! black and white stripes as fine as the reduced pixels, by 36 dB. With [`FINEST_EXACT`] it is two levels at most.

use fast_image_resize::MulDiv;
use fast_image_resize::images::Image;
use libblur::{
    BlurImage, BlurImageMut, ConvolutionMode, EdgeMode, EdgeMode2D, FastBlurChannels, GaussianBlurParams,
    ThreadingPolicy,
};

use super::error::{ErrorKind, ImageError};
use super::means::means;
use super::picture::{Channels, Picture};
use super::resize::{self, Window};
use super::steps::Filter;

/// The smallest standard deviation that reducing leaves, in pixels: for work as usual.
pub const FINEST: f64 = 3.0;
/// The same where exactness was asked for.
pub const FINEST_EXACT: f64 = 32.0;

/// A standard deviation that changes no sample by as much as half a level.
const NOTHING: f64 = 0.15;
/// Reducing leaves at least so many pixels to a side.
const LEAST_SIDE: u32 = 16;
/// Beyond so many sides, a wider blur changes little; it bounds the work on slender pictures.
const MAX_SIDES: f64 = 8.0;
/// The kernel reaches so many standard deviations: 0.1 % of a Gaussian lies beyond.
const REACH: f64 = 3.3;

/// Blurs with one standard deviation along rows and one along columns, in pixels.
///
/// The time hardly depends on the standard deviation. `finest` is [`FINEST`] or [`FINEST_EXACT`].
///
/// # Errors
/// None in practice: the kernels are made here.
pub fn gaussian(picture: Picture, sigma: (f64, f64), finest: f64) -> Result<Picture, ImageError> {
    let (size, whole) = ((picture.width, picture.height), resize::whole(&picture));
    let (blurred, window) = small(picture, whole, sigma, finest)?;
    if window == whole {
        return Ok(blurred);
    }
    resize::resize(&blurred, window, size, Filter::Bicubic)
}

/// Blurs as [`gaussian`] does, and leaves the picture at the size to which it was reduced, for a later step that
/// resizes it anyway. Gives the part of it that `window` has become, too.
pub(super) fn small(
    picture: Picture,
    window: Window,
    sigma: (f64, f64),
    finest: f64,
) -> Result<(Picture, Window), ImageError> {
    let sides = (picture.width, picture.height);
    let sigma = (sigma.0.min(MAX_SIDES * f64::from(sides.0)), sigma.1.min(MAX_SIDES * f64::from(sides.1)));
    if sigma.0 < NOTHING && sigma.1 < NOTHING {
        return Ok((picture, window));
    }
    let block = (reduction(sides.0, sigma.0, finest), reduction(sides.1, sigma.1, finest));
    if block == (1, 1) {
        return Ok((direct(picture, sigma)?, window));
    }
    let remaining = |block: u32, sigma: f64| {
        let block = f64::from(block);
        ((sigma * sigma - (block * block - 1.0) / 12.0).max(0.0)).sqrt() / block
    };
    let margin = (u32::from(block.0 > 1), u32::from(block.1 > 1));
    let reduced = means(&picture, block, margin);
    drop(picture);
    let blurred = direct(reduced, (remaining(block.0, sigma.0), remaining(block.1, sigma.1)))?;
    let (across, down) = (f64::from(block.0), f64::from(block.1));
    let [x, y, width, height] = [window[0] / across, window[1] / down, window[2] / across, window[3] / down];
    Ok((blurred, [x + f64::from(margin.0), y + f64::from(margin.1), width, height]))
}

/// How many pixels of a side may become one before the blur.
fn reduction(side: u32, sigma: f64, finest: f64) -> u32 {
    let mut factor = 1;
    while sigma / f64::from(factor * 2) >= finest && side / (factor * 2) >= LEAST_SIDE {
        factor *= 2;
    }
    factor
}

/// Blurs at this size. Colours under alpha count by their alpha.
fn direct(mut picture: Picture, sigma: (f64, f64)) -> Result<Picture, ImageError> {
    let failed = |e: &dyn std::fmt::Display| ImageError::new(ErrorKind::BadOption, format!("cannot blur: {e}"));
    let (width, height) = (picture.width, picture.height);
    let has_alpha = picture.channels == Channels::Rgba;
    let kind = resize::pixel_type(picture.channels);
    if has_alpha {
        let mut image = Image::from_slice_u8(width, height, &mut picture.data, kind).map_err(|e| failed(&e))?;
        MulDiv::new().multiply_alpha_inplace(&mut image).map_err(|e| failed(&e))?;
    }
    let channels = match picture.channels {
        Channels::Gray => FastBlurChannels::Plane,
        Channels::Rgb => FastBlurChannels::Channels3,
        Channels::Rgba => FastBlurChannels::Channels4,
    };
    let kernel = |sigma: f64| ((sigma * REACH).ceil() as u32) * 2 + 1;
    let (x, y) = (sigma.0.max(NOTHING), sigma.1.max(NOTHING));
    let params = GaussianBlurParams::new_asymmetric(kernel(x), x, kernel(y), y);
    let edge = EdgeMode2D::new(EdgeMode::Clamp);
    let mut blurred = Picture::blank(width, height, picture.channels);
    let source = BlurImage::borrow(&picture.data, width, height, channels);
    let mut target = BlurImageMut::borrow(&mut blurred.data, width, height, channels);
    // The fixed-point mode is a third faster on large pictures, and darkens by some levels where the kernel is wide.
    let mode = ConvolutionMode::Exact;
    libblur::gaussian_blur(&source, &mut target, params, edge, ThreadingPolicy::Single, mode)
        .map_err(|e| failed(&e))?;
    if has_alpha {
        let mut image = Image::from_slice_u8(width, height, &mut blurred.data, kind).map_err(|e| failed(&e))?;
        MulDiv::new().divide_alpha_inplace(&mut image).map_err(|e| failed(&e))?;
    }
    Ok(blurred)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::measure::psnr;

    fn stripes(width: u32, height: u32, channels: Channels) -> Picture {
        let mut picture = Picture::blank(width, height, channels);
        for (i, sample) in picture.data.iter_mut().enumerate() {
            *sample = ((i * 2_654_435_761) >> 7) as u8 / 2 + if i / 900 % 3 == 0 { 120 } else { 0 };
        }
        picture
    }

    #[test]
    fn a_wide_blur_at_a_reduced_size_is_the_blur_at_full_size() {
        let picture = stripes(400, 300, Channels::Rgb);
        for sigma in [8.0, 15.0, 31.0] {
            let full = gaussian(picture.clone(), (sigma, sigma), f64::INFINITY).unwrap();
            let quick = gaussian(picture.clone(), (sigma, sigma), FINEST).unwrap();

            let distance = psnr(&quick, &full);

            assert!(distance > 47.0, "{distance:.1} dB at {sigma}");
        }
    }

    #[test]
    fn beyond_the_edge_the_outermost_pixel_goes_on() {
        for (width, height) in [(400, 300), (403, 301), (150, 100), (33, 47)] {
            let mut picture = Picture::blank(width, height, Channels::Gray);
            picture.data.fill(10);
            for (i, sample) in picture.data.iter_mut().enumerate() {
                let (x, y) = (i as u32 % width, i as u32 / width);
                if x == 0 || y == 0 || x == width - 1 || y == height - 1 {
                    *sample = 255;
                }
            }
            for sigma in [6.0, 15.0, 64.0] {
                let full = gaussian(picture.clone(), (sigma, sigma), f64::INFINITY).unwrap();
                let quick = gaussian(picture.clone(), (sigma, sigma), FINEST).unwrap();

                let far = quick.data.iter().zip(&full.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();

                assert!(far <= 4, "{far} levels at {sigma} of {width}×{height}");
            }
        }
    }

    #[test]
    fn an_exact_blur_differs_by_two_levels_at_most_however_wide() {
        let picture = stripes(400, 300, Channels::Gray);
        for sigma in [64.0, 150.0] {
            let full = gaussian(picture.clone(), (sigma, sigma), f64::INFINITY).unwrap();
            let exact = gaussian(picture.clone(), (sigma, sigma), FINEST_EXACT).unwrap();

            let far = exact.data.iter().zip(&full.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();

            assert!(far <= 2, "{far} levels at {sigma}");
        }
    }

    #[test]
    fn a_blur_left_small_covers_what_the_window_did() {
        let picture = stripes(400, 300, Channels::Gray);

        let (small, window) = small(picture, [8.0, 0.0, 392.0, 296.0], (13.0, 2.0), FINEST).unwrap();

        assert_eq!((small.width, small.height), (102, 300));
        assert_eq!(window, [3.0, 0.0, 98.0, 296.0]);
    }

    #[test]
    fn a_flat_picture_stays_as_it_is_whatever_its_shape() {
        for (width, height) in [(1, 1), (1, 700), (700, 1), (3, 2), (64, 64)] {
            for channels in [Channels::Gray, Channels::Rgb, Channels::Rgba] {
                let mut picture = Picture::blank(width, height, channels);
                picture.data.fill(255);
                for sigma in [0.01, 0.4, 3.0, 100.0, 1000.0] {
                    let blurred = gaussian(picture.clone(), (sigma, sigma), FINEST).unwrap();
                    assert!(blurred.data.iter().all(|&v| v >= 254), "{width}×{height} {channels:?} {sigma}");
                }
            }
        }
    }
}
