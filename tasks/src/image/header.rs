//! What a file says of itself before a pixel is decoded: format, size, which way is up, colour profile.
//!
//! The format is known by content, never by name. A picture too large is refused here, so a "bomb" of a few bytes
//! that unfolds to gigabytes costs nothing.

use std::io::Cursor;

use ::image::{ImageDecoder, ImageReader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::directory;
use super::error::{ErrorKind, ImageError};
use super::jpeg;
use super::tiff;
use super::turn::Turn;

/// The largest colour profile, in bytes. Those of printing presses have 2 to 3 MB, and `moxcms` reads none of 10 MiB.
pub(super) const MAX_PROFILE: usize = 8 << 20;

/// What a PNG may hold beside its pixels, in bytes: profile, EXIF and text as they are read, and one row. Some editors
/// let the text grow to megabytes; rows are 8 MB at most where libpng reads them (a million pixels).
const PNG_BESIDE_PIXELS: u64 = 32 << 20;

/// How much deflate shrinks at best.
const DEFLATE_AT_BEST: u64 = 1032;

/// The formats that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JPEG; no alpha.
    #[serde(alias = "jpg")]
    Jpeg,
    /// PNG.
    Png,
    /// WebP; written without loss, so `quality` does not apply.
    Webp,
    /// GIF; the first frame is read, one frame of at most 256 colours is written.
    Gif,
    /// TIFF; the first page is read.
    #[serde(alias = "tif")]
    Tiff,
    /// BMP; written without alpha.
    Bmp,
}

impl Format {
    /// The formats as a message lists them.
    pub const ALL: &'static str = "JPEG, PNG, WebP, GIF, TIFF, BMP";

    /// The format's name as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Webp => "WebP",
            Self::Gif => "GIF",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
        }
    }

    /// The media type, `image/…`.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
            Self::Tiff => "image/tiff",
            Self::Bmp => "image/bmp",
        }
    }

    /// The usual end of a file name, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
        }
    }

    pub(super) const fn of_crate_image(self) -> ::image::ImageFormat {
        match self {
            Self::Jpeg => ::image::ImageFormat::Jpeg,
            Self::Png => ::image::ImageFormat::Png,
            Self::Webp => ::image::ImageFormat::WebP,
            Self::Gif => ::image::ImageFormat::Gif,
            Self::Tiff => ::image::ImageFormat::Tiff,
            Self::Bmp => ::image::ImageFormat::Bmp,
        }
    }
}

/// How large a picture may be, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of the source, of the result, and of everything between.
    pub max_pixels: u64,
    /// Bytes of the file.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 100 megapixels, 256 MiB.
    fn default() -> Self {
        Self { max_pixels: 100_000_000, max_bytes: 256 << 20 }
    }
}

impl Limits {
    /// Refuses a size.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`], naming `what` has that size.
    pub fn check(&self, what: &str, (width, height): (u32, u32)) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels <= self.max_pixels {
            return Ok(());
        }
        let megapixels = |pixels: u64| format!("{:.1}", pixels as f64 / 1e6);
        let (is, may, unit) = match (megapixels(pixels), megapixels(self.max_pixels)) {
            // It is a little too much.
            (is, may) if is == may => (pixels.to_string(), self.max_pixels.to_string(), "pixels"),
            (is, may) => (is, may, "megapixels"),
        };
        let message = format!("{what} has {width}×{height} = {is} {unit}; at most {may} are allowed");
        Err(ImageError::new(ErrorKind::TooLarge, message))
    }

    /// How many bytes a decoder may allocate: 16 bits × 4 samples for a picture at the limit, and room for its tables.
    /// That of PNG counts all but the picture, so it gets no allowance for one.
    pub(super) fn bytes_for_decoder(&self, format: Format) -> u64 {
        match format {
            Format::Png => PNG_BESIDE_PIXELS,
            _ => self.max_pixels.saturating_mul(8).saturating_add(64 << 20),
        }
    }
}

/// What a file says of itself.
#[derive(Debug, Clone)]
pub struct Header {
    /// The format, by content.
    pub format: Format,
    /// Pixels to a row, as stored.
    pub width: u32,
    /// Rows, as stored.
    pub height: u32,
    /// What makes the stored picture upright (EXIF).
    pub upright: Turn,
    /// The ICC colour profile, if one is embedded.
    pub profile: Option<Vec<u8>>,
}

