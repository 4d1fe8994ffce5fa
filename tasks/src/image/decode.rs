//! From a file to pixels, whole or at a fraction of the size.

use ::image::{ColorType, DynamicImage};

use super::error::{ErrorKind, ImageError};
use super::header::{self, Format, Header, Limits};
use super::jpeg::{self, Eighths};
use super::picture::{Channels, Picture};
use super::resize::{self, Window};
use super::tiff;

/// A decoded picture that may be smaller than its source.
#[derive(Debug)]
pub struct Decoded {
    /// The pixels, not yet upright.
    pub picture: Picture,
    /// The part of the picture that the source covers: less than all of it where a length was rounded up.
    pub window: Window,
    /// Whether the picture is smaller than its source, in eighths.
    pub scale: Eighths,
}

impl Decoded {
    /// Pixels of the picture to a pixel of the source, along rows and along columns.
    pub fn factors(&self, header: &Header) -> (f64, f64) {
        (self.window[2] / f64::from(header.width), self.window[3] / f64::from(header.height))
    }
}

/// Decodes; a JPEG at a fraction, the others whole.
///
/// 16 bits a sample become 8; gray with alpha becomes RGB with alpha; of a film, the first frame.
///
/// # Errors
/// [`ErrorKind::Corrupt`], [`ErrorKind::Unsupported`], [`ErrorKind::TooLarge`].
pub fn decode(bytes: &[u8], header: &Header, limits: &Limits, scale: Eighths) -> Result<Decoded, ImageError> {
    if header.format == Format::Jpeg {
        let (picture, scale) = jpeg::decode(bytes, scale)?;
        let (width, height) = (f64::from(header.width) * scale.factor(), f64::from(header.height) * scale.factor());
        return Ok(Decoded { picture, window: [0.0, 0.0, width, height], scale });
    }
    let picture = match header.format {
        Format::Tiff => tiff::decode(bytes, limits)?,
        other => by_crate_image(bytes, other, limits)?,
    };
    if (picture.width, picture.height) != (header.width, header.height) {
        return Err(ImageError::corrupt(header.format, "its frames have another size than its header says"));
    }
    Ok(Decoded { window: resize::whole(&picture), picture, scale: Eighths::Eight })
}

fn by_crate_image(bytes: &[u8], format: Format, limits: &Limits) -> Result<Picture, ImageError> {
    let decoder = header::decoder(bytes, format, limits)?;
    let image = DynamicImage::from_decoder(decoder).map_err(|e| ImageError::from_decoder(format, e))?;
    let (width, height) = (image.width(), image.height());
    let (channels, data) = match image.color() {
        ColorType::L8 | ColorType::L16 => (Channels::Gray, image.into_luma8().into_raw()),
        ColorType::Rgb8 | ColorType::Rgb16 | ColorType::Rgb32F => (Channels::Rgb, image.into_rgb8().into_raw()),
        ColorType::La8 | ColorType::La16 | ColorType::Rgba8 | ColorType::Rgba16 | ColorType::Rgba32F => {
            (Channels::Rgba, image.into_rgba8().into_raw())
        }
        other => {
            return Err(ImageError::new(ErrorKind::Unsupported, format!("pixels of the kind {other:?} are not read")));
        }
    };
    Ok(Picture { width, height, channels, data })
}
