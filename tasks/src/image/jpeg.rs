//! JPEG through libjpeg-turbo: header, decoding at a fraction of the size, encoding.
//!
//! libjpeg can decode at M/8 of the size for the price of the entropy decoding alone and a little: a JPEG of 24
//! megapixels takes 120 ms as it is, 62 ms at 2/8 and 54 ms at 1/8 (one core of an AMD EPYC).

use std::borrow::Cow;

use turbojpeg::{Colorspace, Compressor, DecompressHeader, Decompressor, PixelFormat, ScalingFactor, Subsamp};

use super::directory::{self, Numbers};
use super::error::{ErrorKind, ImageError};
use super::header::{Format, Header, MAX_PROFILE};
use super::picture::{Channels, Picture};
use super::turn::Turn;

/// Cameras put so many bytes before a restart marker (1 to 4) or the end marker (8), whatever they are. Where the decoder
/// lost step more are left: in 300 damaged files never fewer than 17.
const PADDING: usize = 8;

/// How libjpeg calls bytes that belong to nothing.
const STRAYS: &str = " extraneous bytes";

/// What libjpeg warns of in a header and reads over.
const MENDABLE: [&str; 3] = [STRAYS, "unknown JFIF revision", "Unknown Adobe color transform"];

/// Scans that a progressive file may have: encoders write about ten, and each costs a pass over all coefficients.
const MAX_SCANS: u32 = 200;

/// The fraction of its size at which a JPEG is decoded, in eighths. Only those for which libjpeg-turbo has vector
/// code: 7/8 takes longer than the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Eighths {
    /// 1/8.
    One = 1,
    /// 1/4.
    Two = 2,
    /// 1/2.
    Four = 4,
    /// The whole.
    Eight = 8,
}

impl Eighths {
    /// From the smallest.
    pub const ALL: [Self; 4] = [Self::One, Self::Two, Self::Four, Self::Eight];

    /// As a factor.
    pub fn factor(self) -> f64 {
        f64::from(self as u32) / 8.0
    }

    /// The smallest one that is enough; the whole where none is.
    pub(super) fn smallest(is_enough: impl Fn(Self) -> bool) -> Self {
        Self::ALL.into_iter().find(|scale| is_enough(*scale)).unwrap_or(Self::Eight)
    }

    /// Whether it leaves at least so many times the pixels that are wanted, along each side.
    pub(super) fn leaves(self, times: f64, source: (u32, u32), wanted: (u32, u32)) -> bool {
        let left = |source: u32, wanted: u32| f64::from(source) * self.factor() >= times * f64::from(wanted);
        left(source.0, wanted.0) && left(source.1, wanted.1)
    }

    /// What a length becomes: rounded up.
    pub const fn scale(self, length: u32) -> u32 {
        ((length as u64 * self as u64).div_ceil(8)) as u32
    }

    /// The variance of the kernel with which reducing to this fraction blurs by itself, in pixels of the result squared.
    ///
    /// # Source
    /// A mean of *k* pixels has the variance (k² − 1) / 12. The M-point inverse of an 8-point DCT has the same second
    /// moment, averaged over its M positions, for M = 1, 2 and 4.
    pub fn variance(self) -> f64 {
        (1.0 - self.factor() * self.factor()) / 12.0
    }
}

/// Reads size, orientation and profile.
pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let (read, _) = read_header(&mut Decompressor::new().map_err(refused)?, bytes)?;
    let segments = Segments::read(bytes);
    Ok(Header {
        format: Format::Jpeg,
        width: read.width as u32, // at most 65,535: the field has 16 bits
        height: read.height as u32,
        upright: segments.upright.unwrap_or(Turn::NONE),
        profile: segments.profile,
    })
}