impl Header {
    /// Reads the header and holds it against the limits.
    ///
    /// # Errors
    /// [`ErrorKind::Empty`], [`ErrorKind::NotAnImage`], [`ErrorKind::Unsupported`], [`ErrorKind::Corrupt`],
    /// [`ErrorKind::TooLarge`].
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        if bytes.len() as u64 > limits.max_bytes {
            let message = format!("the file has {} bytes; at most {} are allowed", bytes.len(), limits.max_bytes);
            return Err(ImageError::new(ErrorKind::TooLarge, message));
        }
        let header = match sniff(bytes)? {
            Format::Jpeg => jpeg::header(bytes)?,
            Format::Tiff => tiff::header(bytes, limits)?,
            other => Self::by_crate_image(bytes, other, limits)?,
        };
        if header.width == 0 || header.height == 0 {
            return Err(ImageError::corrupt(header.format, "it has no pixels"));
        }
        limits.check("the picture", (header.width, header.height))?;
        match &header.profile {
            Some(profile) if profile.len() > MAX_PROFILE => Err(profile_too_large(header.format, MAX_PROFILE as u64)),
            _ => Ok(header),
        }
    }

    fn by_crate_image(bytes: &[u8], format: Format, limits: &Limits) -> Result<Self, ImageError> {
        let mut decoder = decoder(bytes, format, limits)?;
        let (width, height) = decoder.dimensions();
        limits.check("the picture", (width, height))?; // before tags are read, which may be large too
        if format == Format::Webp {
            check_frames(bytes, (width, height))?;
        }
        // Damaged EXIF is no reason to refuse the picture: it is shown as it is stored.
        let exif = decoder.exif_metadata().unwrap_or_default();
        let upright = exif.and_then(|exif| directory::upright(&exif)).unwrap_or(Turn::NONE);
        let profile = decoder.icc_profile().unwrap_or_default();
        if format == Format::Png && profile.is_none() && hides_a_profile(bytes) {
            return Err(profile_too_large(format, PNG_BESIDE_PIXELS));
        }
        Ok(Self { format, width, height, upright, profile })
    }

    /// The size of the upright picture.
    pub const fn size(&self) -> (u32, u32) {
        self.upright.size((self.width, self.height))
    }
}

/// Opens the decoder of the crate `image`; it has read the header and no more.
pub(super) fn decoder<'a>(
    bytes: &'a [u8],
    format: Format,
    limits: &Limits,
) -> Result<impl ImageDecoder + 'a, ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format.of_crate_image());
    let mut for_decoder = ::image::Limits::default();
    for_decoder.max_alloc = Some(limits.bytes_for_decoder(format));
    reader.limits(for_decoder);
    reader.into_decoder().map_err(|e| match (format, e) {
        (Format::Png, ::image::ImageError::Limits(_)) => {
            let most = PNG_BESIDE_PIXELS >> 20;
            let message = format!("the PNG has over {most} MiB beside its pixels (profile, EXIF, text) or in one row");
            ImageError::new(ErrorKind::TooLarge, message)
        }
        (_, e) => ImageError::from_decoder(format, e),
    })
}

/// Holds the frames of a WebP against its canvas, which is within the limits: the decoder makes room for whatever size they
/// say, and looks at that afterwards.
fn check_frames(webp: &[u8], canvas: (u32, u32)) -> Result<(), ImageError> {
    let check = |(name, content): ([u8; 4], &[u8])| {
        let Some(size) = frame_size(name, content) else { return Ok(()) };
        if size.0 <= canvas.0 && size.1 <= canvas.1 {
            return Ok(());
        }
        let what = format!("a frame in it has {}×{} pixels, its canvas {}×{}", size.0, size.1, canvas.0, canvas.1);
        Err(ImageError::corrupt(Format::Webp, what))
    };
    for (name, content) in Chunks(webp.get(12..).unwrap_or_default()) {
        check((name, content))?;
        if name == *b"ANMF" {
            // Behind where the frame lies, how large it is and how long it is shown.
            Chunks(content.get(16..).unwrap_or_default()).try_for_each(check)?;
        }
    }
    Ok(())
}

