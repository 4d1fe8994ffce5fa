//! The steps planned as a whole: what a later shrink makes invisible is not computed.
//!
//! Blurs, mirrors, turns and the loss of colour commute with shrinking. So the steps up to the first shrink, if there
//! are no others among them, become one *head*: decode at a fraction, blur by what remains of the standard deviation,
//! shrink, turn. "Blur 15, fit 1200" of a JPEG of 24 megapixels is so decoded at 1/8, for the price of its entropy
//! decoding and little more.
//!
//! The fraction leaves either [`LEFT_TO_SHRINK`] times the pixels that are wanted along each side, or a picture that is
//! blurred by at least [`LEFT_TO_BLUR`] pixels there, so that it holds nothing finer. Decoding at a fraction blurs by
//! itself ([`Eighths::variance`]), which is taken off. A picture in another format is decoded whole; its blur alone makes
//! it smaller ([`blur::small`]).
//!
//! The result of a photograph differs from the exact one by a PSNR of 40 dB or more (`tests/image_references.rs` holds
//! that; most in `examples/` reach 45 to 57 dB). What is not like a photograph may differ by more: along a hard edge at
//! the border of a JPEG, of which a fraction holds only the mean, or in fine stripes. If a later step makes differences
//! larger, twice as much is left, and above `MOST_MAGNIFIED` nothing is decoded at a fraction; and `exact` turns it off.

use super::adjust;
use super::blur;
use super::colour;
use super::decode;
use super::error::ImageError;
use super::header::{Format, Header, Limits};
use super::jpeg::Eighths;
use super::picture::Picture;
use super::resize::{self, Window};
use super::steps::{Bound, Filter, Flip, Metadata, Options, Resize, Step};
use super::turn::Turn;

/// How much larger than the wanted size a reduced picture is, at least, along each side.
pub const LEFT_TO_SHRINK: f64 = 1.8;
/// How wide a blur is in a reduced picture, at least: standard deviation in its pixels.
pub const LEFT_TO_BLUR: f64 = 1.8;
/// What is left is so many times as much if a later step magnifies. That makes the difference 5 to 10 dB less in a page
/// of text.
const LEFT_TO_MAGNIFY: f64 = 2.0;
/// How much differences may be magnified by the later steps together, at most: by 3.5 dB.
const MOST_MAGNIFIED: f64 = 1.5;
/// Decoding at a fraction leaves at least so many pixels to a side: to decode less saves no time that counts.
const LEAST_SIDE: u32 = 64;

/// Options that were held against their ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    options: Options,
}

/// The steps up to the first shrink, as one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    /// How many steps it stands for.
    pub(super) steps: usize,
    scale: Eighths,
    variance: f64,
    shrink: Option<((u32, u32), Filter)>,
    turn: Turn,
    is_gray: bool,
}

impl Plan {
    /// Plans what the options ask for.
    ///
    /// # Errors
    /// [`ErrorKind::BadOption`](super::ErrorKind::BadOption), with the path of the value.
    pub fn new(options: Options) -> Result<Self, ImageError> {
        options.validate()?;
        Ok(Self { options })
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.options.steps
    }

    /// The format of the result for a source of a format.
    pub fn format(&self, source: Format) -> Format {
        self.options.format.unwrap_or(source)
    }

    /// The quality of a JPEG.
    pub const fn quality(&self) -> u8 {
        self.options.quality
    }

    /// Whether EXIF comes along.
    pub(super) fn keeps_metadata(&self) -> bool {
        self.options.metadata == Metadata::Keep
    }

    /// The smallest standard deviation to which a blur may be reduced.
    pub(super) const fn finest(&self) -> f64 {
        if self.options.exact { blur::FINEST_EXACT } else { blur::FINEST }
    }

    /// Follows the size of an upright picture through the steps, before anything is decoded.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`](super::ErrorKind::TooLarge) if it grows over the limit anywhere,
    /// [`ErrorKind::BadOption`](super::ErrorKind::BadOption) if a crop reaches outside.
    pub fn size_after(&self, mut size: (u32, u32), limits: &Limits) -> Result<(u32, u32), ImageError> {
        for (index, step) in self.steps().iter().enumerate() {
            match *step {
                Step::Thumbnail(Bound(width, height)) => size = resize::fit(size, (width, height)),
                Step::Resize(Resize { size: wanted, .. }) => size = wanted,
                Step::Rotate(90 | 270) => size = (size.1, size.0),
                Step::Crop([x, y, width, height]) => {
                    let inside =
                        |at: u32, length: u32, side: u32| at.checked_add(length).is_some_and(|end| end <= side);
                    if !inside(x, width, size.0) || !inside(y, height, size.1) {
                        let what = format!(
                            "{width}×{height} at {x},{y} does not lie inside the picture, which has {}×{} there",
                            size.0, size.1
                        );
                        return Err(ImageError::bad_option(&step.path(index), what));
                    }
                    size = (width, height);
                }
                _ => {}
            }
            limits.check(&format!("the result of {}", step.path(index)), size)?;
        }
        Ok(size)
    }