/// Decodes at a fraction of the size, every length rounded up; gives the fraction too, since a lossless JPEG can only
/// be decoded whole.
///
/// # Errors
/// [`ErrorKind::Corrupt`] also where libjpeg only warns and fills up with gray, such as when the file is cut off.
/// Stray bytes before the first scan are passed over, and what fills up before a restart marker or the end marker.
pub(super) fn decode(bytes: &[u8], scale: Eighths) -> Result<(Picture, Eighths), ImageError> {
    let mut decompressor = Decompressor::new().map_err(refused)?;
    decompressor.set_scan_limit(MAX_SCANS).map_err(refused)?;
    let (header, bytes) = read_header(&mut decompressor, bytes)?;
    let scale = if header.is_lossless { Eighths::Eight } else { scale };
    let factor = ScalingFactor::new(scale as usize, 8);
    decompressor.set_scaling_factor(factor).map_err(refused)?;
    let (format, channels) = match header.colorspace {
        Colorspace::Gray => (PixelFormat::GRAY, Channels::Gray),
        Colorspace::CMYK | Colorspace::YCCK => (PixelFormat::CMYK, Channels::Rgb),
        _ => (PixelFormat::RGB, Channels::Rgb),
    };
    let (width, height) = (factor.scale(header.width), factor.scale(header.height));
    let pitch = width * format.size();
    let mut data = vec![0; pitch * height];
    let image = turbojpeg::Image { pixels: &mut data[..], width, pitch, height, format };
    if let Err(error) = decompressor.decompress(&bytes, image) {
        let strays = strays(&error.to_string());
        if !strays.is_some_and(|(count, marker)| is_padding(&bytes, count, marker)) {
            return Err(refused(error));
        }
    }
    if format == PixelFormat::CMYK {
        data = rgb_of_cmyk(&data, Segments::read(&bytes).is_inverted);
    }
    Ok((Picture { width: width as u32, height: height as u32, channels, data }, scale))
}

/// Reads the header; gives also the bytes to go on with. Here libjpeg-turbo makes a failure of every warning, so what it
/// would read over is mended where it warns of it.
fn read_header<'a>(
    decompressor: &mut Decompressor,
    bytes: &'a [u8],
) -> Result<(DecompressHeader, Cow<'a, [u8]>), ImageError> {
    match decompressor.read_header(bytes) {
        Err(error) if MENDABLE.iter().any(|warning| error.to_string().contains(warning)) => {
            let mended = mended(bytes);
            Ok((decompressor.read_header(&mended).map_err(refused)?, Cow::Owned(mended)))
        }
        read => Ok((read.map_err(refused)?, Cow::Borrowed(bytes))),
    }
}

/// How many stray bytes libjpeg warns of, and the marker before which they stand.
fn strays(warning: &str) -> Option<(usize, u8)> {
    let (before, after) = warning.split_once(STRAYS)?;
    let marker = after.strip_prefix(" before marker 0x")?.get(..2)?;
    Some((before.rsplit(' ').next()?.parse().ok()?, u8::from_str_radix(marker, 16).ok()?))
}

/// Whether as many bytes before a marker only fill up: few before a restart or the end, or before the end all 0. A file
/// without an end is cut off, of which libjpeg does not tell then.
///
/// Otherwise they are what is left of a scan since the decoder lost step. libjpeg tells of its first warning only, and its
/// fast path of no wrong code, so that this is often the one sign of a damage.
fn is_padding(bytes: &[u8], count: usize, marker: u8) -> bool {
    let Some(scans) = up_to_end(bytes) else { return false };
    let are_zeros = || scans.iter().rev().skip_while(|&&byte| byte == 0xFF).take(count).all(|&byte| byte == 0);
    match marker {
        0xD0..=0xD7 => count <= PADDING,
        0xD9 => count <= PADDING || are_zeros(),
        _ => false,
    }
}

/// What stands from the first scan to the end marker. One before the scan is that of a thumbnail.
fn up_to_end(bytes: &[u8]) -> Option<&[u8]> {
    let mut walk = Walk::of(bytes);
    walk.by_ref().for_each(drop);
    let end = walk.rest.windows(2).position(|pair| pair == [0xFF, 0xD9])?;
    walk.rest.starts_with(&[0xFF, 0xDA]).then_some(&walk.rest[..end])
}