/// What a chunk of a WebP says of the size of its pixels, if it has some.
fn frame_size(name: [u8; 4], content: &[u8]) -> Option<(u32, u32)> {
    match (&name, content) {
        (b"VP8 ", &[_, _, _, 0x9D, 0x01, 0x2A, a, b, c, d, ..]) => {
            let length = |digits| u32::from(u16::from_le_bytes(digits) & 0x3FFF);
            Some((length([a, b]), length([c, d])))
        }
        (b"VP8L", &[0x2F, a, b, c, d, ..]) => {
            let lengths = u32::from_le_bytes([a, b, c, d]);
            Some((1 + (lengths & 0x3FFF), 1 + ((lengths >> 14) & 0x3FFF)))
        }
        _ => None,
    }
}

/// The chunks of a RIFF file: the name of each, and what is in it as far as that is there.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d, ref length @ ..], rest) = self.0.split_first_chunk::<8>()?;
        let length = u32::from_le_bytes(*length) as usize;
        self.0 = rest.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some(([a, b, c, d], &rest[..length.min(rest.len())]))
    }
}

fn profile_too_large(format: Format, most: u64) -> ImageError {
    let message = format!("the colour profile of the {} has more than {} MiB", format.name(), most >> 20);
    ImageError::new(ErrorKind::TooLarge, message)
}

/// Whether a PNG has a profile that its decoder may have left out since it unfolds to more than is allowed: it does so
/// without a word, as with one that is damaged. A smaller one than this can only be damaged.
fn hides_a_profile(png: &[u8]) -> bool {
    let mut rest = png.get(8..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]);
        match kind {
            b"iCCP" => return u64::from(length) > PNG_BESIDE_PIXELS / DEFLATE_AT_BEST,
            b"IDAT" => return false,
            _ => rest = after.get(length as usize + 4..).unwrap_or_default(), // 4: the check sum
        }
    }
    false
}

/// Knows the format by the first bytes.
///
/// # Errors
/// [`ErrorKind::Empty`]; [`ErrorKind::Unsupported`] for picture formats that are not read;
/// [`ErrorKind::NotAnImage`] for all else.
pub fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    match bytes {
        [] => Err(ImageError::new(ErrorKind::Empty, "the file is empty")),
        [0xFF, 0xD8, 0xFF, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::Webp),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Format::Gif),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Ok(Format::Tiff),
        [b'B', b'M', rest @ ..] if matches!(rest.get(12..16), Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])) => {
            Ok(Format::Bmp)
        }
        _ => Err(stranger(bytes)),
    }
}

/// Says what bytes are that are not read.
fn stranger(bytes: &[u8]) -> ImageError {
    let known = match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f' | b's', ..] => "AVIF picture",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', b'e' | b'i', ..] => "HEIC picture",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "film",
        [b'8', b'B', b'P', b'S', ..] => "Photoshop document",
        [b'%', b'P', b'D', b'F', ..] => "PDF document",
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "JPEG XL picture",
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => "JPEG 2000 picture",
        [0, 0, 1, 0, ..] => "Windows icon",
        [b'<', b's', b'v', b'g', ..] => "SVG drawing",
        [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..] => "BigTIFF picture",
        _ => {
            let start = bytes[..bytes.len().min(12)].escape_ascii();
            let message = format!("not an image: it begins with \"{start}\"; formats read are {}", Format::ALL);
            return ImageError::new(ErrorKind::NotAnImage, message);
        }
    };
    let article = if known.starts_with("AVIF") || known.starts_with("SVG") { "an" } else { "a" };
    ImageError::unsupported(format!("{article} {known} is not read; formats read are {}", Format::ALL))
}

#[cfg(test)]
mod tests {
    use ::image::codecs::webp::WebPEncoder;
    use ::image::{ExtendedColorType, ImageEncoder as _};

    use super::*;
    use crate::image::directory::tests::exif;