    /// Takes the steps up to the first shrink together.
    pub(super) fn head(&self, header: &Header) -> Head {
        let nothing =
            Head { steps: 0, scale: Eighths::Eight, variance: 0.0, shrink: None, turn: header.upright, is_gray: false };
        let mut head = nothing.clone();
        for (index, step) in self.steps().iter().enumerate() {
            let size = head.turn.size((header.width, header.height));
            let (wanted, filter) = match *step {
                Step::Blur(sigma) => {
                    head.variance += sigma * sigma;
                    continue;
                }
                Step::Rotate(_) | Step::Flip(_) => {
                    head.turn = head.turn.then(turn_of(step));
                    continue;
                }
                // Colours become sRGB before it, which does not quite commute with shrinking.
                Step::Grayscale if self.options.exact && header.profile.is_some() => return nothing,
                Step::Grayscale => {
                    head.is_gray = true;
                    continue;
                }
                Step::Thumbnail(Bound(width, height)) => (resize::fit(size, (width, height)), Filter::Lanczos3),
                Step::Resize(Resize { size, filter }) => (size, filter),
                Step::Crop(_) | Step::Sharpen(_) | Step::Brightness(_) | Step::Contrast(_) => return nothing,
            };
            if wanted == size {
                continue;
            }
            if wanted.0 > size.0 || wanted.1 > size.1 {
                return nothing;
            }
            head.steps = index + 1;
            let wanted = head.turn.size(wanted);
            head.shrink = Some((wanted, filter));
            let magnified: f64 = self.steps()[index + 1..].iter().map(magnifies).product();
            if !self.options.exact && magnified <= MOST_MAGNIFIED {
                let left = if magnified > 1.0 { LEFT_TO_MAGNIFY } else { 1.0 };
                head.scale = scale(header, wanted, head.variance, left);
            }
            return head;
        }
        nothing
    }
}

/// The smallest fraction at which a picture may be decoded that is blurred by a variance and then shrunk, if `times` the
/// usual is left.
fn scale(header: &Header, wanted: (u32, u32), variance: f64, times: f64) -> Eighths {
    if header.format != Format::Jpeg {
        return Eighths::Eight;
    }
    let source = (header.width, header.height);
    Eighths::smallest(|scale| {
        let is_blurred = variance.sqrt() * scale.factor() >= times * LEFT_TO_BLUR;
        scale.scale(source.0.min(source.1)) >= LEAST_SIDE
            && (is_blurred || scale.leaves(times * LEFT_TO_SHRINK, source, wanted))
    })
}

/// How many times larger a step makes by what a picture differs from the exact one; at least 1. Sharpening counts by a third
/// of its amount, so that the usual one (150 %) passes: it magnifies only what is fine.
fn magnifies(step: &Step) -> f64 {
    match *step {
        Step::Sharpen(by) => 1.0 + by.amount.max(0.0) / 3.0,
        Step::Brightness(factor) | Step::Contrast(factor) => factor.max(1.0),
        _ => 1.0,
    }
}

impl Head {
    /// Decodes the picture and carries the head's steps out. Where it loses its colours they are sRGB before, and the
    /// profile is taken.
    ///
    /// # Errors
    /// Those of [`decode::decode`].
    pub(super) fn carry_out(
        &self,
        bytes: &[u8],
        header: &mut Header,
        limits: &Limits,
        finest: f64,
    ) -> Result<Picture, ImageError> {
        let decoded = decode::decode(bytes, header, limits, self.scale)?;
        let (across, down) = decoded.factors(header);
        let remaining = |factor: f64| (self.variance * factor * factor - decoded.scale.variance()).max(0.0).sqrt();
        let sigma = (remaining(across), remaining(down));
        let (mut picture, mut window) = (decoded.picture, decoded.window);
        if self.variance > 0.0 {
            (picture, window) = blur::small(picture, window, sigma, finest)?;
        }
        if let Some((size, filter)) = self.shrink {
            (picture, window) = without_margin(picture, window, size)?;
            picture = resize::resize(&picture, window, size, filter)?;
        }
        picture = self.turn.apply(picture);
        if self.is_gray {
            picture = adjust::grayscale(colour::to_srgb(picture, header.profile.take().as_deref()));
        }
        Ok(picture)
    }
}

/// Takes off what lies beside the window, along sides that are still shrunk: at the full size the filter ends with the
/// picture. Where they are enlarged it stays, as there the filter would have found what lies between.
fn without_margin(picture: Picture, window: Window, size: (u32, u32)) -> Result<(Picture, Window), ImageError> {
    let part = |start: f64, length: f64, wanted: u32, whole: u32| {
        if length > f64::from(wanted) { (start as u32, length.ceil() as u32) } else { (0, whole) }
    };
    let (x, width) = part(window[0], window[2], size.0, picture.width);
    let (y, height) = part(window[1], window[3], size.1, picture.height);
    if (width, height) == (picture.width, picture.height) {
        return Ok((picture, window));
    }
    let window = [window[0] - f64::from(x), window[1] - f64::from(y), window[2], window[3]];
    Ok((picture.crop(x, y, width, height)?, window))
}

