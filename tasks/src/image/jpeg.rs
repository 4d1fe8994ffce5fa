//! JPEG through libjpeg-turbo: header, decoding at a fraction of the size, encoding.
//!
//! libjpeg can decode at M/8 of the size for the price of the entropy decoding alone and a little: a JPEG of 24
//! megapixels takes 120 ms as it is, 62 ms at 2/8 and 54 ms at 1/8 (one core of an AMD EPYC).

use std::borrow::Cow;

use turbojpeg::{Colorspace, Compressor, DecompressHeader, Decompressor, PixelFormat, ScalingFactor, Subsamp};

use super::directory;
use super::error::{ErrorKind, ImageError};
use super::header::{Format, Header, MAX_PROFILE};
use super::picture::{Channels, Picture};
use super::turn::Turn;

/// Cameras put so many bytes before the end marker, whatever they are. Where the decoder lost step more are left: in 300
/// damaged files never fewer than 17.
const PADDING: usize = 2;

/// How libjpeg calls bytes that belong to nothing.
const STRAYS: &str = " extraneous bytes";

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
/// Stray bytes before the first scan are passed over, and what fills up before the end marker.
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
        let is_padding = strays_before_end(&error.to_string()).is_some_and(|count| is_padding(&bytes, count));
        if !is_padding {
            return Err(refused(error));
        }
    }
    if format == PixelFormat::CMYK {
        data = rgb_of_cmyk(&data, Segments::read(&bytes).is_inverted);
    }
    Ok((Picture { width: width as u32, height: height as u32, channels, data }, scale))
}

/// Reads the header; gives also the bytes to go on with. Here libjpeg-turbo makes a failure of every warning, so bytes
/// that belong to no segment are taken out where it warns of them.
fn read_header<'a>(
    decompressor: &mut Decompressor,
    bytes: &'a [u8],
) -> Result<(DecompressHeader, Cow<'a, [u8]>), ImageError> {
    match decompressor.read_header(bytes) {
        Err(error) if error.to_string().contains(STRAYS) => {
            let clean = without_strays(bytes);
            Ok((decompressor.read_header(&clean).map_err(refused)?, Cow::Owned(clean)))
        }
        read => Ok((read.map_err(refused)?, Cow::Borrowed(bytes))),
    }
}

/// How many stray bytes libjpeg warns of, if they stand before the end marker.
///
/// Before another marker in or behind a scan they are what is left of it since the decoder lost step. libjpeg tells of its
/// first warning only, and its fast path of no wrong code, so that this is often the one sign of a damage.
fn strays_before_end(warning: &str) -> Option<usize> {
    let (before, marker) = warning.split_once(STRAYS)?;
    if !marker.starts_with(" before marker 0xd9") {
        return None;
    }
    before.rsplit(' ').next()?.parse().ok()
}

/// Whether as many bytes before the end marker only fill up: few, or all 0.
fn is_padding(bytes: &[u8], count: usize) -> bool {
    let Some(scans) = up_to_end(bytes) else { return false };
    count <= PADDING || scans.iter().rev().skip_while(|&&byte| byte == 0xFF).take(count).all(|&byte| byte == 0)
}

/// What stands from the first scan to the end marker. One before the scan is that of a thumbnail.
fn up_to_end(bytes: &[u8]) -> Option<&[u8]> {
    let mut walk = Walk::of(bytes);
    walk.by_ref().for_each(drop);
    let end = walk.rest.windows(2).position(|pair| pair == [0xFF, 0xD9])?;
    walk.rest.starts_with(&[0xFF, 0xDA]).then_some(&walk.rest[..end])
}

