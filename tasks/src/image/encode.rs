//! From pixels to a file.
//!
//! Alpha is kept by PNG, WebP, TIFF and GIF (there on or off, whichever is nearer); for JPEG and BMP the picture is put
//! on white. No colour profile is written: pixels are sRGB. WebP is written without loss: no encoder with loss is known in
//! Rust that needs no further library in C.

use ::image::codecs::bmp::BmpEncoder;
use ::image::codecs::gif::GifEncoder;
use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};
use ::image::codecs::webp::WebPEncoder;
use ::image::{ExtendedColorType, ImageEncoder, ImageResult};

use super::error::{ErrorKind, ImageError};
use super::header::Format;
use super::jpeg;
use super::picture::{Channels, Picture};
use super::tiff;

/// How hard the GIF encoder looks for its 256 colours: 1 (best) to 30 (fastest); the encoder's own default is 1, which
/// takes some six times as long.
const GIF_SPEED: i32 = 10;

/// Writes a picture; `quality`, 1 to 100, is for JPEG.
///
/// # Errors
/// [`ErrorKind::Encode`], such as for a side that the format cannot have (GIF and JPEG 65,535, WebP 16,384).
pub fn encode(picture: Picture, format: Format, quality: u8) -> Result<Vec<u8>, ImageError> {
    encode_with(picture, format, quality, None)
}

/// As [`encode`]; with EXIF where the format has room for it (JPEG, PNG and WebP).
pub(super) fn encode_with(
    picture: Picture,
    format: Format,
    quality: u8,
    exif: Option<Vec<u8>>,
) -> Result<Vec<u8>, ImageError> {
    let picture = match format {
        Format::Jpeg => {
            let jpeg = jpeg::encode(&picture.on_white(), quality)?;
            return match exif {
                Some(exif) => jpeg::with_exif(&jpeg, &exif),
                None => Ok(jpeg),
            };
        }
        Format::Bmp => picture.on_white(),
        Format::Gif if picture.channels == Channels::Gray => picture.into_rgb(),
        Format::Gif => clear_or_opaque(picture),
        _ => picture,
    };
    let colour = match picture.channels {
        Channels::Gray => ExtendedColorType::L8,
        Channels::Rgb => ExtendedColorType::Rgb8,
        Channels::Rgba => ExtendedColorType::Rgba8,
    };
    let mut bytes = Vec::new();
    let (data, width, height) = (&picture.data[..], picture.width, picture.height);
    let failed = |e: &dyn std::fmt::Display| {
        ImageError::new(ErrorKind::Encode, format!("{width}×{height} cannot be written as {}: {e}", format.name()))
    };
    let written = match format {
        Format::Tiff => return tiff::encode(&picture).map_err(|e| failed(&e)),
        Format::Png => {
            let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
            write(encoder, exif, &picture, colour)
        }
        Format::Webp => write(WebPEncoder::new_lossless(&mut bytes), exif, &picture, colour),
        Format::Gif => GifEncoder::new_with_speed(&mut bytes, GIF_SPEED).encode(data, width, height, colour),
        Format::Bmp | Format::Jpeg => BmpEncoder::new(&mut bytes).write_image(data, width, height, colour),
    };
    written.map_err(|e| failed(&e))?;
    Ok(bytes)
}

fn write(
    mut encoder: impl ImageEncoder,
    exif: Option<Vec<u8>>,
    picture: &Picture,
    colour: ExtendedColorType,
) -> ImageResult<()> {
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).map_err(::image::ImageError::Unsupported)?;
    }
    encoder.write_image(&picture.data, picture.width, picture.height, colour)
}

/// Rounds alpha to none or all. Of the encoder itself, whatever is not quite clear becomes opaque.
fn clear_or_opaque(mut picture: Picture) -> Picture {
    if picture.channels == Channels::Rgba {
        for pixel in picture.data.as_chunks_mut::<4>().0 {
            *pixel = if pixel[3] < 128 { [0; 4] } else { [pixel[0], pixel[1], pixel[2], 255] };
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::decode;
    use crate::image::header::{Header, Limits};
    use crate::image::jpeg::Eighths;

    fn picture(channels: Channels) -> Picture {
        let mut picture = Picture::blank(8, 4, channels);
        picture.data.fill(200);
        picture
    }

    #[test]
    fn every_format_is_read_again_with_its_channels() {
        let formats = [Format::Jpeg, Format::Png, Format::Webp, Format::Gif, Format::Tiff, Format::Bmp];
        for channels in [Channels::Gray, Channels::Rgb, Channels::Rgba] {
            for format in formats {
                let bytes = encode(picture(channels), format, 90).unwrap();
                let limits = Limits::default();
                let header = Header::read(&bytes, &limits).unwrap();
                let again = decode(&bytes, &header, &limits, Eighths::Eight).unwrap().picture;

                assert_eq!((header.format, again.width, again.height), (format, 8, 4));
                let keeps_alpha = !matches!(format, Format::Jpeg | Format::Bmp);
                if channels == Channels::Rgba && keeps_alpha {
                    assert_eq!(again.channels, Channels::Rgba, "{format:?}");
                } else if format != Format::Gif {
                    assert_ne!(again.channels, Channels::Rgba, "{format:?}");
                }
            }
        }
    }

    #[test]
    fn a_gif_is_clear_where_most_is_clear() {
        let data = vec![200, 0, 0, 1, 200, 0, 0, 127, 0, 200, 0, 128, 0, 0, 200, 255];
        let bytes = encode(Picture { width: 4, height: 1, channels: Channels::Rgba, data }, Format::Gif, 0).unwrap();

        let limits = Limits::default();
        let header = Header::read(&bytes, &limits).unwrap();
        let again = decode(&bytes, &header, &limits, Eighths::Eight).unwrap().picture;

        assert_eq!(again.channels, Channels::Rgba);
        assert_eq!(again.data[8..], [0, 200, 0, 255, 0, 0, 200, 255]);
        assert_eq!([again.data[3], again.data[7]], [0, 0]);
    }

    #[test]
    fn a_side_that_the_format_cannot_have_is_an_error() {
        let long = Picture::blank(70_000, 1, Channels::Rgb);
        for format in [Format::Jpeg, Format::Webp, Format::Gif] {
            assert_eq!(encode(long.clone(), format, 90).unwrap_err().kind(), ErrorKind::Encode, "{format:?}");
        }
    }
}
