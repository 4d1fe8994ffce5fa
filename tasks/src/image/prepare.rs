//! From a file to the pixels that a network takes: upright, of one size, 8 bits a sample.
//!
//! The result is that of Pillow's `resize` and a centre crop to within two levels where the picture is decoded whole.
//! A JPEG is decoded at a fraction where that leaves enough pixels for the filter ([`LEFT_TO_SHRINK`]). Only the part of the
//! picture that the crop keeps is resized. The colour profile is left aside, as the pipelines do that networks are
//! trained with.

use super::decode;
use super::error::{ErrorKind, ImageError};
use super::header::{Header, Limits};
use super::jpeg::Eighths;
use super::picture::Picture;
use super::plan::LEFT_TO_SHRINK;
use super::resize;
use super::steps::Filter;

/// How far the widest filter reaches, in pixels of the larger of its two sides.
const FARTHEST: f64 = 3.0;

/// To which size a picture is brought before the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The shorter side gets this length; the longer one keeps the aspect, rounded down (as torchvision's `Resize`).
    ShortSide(u32),
    /// Exactly this width and height, whatever the aspect.
    Exact(u32, u32),
}

/// The order of the samples of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// What a network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparation {
    /// The size before the crop.
    pub resize: Target,
    /// How pixels are weighed.
    pub filter: Filter,
    /// Width and height of the part in the centre that is kept; all of it without.
    pub crop: Option<(u32, u32)>,
    /// The order of the samples.
    pub channels: Order,
}

impl Preparation {
    /// The size of the result, where it is the same for all pictures: not for a short side without a crop.
    pub const fn size(&self) -> Option<(u32, u32)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Target::Exact(width, height)) => Some((width, height)),
            (None, Target::ShortSide(_)) => None,
        }
    }
}

/// What is known of a picture once it is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Width of the upright source in pixels.
    pub width: u32,
    /// Height of the upright source in pixels.
    pub height: u32,
    /// Width and height of the result in pixels.
    pub size: (u32, u32),
}