fn without_strays(bytes: &[u8]) -> Vec<u8> {
    let mut walk = Walk::of(bytes);
    let mut clean = vec![0xFF, 0xD8];
    walk.by_ref().for_each(|segment| clean.extend_from_slice(segment));
    clean.extend_from_slice(walk.rest);
    clean
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
mod tests {
    use super::*;
    use crate::image::Limits;
    use crate::image::directory::tests::exif;

    fn gradient() -> Picture {
        let mut picture = Picture::blank(70, 50, Channels::Rgb);
        for (i, pixel) in picture.data.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            *pixel = [(i % 70 * 3) as u8, (i / 70 * 5) as u8, 90];
        }
        picture
    }

    #[test]
    fn every_fraction_has_the_size_it_announces() {
        let bytes = encode(&gradient(), 90).unwrap();
        for scale in Eighths::ALL {
            let (picture, _) = decode(&bytes, scale).unwrap();
            assert_eq!((picture.width, picture.height), (scale.scale(70), scale.scale(50)));
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_damaged_wherever_the_cut_is() {
        let bytes = encode(&gradient(), 90).unwrap();
        for length in (4..bytes.len() - 2).step_by(7) {
            let result = header(&bytes[..length]).and_then(|_| decode(&bytes[..length], Eighths::Eight));
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt, "after {length} bytes");
        }
    }

    #[test]
    fn what_ends_before_its_size_is_said_to_end_early() {
        for length in [4, 12, 30] {
            let error = header(&encode(&gradient(), 90).unwrap()[..length]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the JPEG is damaged: it ends before the picture does",
                "after {length} bytes"
            );
        }
    }

    /// A file with bytes put before each of its segments.
    fn with_before_each(jpeg: &[u8], strays: &[u8]) -> Vec<u8> {
        let mut walk = Walk::of(jpeg);
        let mut bytes = jpeg[..2].to_vec();
        for segment in walk.by_ref() {
            bytes.extend_from_slice(strays);
            bytes.extend_from_slice(segment);
        }
        [&bytes[..], strays, walk.rest].concat()
    }

    #[test]
    fn stray_bytes_between_segments_are_passed_over() {
        let jpeg = encode(&gradient(), 90).unwrap();
        for strays in [&[0, 0][..], &[7, 0xFF, 0, 9], &[0xFF]] {
            let bytes = with_before_each(&jpeg, strays);
            assert_eq!((header(&bytes).unwrap().width, without_strays(&bytes)), (70, jpeg.clone()), "{strays:?}");
            assert_eq!(decode(&bytes, Eighths::Eight).unwrap(), decode(&jpeg, Eighths::Eight).unwrap());
        }
    }

    #[test]
    fn what_stands_behind_stray_bytes_is_seen() {
        let exif = b"\xFF\xE1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let jpeg = encode(&gradient(), 90).unwrap();

        let turned = header(&[&jpeg[..2], &[0, 0], exif, &jpeg[2..]].concat()).unwrap();

        assert_eq!(turned.size(), (50, 70));
    }

    #[test]
    fn what_fills_up_before_the_end_marker_is_passed_over() {
        let jpeg = encode(&gradient(), 90).unwrap();
        let (scans, end) = jpeg.split_at(jpeg.len() - 2);
        for padding in [&[0x5A; 2][..], &[0; 40], &[0, 0, 0, 0, 0xFF]] {
            let padded = decode(&[scans, padding, end].concat(), Eighths::Eight);
            assert_eq!(padded.unwrap(), decode(&jpeg, Eighths::Eight).unwrap(), "{padding:?}");
        }
    }

    #[test]
    fn what_a_decoder_that_lost_step_leaves_is_damage() {
        let jpeg = encode(&gradient(), 90).unwrap();
        let progressive = &include_bytes!("../../../tests/odd-files/progressive.jpg")[..];
        let last_table = progressive.windows(2).rposition(|pair| pair == [0xFF, 0xC4]).unwrap();
        let end = |bytes: &[u8]| bytes.len() - 2;
        for (bytes, at) in [(&jpeg[..], end(&jpeg)), (progressive, end(progressive)), (progressive, last_table)] {
            let damaged = [&bytes[..at], &[0x5A; 40], &bytes[at..]].concat();

            assert_eq!(decode(&damaged, Eighths::Eight).unwrap_err().kind(), ErrorKind::Corrupt, "at {at}");
        }
    }

    #[test]
    fn an_exif_without_orientation_does_not_hide_another() {
        let segment = |tag| {
            let exif = exif(tag, 3, 6);
            let length = (2 + 6 + exif.len() as u16).to_be_bytes();
            [&[0xFF, 0xE1][..], &length, b"Exif\0\0", &exif[..]].concat()
        };
        let jpeg = encode(&gradient(), 90).unwrap();
        for (first, second) in [(0x0112, 0x0131), (0x0131, 0x0112)] {
            let bytes = [&jpeg[..2], &segment(first)[..], &segment(second)[..], &jpeg[2..]].concat();

            assert_eq!(header(&bytes).unwrap().size(), (50, 70));
        }
    }

    #[test]
    fn the_end_of_a_thumbnail_is_not_that_of_the_picture() {
        let jpeg = encode(&gradient(), 90).unwrap();
        let thumbnail = [0xFF, 0xE1, 0, 6, 0xFF, 0xDA, 0xFF, 0xD9];
        let bytes = [&jpeg[..2], &thumbnail, &jpeg[2..]].concat();

        assert!(up_to_end(&bytes).is_some());
        assert_eq!(up_to_end(&bytes), up_to_end(&jpeg));
        assert_eq!(up_to_end(&bytes[..bytes.len() - 2]), None);
    }

    #[test]
    fn a_profile_too_large_is_refused() {
        let jpeg = encode(&gradient(), 90).unwrap();
        let mut bytes = jpeg[..2].to_vec();
        for number in 1..=129 {
            bytes.extend_from_slice(b"\xFF\xE2\xFF\xFFICC_PROFILE\0");
            bytes.extend_from_slice(&[number, 129]);
            bytes.extend_from_slice(&[0; 0xFFFF - 16]);
        }
        bytes.extend_from_slice(&jpeg[2..]);

        let error = Header::read(&bytes, &Limits::default()).unwrap_err();

        assert_eq!(error.to_string(), "the colour profile of the JPEG has more than 8 MiB");
    }

    #[test]
    fn inks_become_light() {
        assert_eq!(rgb_of_cmyk(&[0, 255, 0, 0], false), [255, 0, 255]);
        assert_eq!(rgb_of_cmyk(&[255, 0, 255, 255], true), [255, 0, 255]);
    }
}
