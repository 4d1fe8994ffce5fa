//! Steps on the values of pixels: grayscale, brightness, contrast, sharpening. They mean what Pillow's
//! `convert("L")`, `ImageEnhance` and `UnsharpMask` mean, and agree with them to one level.

use super::blur;
use super::error::ImageError;
use super::picture::{Channels, Picture};
use super::steps::Sharpen;

/// The luma of a pixel.
///
/// # Source
/// ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B, in the 16-bit fixed point that Pillow uses.
fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// Takes the colours away. Alpha stays.
pub fn grayscale(mut picture: Picture) -> Picture {
    match picture.channels {
        Channels::Gray => picture,
        Channels::Rgb => {
            let data = picture.data.as_chunks::<3>().0.iter().map(|p| luma(p)).collect();
            Picture { channels: Channels::Gray, data, ..picture }
        }
        Channels::Rgba => {
            for pixel in picture.data.as_chunks_mut::<4>().0 {
                let value = luma(pixel);
                pixel[..3].fill(value);
            }
            picture
        }
    }
}

/// Multiplies every sample by a factor.
pub fn brightness(picture: &mut Picture, factor: f64) {
    stretch(picture, factor, 0.0);
}

/// Multiplies every sample's distance to the mean luma by a factor.
pub fn contrast(picture: &mut Picture, factor: f64) {
    let sum: u64 = match picture.channels {
        Channels::Gray => picture.data.iter().map(|&v| u64::from(v)).sum(),
        Channels::Rgb | Channels::Rgba => {
            picture.data.chunks_exact(picture.channels.count()).map(|p| u64::from(luma(p))).sum()
        }
    };
    let pixels = u64::from(picture.width) * u64::from(picture.height);
    let mean = (sum as f64 / pixels as f64).round();
    stretch(picture, factor, mean);
}

fn stretch(picture: &mut Picture, factor: f64, around: f64) {
    let table = std::array::from_fn(|v| (around + (v as f64 - around) * factor).round().clamp(0.0, 255.0) as u8);
    picture.map_samples(&table);
}

/// Adds to every sample its distance to the blurred picture, `amount` times. Alpha stays.
///
/// # Errors
/// As [`blur::gaussian`].
pub fn sharpen(mut picture: Picture, by: Sharpen, finest: f64) -> Result<Picture, ImageError> {
    let blurred = blur::gaussian(picture.clone(), (by.sigma, by.sigma), finest)?;
    let amount = by.amount as f32;
    let has_alpha = picture.channels == Channels::Rgba;
    for (i, (sample, &soft)) in picture.data.iter_mut().zip(&blurred.data).enumerate() {
        if !(has_alpha && i % 4 == 3) {
            let value = f32::from(*sample);
            *sample = (value + (value - f32::from(soft)) * amount).round().clamp(0.0, 255.0) as u8;
        }
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(a: u8, b: u8) -> Picture {
        Picture { width: 2, height: 1, channels: Channels::Rgb, data: vec![a, a, a, b, b, b] }
    }

    #[test]
    fn brightness_multiplies_and_stops_at_white() {
        let mut picture = two(100, 200);
        brightness(&mut picture, 1.5);
        assert_eq!(picture, two(150, 255));
    }

    #[test]
    fn contrast_spreads_around_the_mean() {
        let mut picture = two(100, 150);
        contrast(&mut picture, 2.0);
        assert_eq!(picture, two(75, 175));
        contrast(&mut picture, 0.0);
        assert_eq!(picture, two(125, 125));
    }

    #[test]
    fn grayscale_weighs_green_most_and_keeps_alpha() {
        let picture = Picture { width: 1, height: 1, channels: Channels::Rgba, data: vec![0, 255, 0, 9] };
        assert_eq!(grayscale(picture).data, [150, 150, 150, 9]);
    }

    #[test]
    fn sharpening_leaves_flat_parts_alone() {
        let mut picture = Picture::blank(40, 40, Channels::Gray);
        picture.data.fill(77);
        let by = Sharpen { sigma: 2.0, amount: 3.0 };
        assert_eq!(sharpen(picture.clone(), by, blur::FINEST).unwrap(), picture);
    }
}