/// Takes out bytes that belong to no segment, and makes of JFIF and Adobe segments that libjpeg does not know those for
/// which it takes them. To leave them out would change how it takes the colours.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let samples = frames(bytes).next().map_or(0, |frame| frame.samples);
    let mut walk = Walk::of(bytes);
    let mut mended = vec![0xFF, 0xD8];
    for segment in walk.by_ref() {
        let start = mended.len();
        mended.extend_from_slice(segment);
        match &mut mended[start..] {
            [_, 0xE0, _, _, b'J', b'F', b'I', b'F', 0, major, ..] => *major = 1,
            [_, 0xEE, _, _, b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..] => match samples {
                // YCbCr and YCCK.
                3 if *transform > 1 => *transform = 1,
                4 if *transform != 0 => *transform = 2,
                _ => {}
            },
            _ => {}
        }
    }
    mended.extend_from_slice(walk.rest);
    mended
}

/// What the header of a frame says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Width and height.
    pub(super) size: (u32, u32),
    /// Samples of a pixel.
    samples: u8,
}

/// The frames of a JPEG without stray bytes, of others none: another decoder may take these for something else, and find
/// another frame there.
pub(super) fn frames_of_plain(bytes: &[u8]) -> Vec<Frame> {
    let mut walk = Walk::of(bytes);
    let segments: usize = walk.by_ref().map(<[u8]>::len).sum();
    let is_plain = bytes.starts_with(&[0xFF, 0xD8]) && 2 + segments + walk.rest.len() == bytes.len();
    if is_plain { frames(bytes).collect() } else { Vec::new() }
}

/// The frames whose headers stand before the first scan: one, if the file is sound.
fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame> {
    Walk::of(bytes).filter_map(|segment| match *segment {
        [_, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF, _, _, _, a, b, c, d, samples, ..] => {
            let length = |digits| u32::from(u16::from_be_bytes(digits));
            Some(Frame { size: (length([c, d]), length([a, b])), samples })
        }
        _ => None,
    })
}

fn refused(error: turbojpeg::Error) -> ImageError {
    // So the crate says that there was no size: libjpeg takes a file that ends before it for one of tables alone.
    if let turbojpeg::Error::IntegerOverflow("width" | "height") = error {
        return ImageError::corrupt(Format::Jpeg, "it ends before the picture does");
    }
    let text = error.to_string();
    let what = text.trim_start_matches("TurboJPEG error: ");
    if what.contains("Premature end") {
        return ImageError::corrupt(Format::Jpeg, "it ends before the picture does");
    }
    if ["Unsupported", "not supported", "precision", "scans"].iter().any(|w| what.contains(w)) {
        return ImageError::unsupported(format!("this variety of JPEG is not read: {what}"));
    }
    ImageError::corrupt(Format::Jpeg, what)
}

/// Turns ink into light. JPEGs with an Adobe segment store the inks inverted. An ICC profile of the inks is not used.
pub(super) fn rgb_of_cmyk(cmyk: &[u8], is_inverted: bool) -> Vec<u8> {
    let flip = if is_inverted { 0 } else { 255 };
    let mut rgb = Vec::with_capacity(cmyk.len() / 4 * 3);
    for ink in cmyk.as_chunks::<4>().0 {
        let key = u32::from(ink[3] ^ flip);
        rgb.extend(ink[..3].iter().map(|&i| ((u32::from(i ^ flip) * key + 127) / 255) as u8));
    }
    rgb
}

/// Encodes, colours at half the resolution (4:2:0) as photographs are.
///
/// # Errors
/// [`ErrorKind::Encode`] if the picture has alpha or a side over 65,500 pixels.
pub(super) fn encode(picture: &Picture, quality: u8) -> Result<Vec<u8>, ImageError> {
    let failed = |e: turbojpeg::Error| ImageError::new(ErrorKind::Encode, format!("the JPEG cannot be written: {e}"));
    let (format, sampling) = match picture.channels {
        Channels::Gray => (PixelFormat::GRAY, Subsamp::Gray),
        Channels::Rgb => (PixelFormat::RGB, Subsamp::Sub2x2),
        Channels::Rgba => return Err(ImageError::new(ErrorKind::Encode, "a JPEG has no alpha")),
    };
    let mut compressor = Compressor::new().map_err(failed)?;
    compressor.set_quality(i32::from(quality)).map_err(failed)?;
    compressor.set_subsamp(sampling).map_err(failed)?;
    let (width, height) = (picture.width as usize, picture.height as usize);
    let image = turbojpeg::Image { pixels: &picture.data[..], width, pitch: picture.stride(), height, format };
    compressor.compress_to_vec(image).map_err(failed)
}

