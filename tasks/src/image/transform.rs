//! The whole way of one picture: header, head of the plan, further steps, file.

use super::adjust;
use super::blur;
use super::colour;
use super::encode;
use super::error::ImageError;
use super::header::{Header, Limits};
use super::metadata;
use super::picture::Picture;
use super::plan::{self, Plan};
use super::resize;
use super::steps::{Bound, Filter, Resize, Step};

/// A new picture as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transformed {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its media type, such as `image/jpeg`.
    pub media_type: &'static str,
    /// The usual end of its name, without the dot.
    pub extension: &'static str,
    /// Pixels to a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Carries a plan out on the bytes of a picture. It computes on the calling thread alone; between two steps it asks
/// `is_cancelled`.
///
/// # Errors
/// All of [`ErrorKind`](super::ErrorKind). Decoders of damaged files may also panic; the caller catches that.
pub fn transform(
    bytes: &[u8],
    plan: &Plan,
    limits: &Limits,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Transformed, ImageError> {
    let go_on = || if is_cancelled() { Err(ImageError::stopped()) } else { Ok(()) };
    go_on()?;
    let mut header = Header::read(bytes, limits)?;
    let exif = if plan.keeps_metadata() { metadata::exif(bytes, header.format, limits) } else { None };
    let had_profile = header.profile.is_some();
    plan.size_after(header.size(), limits)?;
    let head = plan.head(&header);
    let mut picture = head.carry_out(bytes, &mut header, limits, plan.finest())?;
    for step in &plan.steps()[head.steps..] {
        go_on()?;
        if sees_colours(step) {
            picture = colour::to_srgb(picture, header.profile.take().as_deref());
        }
        picture = carry_out(step, picture, plan.finest())?;
    }
    go_on()?;
    picture = colour::to_srgb(picture, header.profile.as_deref());
    let (width, height) = (picture.width, picture.height);
    let format = plan.format(header.format);
    let exif = exif.and_then(|exif| metadata::adapted(exif, (width, height), had_profile));
    let bytes = encode::encode_with(picture, format, plan.quality(), exif)?;
    Ok(Transformed { bytes, media_type: format.media_type(), extension: format.extension(), width, height })
}

/// Whether a step weighs colours, so that they must be sRGB before it. For the others it can wait until the picture
/// is small.
const fn sees_colours(step: &Step) -> bool {
    matches!(step, Step::Grayscale | Step::Sharpen(_) | Step::Brightness(_) | Step::Contrast(_))
}

fn carry_out(step: &Step, mut picture: Picture, finest: f64) -> Result<Picture, ImageError> {
    let resized = |picture: Picture, size, filter| match (picture.width, picture.height) == size {
        true => Ok(picture),
        false => resize::resize(&picture, resize::whole(&picture), size, filter),
    };
    match *step {
        Step::Blur(sigma) => blur::gaussian(picture, (sigma, sigma), finest),
        Step::Thumbnail(Bound(width, height)) => {
            let size = resize::fit((picture.width, picture.height), (width, height));
            resized(picture, size, Filter::Lanczos3)
        }
        Step::Resize(Resize { size, filter }) => resized(picture, size, filter),
        Step::Crop([x, y, width, height]) => picture.crop(x, y, width, height),
        Step::Rotate(_) | Step::Flip(_) => Ok(plan::turn_of(step).apply(picture)),
        Step::Grayscale => Ok(adjust::grayscale(picture)),
        Step::Sharpen(by) => adjust::sharpen(picture, by, finest),
        Step::Brightness(factor) => {
            adjust::brightness(&mut picture, factor);
            Ok(picture)
        }
        Step::Contrast(factor) => {
            adjust::contrast(&mut picture, factor);
            Ok(picture)
        }
    }
}

#[cfg(test)]
mod tests {
    use ::image::codecs::png::PngEncoder;
    use ::image::{ExtendedColorType, ImageEncoder as _};
    use moxcms::ColorProfile;

    use super::*;
    use crate::image::decode::decode;
    use crate::image::directory::tests::exif;
    use crate::image::jpeg::Eighths;
    use crate::image::picture::Channels;
    use crate::image::{Format, Options, Turn};

    fn transformed(bytes: &[u8], options: &str) -> Transformed {
        let plan = Plan::new(serde_json::from_str::<Options>(options).unwrap()).unwrap();
        transform(bytes, &plan, &Limits::default(), &|| false).unwrap()
    }

    fn header(bytes: &[u8]) -> Header {
        Header::read(bytes, &Limits::default()).unwrap()
    }

    const WITH_EXIF: [Format; 3] = [Format::Jpeg, Format::Png, Format::Webp];
    const ORIENTATION: u16 = 0x0112;

    /// A picture of 4 by 2 that is shown turned by a quarter.
    fn turned(format: Format) -> Vec<u8> {
        let picture = Picture::blank(4, 2, Channels::Rgb);
        encode::encode_with(picture, format, 90, Some(exif(ORIENTATION, 3, 6))).unwrap()
    }

    #[test]
    fn what_a_file_says_of_itself_is_dropped_unless_asked_for() {
        for source in WITH_EXIF {
            let bytes = turned(source);
            assert_eq!(header(&bytes).upright, Turn::QUARTER);
            assert!(metadata::exif(&bytes, source, &Limits::default()).is_some());
            for options in ["{}", r#"{"metadata": "drop"}"#] {
                let made = transformed(&bytes, options);

                assert_eq!((made.width, made.height), (2, 4));
                assert_eq!(header(&made.bytes).upright, Turn::NONE);
                assert_eq!(metadata::exif(&made.bytes, source, &Limits::default()), None, "{source:?}");
            }
        }
    }

    #[test]
    fn exif_that_is_kept_says_that_the_picture_is_upright() {
        for source in WITH_EXIF {
            for (name, format) in [("jpeg", Format::Jpeg), ("png", Format::Png), ("webp", Format::Webp)] {
                let made = transformed(&turned(source), &format!(r#"{{"metadata": "keep", "format": "{name}"}}"#));

                let kept = metadata::exif(&made.bytes, format, &Limits::default());
                assert_eq!(kept, Some(exif(ORIENTATION, 3, 1)), "{source:?} to {name}");
                let header = header(&made.bytes);
                assert_eq!((header.format, header.size(), header.upright), (format, (2, 4), Turn::NONE));
            }
        }
    }

    #[test]
    fn what_has_no_exif_gets_none() {
        for format in [Format::Jpeg, Format::Png, Format::Webp, Format::Gif, Format::Tiff, Format::Bmp] {
            let bytes = encode::encode(Picture::blank(4, 2, Channels::Rgb), format, 90).unwrap();

            let made = transformed(&bytes, r#"{"metadata": "keep"}"#);

            assert_eq!(header(&made.bytes).format, format);
            assert_eq!(metadata::exif(&made.bytes, format, &Limits::default()), None);
        }
    }

    #[test]
    fn exif_that_is_too_long_for_a_jpeg_is_told() {
        let mut long = exif(ORIENTATION, 3, 6);
        long.resize(70_000, 0);
        let png = encode::encode_with(Picture::blank(4, 2, Channels::Rgb), Format::Png, 0, Some(long)).unwrap();
        let options = r#"{"metadata": "keep", "format": "jpeg"}"#;
        let plan = Plan::new(serde_json::from_str::<Options>(options).unwrap()).unwrap();

        let error = transform(&png, &plan, &Limits::default(), &|| false).unwrap_err();

        assert_eq!(error.to_string(), "the EXIF has 70000 bytes; a JPEG takes at most 65527: metadata=drop");
    }

    #[test]
    fn colours_become_those_of_srgb_and_no_profile_is_written() {
        let picture = Picture { width: 1, height: 1, channels: Channels::Rgb, data: vec![200, 120, 60] };
        let profile = ColorProfile::new_display_p3().encode().unwrap();
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_icc_profile(profile.clone()).unwrap();
        encoder.write_image(&picture.data, 1, 1, ExtendedColorType::Rgb8).unwrap();
        let wanted = colour::to_srgb(picture.clone(), Some(&profile));
        assert_ne!(wanted, picture);

        for options in ["{}", r#"{"metadata": "keep"}"#] {
            let made = transformed(&png, options).bytes;

            let header = header(&made);
            assert_eq!(header.profile, None);
            let seen = decode(&made, &header, &Limits::default(), Eighths::Eight).unwrap().picture;
            assert_eq!(seen, wanted);
        }
    }
}
