//! The whole way of one picture: header, head of the plan, further steps, file.

use super::adjust;
use super::blur;
use super::colour;
use super::encode;
use super::error::ImageError;
use super::header::{Header, Limits};
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
    let go_on = || if is_cancelled() { Err(ImageError::cancelled()) } else { Ok(()) };
    go_on()?;
    let mut header = Header::read(bytes, limits)?;
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
    let bytes = encode::encode(picture, format, plan.quality())?;
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