/// Prepares a picture and appends it to `out`, which a failure leaves as it was.
///
/// # Shape
/// appended: height × width × 3 bytes, rows from the top, samples interleaved; alpha is put on white, gray repeated
///
/// # Errors
/// Those of a file ([`ErrorKind::Empty`] to [`ErrorKind::TooLarge`]); [`ErrorKind::BadOption`] for a size of 0 or a
/// crop larger than the resized picture.
pub fn prepare(
    bytes: &[u8],
    preparation: &Preparation,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<Prepared, ImageError> {
    let header = Header::read(bytes, limits)?;
    let source = header.size();
    let size = size_before_crop(source, preparation.resize);
    let [x, y, width, height] = centre(size, preparation.crop)?;
    limits.check("the resized picture", (width, height))?; // what lies beside the crop is never made

    // From here on in the directions of the stored picture; the small result is turned at the end.
    let part = header.upright.source_of([x, y, width, height], size);
    let size = header.upright.size(size);
    let scale = Eighths::smallest(|scale| scale.leaves(LEFT_TO_SHRINK, (header.width, header.height), size));
    let decoded = decode::decode(bytes, &header, limits, scale)?;
    let (across, down) = (decoded.window[2] / f64::from(size.0), decoded.window[3] / f64::from(size.1));
    let [x, y, width, height] = part.map(f64::from);
    let window = clamped([x * across, y * down, width * across, height * down], decoded.window);
    let picture = rows_first(decoded.picture, window, (part[2], part[3]), preparation.filter, limits)?;
    let picture = header.upright.apply(picture.into_rgb());
    let start = out.len();
    out.extend_from_slice(&picture.data);
    if preparation.channels == Order::Bgr {
        for pixel in out[start..].as_chunks_mut::<3>().0 {
            pixel.swap(0, 2);
        }
    }
    Ok(Prepared { width: source.0, height: source.1, size: (picture.width, picture.height) })
}

/// Resizes along rows and then along columns, as Pillow does: the other order rounds and clips other values between
/// the two, which at sharp edges makes four levels. Of a slender picture rows may come to more than the limit; its
/// columns then come first, which make less than picture or result.
fn rows_first(
    picture: Picture,
    [x, y, width, height]: resize::Window,
    size: (u32, u32),
    filter: Filter,
    limits: &Limits,
) -> Result<Picture, ImageError> {
    let reach = FARTHEST * (height / f64::from(size.1)).max(1.0) + 1.0;
    let top = (y - reach).floor().max(0.0);
    let rows = (y + height + reach).ceil().min(f64::from(picture.height)) - top;
    if limits.check("the picture between", (size.0, rows as u32)).is_err() {
        return resize::resize(&picture, [x, y, width, height], size, filter);
    }
    let wide = resize::resize(&picture, [x, top, width, rows], (size.0, rows as u32), filter)?;
    resize::resize(&wide, [0.0, y - top, f64::from(size.0), height], size, filter)
}

/// Keeps rounding from pushing a window over the edge.
fn clamped([x, y, width, height]: resize::Window, whole: resize::Window) -> resize::Window {
    [x, y, width.min(whole[2] - x), height.min(whole[3] - y)]
}

fn size_before_crop((width, height): (u32, u32), target: Target) -> (u32, u32) {
    let long = |short: u32, longer: u32, shorter: u32| {
        u32::try_from(u64::from(short) * u64::from(longer) / u64::from(shorter)).unwrap_or(u32::MAX)
    };
    match target {
        Target::Exact(width, height) => (width, height),
        Target::ShortSide(short) if width <= height => (short, long(short, height, width)),
        Target::ShortSide(short) => (long(short, width, height), short),
    }
}

/// The rectangle in the centre, as torchvision's `CenterCrop` places it: half pixels go to the even side.
fn centre(size: (u32, u32), crop: Option<(u32, u32)>) -> Result<[u32; 4], ImageError> {
    let (width, height) = crop.unwrap_or(size);
    let refused = |message: String| Err(ImageError::new(ErrorKind::BadOption, message));
    if width == 0 || height == 0 || size.0 == 0 || size.1 == 0 {
        return refused("a size of 0 pixels".to_owned());
    }
    if width > size.0 || height > size.1 {
        return refused(format!("a crop of {width}×{height} from a picture resized to {}×{}", size.0, size.1));
    }
    let start = |whole: u32, part: u32| (f64::from(whole - part) / 2.0).round_ties_even() as u32;
    Ok([start(size.0, width), start(size.1, height), width, height])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Format;
    use crate::image::encode::encode;
    use crate::image::picture::Channels;

    #[test]
    fn the_short_side_rules_and_the_long_one_follows() {
        assert_eq!(size_before_crop((451, 300), Target::ShortSide(256)), (384, 256));
        assert_eq!(size_before_crop((300, 451), Target::ShortSide(256)), (256, 384));
        assert_eq!(size_before_crop((5, 5), Target::Exact(7, 9)), (7, 9));
    }

    #[test]
    fn of_a_slender_picture_only_the_crop_counts() {
        let mut picture = Picture::blank(2, 30_000, Channels::Gray);
        picture.data.fill(200);
        let png = encode(picture, Format::Png, 0).unwrap();
        let mut preparation = Preparation {
            resize: Target::ShortSide(256),
            filter: Filter::Bilinear,
            crop: Some((224, 224)),
            channels: Order::Rgb,
        };
        let mut out = Vec::new();

        let prepared = prepare(&png, &preparation, &Limits::default(), &mut out).unwrap();
        assert_eq!((prepared.size, out.len()), ((224, 224), 224 * 224 * 3));
        assert!(out.iter().all(|sample| sample.abs_diff(200) < 2));

        preparation.crop = None;
        let error = prepare(&png, &preparation, &Limits::default(), &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn the_crop_lies_in_the_centre() {
        assert_eq!(centre((384, 256), Some((224, 224))).unwrap(), [80, 16, 224, 224]);
        assert_eq!(centre((225, 227), Some((224, 224))).unwrap(), [0, 2, 224, 224]);
        assert_eq!(centre((100, 300), Some((224, 224))).unwrap_err().kind(), ErrorKind::BadOption);
    }
}