    #[test]
    fn the_format_is_known_by_content() {
        assert_eq!(sniff(b"\xFF\xD8\xFF\xE0rest").unwrap(), Format::Jpeg);
        assert_eq!(sniff(b"RIFF\0\0\0\0WEBPVP8 ").unwrap(), Format::Webp);
        assert_eq!(sniff(b"").unwrap_err().kind(), ErrorKind::Empty);
        assert_eq!(sniff(b"BM is how this note begins, at length").unwrap_err().kind(), ErrorKind::NotAnImage);
        assert_eq!(sniff(b"\0\0\0\x20ftypheic").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_is_no_picture_is_named_by_its_beginning() {
        let error = sniff(b"hello, I am a note").unwrap_err();

        assert_eq!(
            error.to_string(),
            "not an image: it begins with \"hello, I am \"; formats read are JPEG, PNG, WebP, GIF, TIFF, BMP"
        );
    }

    fn png_with_profile(bytes: usize) -> Vec<u8> {
        let (mut png, mut info) = (Vec::new(), png::Info::with_size(1, 1));
        info.icc_profile = Some(vec![0; bytes].into());
        let encoder = png::Encoder::with_info(&mut png, info).unwrap();
        encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
        png
    }

    #[test]
    fn a_profile_that_unfolds_to_too_much_is_refused() {
        let read = |mebibytes: usize| Header::read(&png_with_profile(mebibytes << 20), &Limits::default());

        assert!(read(1).unwrap().profile.is_some());
        for (mebibytes, most) in [(9, 8), (40, 32)] {
            let error = read(mebibytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert_eq!(error.to_string(), format!("the colour profile of the PNG has more than {most} MiB"));
        }
    }

    #[test]
    fn a_damaged_profile_is_left_aside() {
        let mut png = png_with_profile(1 << 10);
        let at = png.windows(4).position(|kind| kind == b"iCCP").unwrap();
        png[at + 12] ^= 0xFF;

        assert_eq!(Header::read(&png, &Limits::default()).unwrap().profile, None);
    }

    #[test]
    fn the_exif_of_a_webp_may_begin_with_its_name() {
        let exif = exif(0x0112, 3, 6);
        for exif in [exif.clone(), [&b"Exif\0\0"[..], &exif].concat()] {
            let mut webp = Vec::new();
            let mut encoder = WebPEncoder::new_lossless(&mut webp);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(&[7; 2 * 3], 2, 1, ExtendedColorType::Rgb8).unwrap();

            assert_eq!(Header::read(&webp, &Limits::default()).unwrap().size(), (1, 2));
        }
    }

    /// A WebP with that canvas, and with these chunks.
    fn extended(flags: u8, canvas: [u8; 2], chunks: &[u8]) -> Vec<u8> {
        let [width, height] = canvas.map(|side| side - 1);
        let head = chunk(b"VP8X", &[flags, 0, 0, 0, width, 0, 0, height, 0, 0]);
        chunk(b"RIFF", &[&b"WEBP"[..], &head, chunks].concat())
    }

    fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let padding = &[0][..content.len() % 2];
        [&name[..], &(content.len() as u32).to_le_bytes(), content, padding].concat()
    }

    /// The heads of frames, with loss and without.
    fn frames([width, height]: [u16; 2]) -> [Vec<u8>; 2] {
        let lengths = u32::from(width - 1) | (u32::from(height - 1) << 14);
        let lossy = [&[0, 0, 0, 0x9D, 0x01, 0x2A][..], &width.to_le_bytes(), &height.to_le_bytes()].concat();
        [chunk(b"VP8 ", &lossy), chunk(b"VP8L", &[&[0x2F][..], &lengths.to_le_bytes()].concat())]
    }

    #[test]
    fn a_frame_of_a_webp_may_not_be_larger_than_its_canvas() {
        let film = |frame: &[u8]| {
            let shown = [&[0; 6][..], &[7, 0, 0, 3, 0, 0, 100, 0, 0, 0], frame].concat();
            [chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &shown)].concat()
        };
        let [in_bounds, wide, huge] = [[8, 4], [9, 4], [16_000, 16_000]].map(frames);
        let read = |flags: u8, chunks: &[u8]| Header::read(&extended(flags, [8, 4], chunks), &Limits::default());
        for kind in [0, 1] {
            assert_eq!(read(0, &in_bounds[kind]).unwrap().size(), (8, 4));
            assert_eq!(read(2, &film(&in_bounds[kind])).unwrap().size(), (8, 4));
            for frames in [&wide, &huge] {
                assert_eq!(read(0, &frames[kind]).unwrap_err().kind(), ErrorKind::Corrupt);
                assert_eq!(read(2, &film(&frames[kind])).unwrap_err().kind(), ErrorKind::Corrupt);
            }
        }
        assert_eq!(
            read(0, &wide[0]).unwrap_err().to_string(),
            "the WebP is damaged: a frame in it has 9×4 pixels, its canvas 8×4"
        );
    }

    #[test]
    fn a_file_over_the_limit_is_not_looked_at() {
        let limits = Limits { max_bytes: 3, ..Limits::default() };

        assert_eq!(Header::read(b"hello", &limits).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