/// The most bytes of EXIF: what one segment holds beside its length and the name.
const MAX_EXIF: usize = 65_535 - 2 - directory::NAME.len();

/// Of the EXIF that can be read the longest: editors put short ones of their own before that of the camera.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let readable = Walk::of(bytes).filter_map(|segment| match segment {
        [_, 0xE1, _, _, b'E', b'x', b'i', b'f', 0, 0, exif @ ..] => Numbers::of(exif).map(|_| exif),
        _ => None,
    });
    readable.max_by_key(|exif| exif.len())
}

/// Puts EXIF into a JPEG, as its first segment.
///
/// # Errors
/// [`ErrorKind::Encode`] if it is too long.
pub(super) fn with_exif(jpeg: &[u8], exif: &[u8]) -> Result<Vec<u8>, ImageError> {
    if exif.len() > MAX_EXIF {
        let message = format!("the EXIF has {} bytes; a JPEG takes at most {MAX_EXIF}: metadata=drop", exif.len());
        return Err(ImageError::new(ErrorKind::Encode, message));
    }
    let length = (2 + directory::NAME.len() + exif.len()) as u16;
    let (start, rest) = jpeg.split_at(2);
    Ok([start, &[0xFF, 0xE1], &length.to_be_bytes(), directory::NAME, exif, rest].concat())
}

/// Walks the segments up to the first scan, over bytes that belong to none as libjpeg does.
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes.get(2..).unwrap_or_default() }
    }
}

impl<'a> Iterator for Walk<'a> {
    /// 0xFF, the marker, two bytes of length, and as many less two.
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            match *self.rest {
                [0xFF, 0xDA | 0xD9, ..] => return None,
                [0xFF, 0x01 | 0xD0..=0xD7, ref rest @ ..] => self.rest = rest,
                [0xFF, 0x02..=0xFE, high, low, ..] => {
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    let (segment, rest) = self.rest.split_at_checked(2 + length.max(2))?;
                    self.rest = rest;
                    return Some(segment);
                }
                [_, ref rest @ ..] => self.rest = rest,
                [] => return None,
            }
        }
    }
}

/// What the segments before the picture say that libjpeg-turbo does not tell.
#[derive(Debug, Default)]
struct Segments {
    /// By the first EXIF that tells; editors put another before or behind that of the camera.
    upright: Option<Turn>,
    profile: Option<Vec<u8>>,
    is_inverted: bool,
}

impl Segments {
    /// Reads them up to the first scan. Whatever is damaged counts as absent.
    fn read(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let mut chunks: Vec<(u8, &[u8])> = Vec::new();
        for segment in Walk::of(bytes) {
            match (segment[1], &segment[4..]) {
                (0xE1, [b'E', b'x', b'i', b'f', 0, 0, exif @ ..]) => {
                    found.upright = found.upright.or_else(|| directory::upright(exif));
                }
                (0xE2, head) if head.starts_with(b"ICC_PROFILE\0") && head.len() > 14 => {
                    chunks.push((head[12], &head[14..]));
                }
                (0xEE, adobe) if adobe.starts_with(b"Adobe") => found.is_inverted = true,
                _ => {}
            }
        }
        chunks.sort_by_key(|&(number, _)| number);
        let profile = chunks.into_iter().flat_map(|(_, part)| part.iter().copied());
        let profile: Vec<u8> = profile.take(MAX_PROFILE + 1).collect(); // one more shows that it is too large
        found.profile = (!profile.is_empty()).then_some(profile);
        found
    }
}

#[cfg(test)]
mod tests;