/// The turn that a step is.
pub(super) const fn turn_of(step: &Step) -> Turn {
    match step {
        Step::Rotate(90) => Turn::QUARTER,
        Step::Rotate(180) => Turn::HALF,
        Step::Rotate(270) => Turn::THREE_QUARTERS,
        Step::Flip(Flip::Horizontal) => Turn::MIRROR_X,
        Step::Flip(Flip::Vertical) => Turn::MIRROR_Y,
        _ => Turn::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::steps::Sharpen;

    fn plan(steps: Vec<Step>) -> Plan {
        Plan::new(Options { steps, ..Options::default() }).unwrap()
    }

    fn photo() -> Header {
        Header { format: Format::Jpeg, width: 6000, height: 4000, upright: Turn::NONE, profile: None }
    }

    #[test]
    fn a_blur_before_a_shrink_is_decoded_small() {
        let head = plan(vec![Step::Blur(15.0), Step::Thumbnail(Bound(1200, 1200)), Step::Grayscale]).head(&photo());

        assert_eq!((head.steps, head.scale), (2, Eighths::One));
        assert_eq!(head.shrink, Some(((1200, 800), Filter::Lanczos3)));
    }

    #[test]
    fn a_shrink_alone_leaves_something_to_shrink() {
        let scale = |side| plan(vec![Step::Thumbnail(Bound(side, side))]).head(&photo()).scale;

        assert_eq!([scale(416), scale(417), scale(833), scale(1200), scale(2000)].map(|s| s as u32), [1, 2, 2, 4, 8]);
    }

    #[test]
    fn a_step_that_sees_every_pixel_is_carried_out_at_full_size() {
        for step in [Step::Crop([0, 0, 9, 9]), Step::Contrast(2.0), Step::Brightness(2.0)] {
            let head = plan(vec![step, Step::Thumbnail(Bound(100, 100))]).head(&photo());
            assert_eq!((head.steps, head.scale), (0, Eighths::Eight));
        }
    }

    #[test]
    fn more_is_left_to_a_step_that_magnifies_and_all_to_one_that_does_so_strongly() {
        let scale = |then: &[Step]| {
            let steps = [&[Step::Thumbnail(Bound(400, 400)), Step::Rotate(180)], then].concat();
            plan(steps).head(&photo()).scale
        };
        let sharpen = |amount| Step::Sharpen(Sharpen { sigma: 1.0, amount });

        for step in [Step::Contrast(0.9), Step::Brightness(1.0), sharpen(0.0), Step::Grayscale] {
            assert_eq!(scale(&[step]), Eighths::One);
        }
        for step in [Step::Contrast(1.1), Step::Brightness(1.5), sharpen(1.5)] {
            assert_eq!(scale(&[step]), Eighths::Two);
        }
        for steps in [&[Step::Contrast(1.6)][..], &[sharpen(1.6)], &[Step::Contrast(1.3), Step::Brightness(1.3)]] {
            assert_eq!(scale(steps), Eighths::Eight);
        }
        let blurred =
            |step| plan(vec![Step::Blur(15.0), Step::Thumbnail(Bound(1200, 1200)), step]).head(&photo()).scale;
        assert_eq!([blurred(Step::Contrast(1.0)), blurred(Step::Contrast(1.5))], [Eighths::One, Eighths::Two]);
    }

    #[test]
    fn what_is_small_or_no_jpeg_is_decoded_whole() {
        let scale = |header| plan(vec![Step::Blur(15.0), Step::Thumbnail(Bound(10, 10))]).head(&header).scale;

        assert_eq!(scale(Header { format: Format::Png, ..photo() }), Eighths::Eight);
        assert_eq!(scale(Header { width: 500, ..photo() }), Eighths::Two);
        assert_eq!(scale(Header { height: 126, ..photo() }), Eighths::Eight);
    }

    #[test]
    fn a_turn_before_the_shrink_turns_the_wanted_size() {
        let head = plan(vec![Step::Rotate(90), Step::Thumbnail(Bound(600, 600))]).head(&photo());

        assert_eq!(head.shrink, Some(((600, 400), Filter::Lanczos3)));
        assert_eq!(head.turn, Turn::QUARTER);
    }

    #[test]
    fn sizes_are_followed_before_anything_is_decoded() {
        let limits = Limits::default();
        let steps = vec![Step::Rotate(90), Step::Thumbnail(Bound(600, 600)), Step::Crop([300, 500, 100, 100])];
        assert_eq!(plan(steps).size_after((6000, 4000), &limits).unwrap(), (100, 100));

        let outside = plan(vec![Step::Crop([5950, 0, 51, 10])]).size_after((6000, 4000), &limits).unwrap_err();
        assert!(outside.to_string().starts_with("steps[0].crop: 51×10 at 5950,0 does not lie inside"), "{outside}");

        let huge = plan(vec![Step::Resize(Resize { size: (60_000, 60_000), filter: Filter::Bilinear })]);
        let error = huge.size_after((6000, 4000), &limits).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the result of steps[0].resize has 60000×60000 = 3600.0 megapixels; at most 100.0 are allowed"
        );
    }
}
