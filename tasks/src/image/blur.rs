//! Gaussian blur by its standard deviation, as Pillow's `GaussianBlur` counts it; beyond the edge, the edge goes on.
//!
//! A wide blur leaves nothing that a smaller picture could not hold. So the picture is first reduced by means of
//! 2, 4, 8, … pixels, as long as the standard deviation stays over `finest` pixels there; it is blurred by a true
//! Gaussian of what variance remains, and enlarged again. Inside the picture that differs from the Gaussian at full size
//! by a PSNR over 50 dB; near the edges by more where the outermost row is unlike its neighbours, since there the mean of
//! the outermost pixels goes on and not the outermost pixel alone.

use fast_image_resize::MulDiv;
use fast_image_resize::images::Image;
use libblur::{
    BlurImage, BlurImageMut, ConvolutionMode, EdgeMode, EdgeMode2D, FastBlurChannels, GaussianBlurParams,
    ThreadingPolicy,
};

use super::error::{ErrorKind, ImageError};
use super::picture::{Channels, Picture};
use super::resize;
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
    let sides = (picture.width, picture.height);
    let sigma = (sigma.0.min(MAX_SIDES * f64::from(sides.0)), sigma.1.min(MAX_SIDES * f64::from(sides.1)));
    if sigma.0 < NOTHING && sigma.1 < NOTHING {
        return Ok(picture);
    }
    let small = (reduced(sides.0, sigma.0, finest), reduced(sides.1, sigma.1, finest));
    if small == sides {
        return direct(picture, sigma);
    }
    let remaining = |side: u32, small: u32, sigma: f64| {
        let factor = f64::from(small) / f64::from(side);
        (sigma * sigma * factor * factor - (1.0 - factor * factor) / 12.0).max(0.0).sqrt()
    };
    let sigma = (remaining(sides.0, small.0, sigma.0), remaining(sides.1, small.1, sigma.1));
    let blurred = direct(resize::mean(&picture, small)?, sigma)?;
    drop(picture);
    resize::resize(&blurred, resize::whole(&blurred), sides, Filter::Bicubic)
}

/// The length to which a side may be reduced before the blur.
fn reduced(side: u32, sigma: f64, finest: f64) -> u32 {
    let mut factor = 1;
    while sigma / f64::from(factor * 2) >= finest && side / (factor * 2) >= LEAST_SIDE {
        factor *= 2;
    }
    side.div_ceil(factor)
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

            let margin = 2 * sigma as u32; // further in, the edges weigh nothing
            let inside = |p: &Picture| p.crop(margin, margin, p.width - 2 * margin, p.height - 2 * margin).unwrap();
            let distance = psnr(&inside(&quick), &inside(&full));

            assert!(distance > 50.0, "{distance:.1} dB at {sigma}");
        }
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
