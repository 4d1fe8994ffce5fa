//! TIFF through the crate `tiff`: header, decoding of the first page, encoding.

use std::borrow::Cow;
use std::io::{self, Cursor, Seek, Write};

use ::image::metadata::Orientation;
use ::tiff::decoder::{ChunkType, Decoder, DecodingResult};
use ::tiff::encoder::{TiffEncoder, colortype};
use ::tiff::tags::{CompressionMethod, ExtraSamples, PhotometricInterpretation, PlanarConfiguration, Predictor, Tag};
use ::tiff::{ColorType, TiffError, TiffResult, TiffUnsupportedError};

use super::directory;
use super::error::{ErrorKind, ImageError};
use super::header::{Format, Header, Limits};
use super::jpeg;
use super::picture::{Channels, Picture};
use super::turn::Turn;

/// The varieties that are read, as a message lists them.
const VARIETIES: &str = "gray, palette, RGB, CMYK and YCbCr with up to 16 bits a sample";

/// The largest block of a JPEG: 8 pixels, sampled by 4.
const LARGEST_BLOCK: u32 = 32;

/// The order of bits in which the first pixel of a byte is in its last bit.
const LAST_BIT_FIRST: u16 = 2;

/// What the samples of a pixel are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Gray,
    GrayAlpha,
    /// A place in the palette.
    Palette,
    Rgb,
    Rgba,
    Cmyk,
    YCbCr,
}

/// A file whose first directory is read.
struct Opened<'a> {
    decoder: Decoder<Cursor<Cow<'a, [u8]>>>,
    size: (u32, u32),
    kind: Kind,
    bits: u8,
    /// Whether colours are stored multiplied by their alpha.
    is_premultiplied: bool,
}

/// Reads size, orientation and profile.
pub(super) fn header(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    let Opened { mut decoder, size: (width, height), .. } = open(bytes, limits)?;
    // A damaged tag is no reason to refuse the picture: it is shown as it is stored.
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).unwrap_or_default();
    let upright = orientation.and_then(Orientation::from_exif).map_or(Turn::NONE, Turn::upright);
    let profile = decoder.get_tag_u8_vec(Tag::IccProfile).ok();
    Ok(Header { format: Format::Tiff, width, height, upright, profile })
}

/// Decodes.
///
/// # Errors
/// [`ErrorKind::Corrupt`], [`ErrorKind::Unsupported`], [`ErrorKind::TooLarge`].
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    let Opened { mut decoder, size: (width, height), kind, bits, is_premultiplied } = open(bytes, limits)?;
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(refused)?;
    if samples.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(refused(TiffError::LimitsExceeded));
    }
    let mut data = in_bytes(samples, bits, width)?;
    if layout.planes > 1 {
        data = interleaved(&data, layout.planes);
    }
    let (channels, mut data) = match kind {
        Kind::Gray => (Channels::Gray, scaled(data, bits)),
        Kind::GrayAlpha => (
            Channels::Rgba,
            data.as_chunks::<2>().0.iter().flat_map(|&[gray, alpha]| [gray, gray, gray, alpha]).collect(),
        ),
        Kind::Palette => {
            let palette = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(refused)?;
            (Channels::Rgb, coloured(&data, bits, &palette)?)
        }
        Kind::Rgb => (Channels::Rgb, data),
        Kind::Rgba => (Channels::Rgba, data),
        Kind::Cmyk => (Channels::Rgb, jpeg::rgb_of_cmyk(&data, false)),
        Kind::YCbCr => (Channels::Rgb, data.as_chunks::<3>().0.iter().flat_map(|&pixel| rgb_of_ycbcr(pixel)).collect()),
    };
    if data.len() != width as usize * height as usize * channels.count() {
        return Err(ImageError::corrupt(Format::Tiff, "it has more or fewer samples than its size says"));
    }
    if channels == Channels::Rgba && is_premultiplied {
        data.as_chunks_mut::<4>().0.iter_mut().for_each(divide_by_alpha);
    }
    Ok(Picture { width, height, channels, data })
}

fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Opened<'a>, ImageError> {
    let (bytes, has_palette) = as_grays(bytes);
    let most = usize::try_from(limits.bytes_for_decoder(Format::Tiff)).unwrap_or(usize::MAX);
    let mut for_decoder = ::tiff::decoder::Limits::default();
    for_decoder.decoding_buffer_size = most;
    for_decoder.intermediate_buffer_size = most;
    for_decoder.ifd_value_size = most;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(refused)?.with_limits(for_decoder);
    let size = decoder.dimensions().map_err(refused)?;
    limits.check("the picture", size)?; // before tags are read, which may be large too
    let colour = decoder.colortype().map_err(refused)?;
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(refused)?;
    let extra = extra.unwrap_or_default().first().copied().and_then(ExtraSamples::from_u16);
    let has_alpha = matches!(extra, Some(ExtraSamples::AssociatedAlpha | ExtraSamples::UnassociatedAlpha));
    let kind = match colour {
        ColorType::Gray(1 | 2 | 4 | 8) if has_palette => Kind::Palette,
        ColorType::Gray(1 | 2 | 4 | 8 | 16) if !has_palette => Kind::Gray,
        ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 } if has_alpha && !has_palette => Kind::GrayAlpha,
        ColorType::RGB(8 | 16 | 32) => Kind::Rgb,
        ColorType::RGBA(8 | 16 | 32) => Kind::Rgba,
        ColorType::CMYK(8 | 16) => Kind::Cmyk,
        ColorType::YCbCr(8) => Kind::YCbCr,
        other => return Err(pixels_not_read(&format!("{other:?}"), other.bit_depth())),
    };
    let is_premultiplied = extra == Some(ExtraSamples::AssociatedAlpha);
    let mut number = |tag| decoder.find_tag_unsigned::<u16>(tag).map_err(refused);
    let (planes, compression) = (number(Tag::PlanarConfiguration)?, number(Tag::Compression)?);
    let (samples, predictor) = (number(Tag::SamplesPerPixel)?.unwrap_or(1), number(Tag::Predictor)?);
    let order = number(Tag::FillOrder).unwrap_or_default();
    let is_tiled = decoder.get_chunk_type() == ChunkType::Tile;
    if planes == Some(PlanarConfiguration::Planar.to_u16()) {
        if is_tiled && colour.num_samples() > 1 {
            return Err(not_read("tiles that hold one colour each")); // there the decoder panics
        }
    } else if samples > colour.num_samples() {
        // The decoder takes them out before it undoes the predictor, which counts on them, and where it does so in a tile
        // it writes over the next one.
        if is_tiled || predictor.is_some_and(|predictor| predictor != Predictor::None.to_u16()) {
            return Err(not_read("samples beyond the colours, in tiles or with a predictor"));
        }
    }
    let is_jpeg = compression == Some(CompressionMethod::ModernJPEG.to_u16());
    // The decoder does not look. libtiff turns every byte around, however many bits a sample has; but not within a JPEG.
    if order == Some(LAST_BIT_FIRST) && !is_jpeg {
        return Err(not_read("bits in the other order"));
    }
    if is_jpeg {
        check_jpegs(&mut decoder, limits)?;
    }
    Ok(Opened { decoder, size, kind, bits: colour.bit_depth(), is_premultiplied })
}

/// Holds the JPEGs within against the limits and their strips or tiles: the decoder makes room for whatever size they say.
fn check_jpegs(decoder: &mut Decoder<Cursor<Cow<'_, [u8]>>>, limits: &Limits) -> Result<(), ImageError> {
    let (starts, lengths) = match decoder.get_chunk_type() {
        ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
        ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
    };
    let mut numbers = |tag| decoder.find_tag_unsigned_vec::<u64>(tag).map(Option::unwrap_or_default).map_err(refused);
    let (starts, lengths) = (numbers(starts)?, numbers(lengths)?);
    let tables = decoder.find_tag(Tag::JPEGTables).map_err(refused)?;
    let tables = tables.map(|_| decoder.get_tag_u8_vec(Tag::JPEGTables)).transpose().map_err(refused)?;
    // They are joined with every chunk, here and by the decoder. Real ones have less than 1 KB.
    let joined = tables.as_ref().map_or(0, Vec::len) as u64 * starts.len() as u64;
    if joined > limits.bytes_for_decoder(Format::Tiff) {
        return Err(ImageError::new(ErrorKind::TooLarge, "the TIFF has too large tables for its many JPEGs"));
    }
    let (width, height) = decoder.chunk_dimensions();
    let with_padding = |side: u32| side.checked_next_multiple_of(LARGEST_BLOCK).unwrap_or(side);
    let bytes = &decoder.inner().get_ref()[..];
    for (start, length) in starts.into_iter().zip(lengths) {
        let rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        let chunk = &rest[..usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()))];
        // As the decoder joins them: the end of the tables and the start of the chunk left out.
        let joined = tables
            .as_ref()
            .map(|tables| [&tables[..tables.len().saturating_sub(2)], chunk.get(2..).unwrap_or_default()].concat());
        let frames = jpeg::frames_of_plain(joined.as_deref().unwrap_or(chunk));
        if frames.is_empty() {
            return Err(ImageError::corrupt(Format::Tiff, "a JPEG in it does not say its size, or not plainly"));
        }
        for frame in frames {
            limits.check("a JPEG in the TIFF", frame.size)?;
            if frame.size.0 > with_padding(width) || frame.size.1 > with_padding(height) {
                let what = format!(
                    "a JPEG in it has {}×{} pixels, its strip or tile {width}×{height}",
                    frame.size.0, frame.size.1
                );
                return Err(ImageError::corrupt(Format::Tiff, what));
            }
        }
    }
    Ok(())
}

/// A file with a palette as one of grays, since the decoder knows no palettes: its grays are the places in that. Others as
/// they are.
fn as_grays(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    const PALETTE: u32 = PhotometricInterpretation::RGBPalette.to_u16() as u32;
    const BLACK_IS_ZERO: u8 = PhotometricInterpretation::BlackIsZero.to_u16() as u8;
    match directory::number(bytes, Tag::PhotometricInterpretation.to_u16()) {
        Some(number) if number.value == PALETTE => {
            let mut grays = bytes.to_vec();
            for digit in &mut grays[number.at..][..number.length] {
                *digit = BLACK_IS_ZERO.min(*digit);
            }
            (Cow::Owned(grays), true)
        }
        _ => (Cow::Borrowed(bytes), false),
    }
}

/// Gives each sample a byte; those of fewer bits keep their values.
fn in_bytes(samples: DecodingResult, bits: u8, width: u32) -> Result<Vec<u8>, ImageError> {
    match samples {
        DecodingResult::U8(rows) if bits < 8 => Ok(unpacked(&rows, usize::from(bits), width as usize)),
        DecodingResult::U8(bytes) => Ok(bytes),
        DecodingResult::U16(words) => Ok(words.iter().map(|&word| ((u32::from(word) + 128) / 257) as u8).collect()),
        DecodingResult::F32(shares) => Ok(shares.iter().map(|&share| (share * 255.0 + 0.5) as u8).collect()),
        _ => Err(not_read(&format!("such samples of {bits} bits"))),
    }
}

/// Takes samples of 1, 2 or 4 bits apart. Each row begins with a byte.
fn unpacked(rows: &[u8], bits: usize, width: usize) -> Vec<u8> {
    let to_a_byte = 8 / bits;
    let sample = |row: &[u8], x: usize| (row[x / to_a_byte] >> (8 - bits * (x % to_a_byte + 1))) & ((1 << bits) - 1);
    let rows = rows.chunks_exact(width.div_ceil(to_a_byte));
    rows.flat_map(|row| (0..width).map(move |x| sample(row, x))).collect()
}

/// Makes pixels of planes, of which each has one sample of all.
fn interleaved(planes: &[u8], count: usize) -> Vec<u8> {
    let length = planes.len() / count;
    (0..length).flat_map(|pixel| (0..count).map(move |plane| planes[plane * length + pixel])).collect()
}

/// Spreads grays of few bits over the levels of 8.
fn scaled(mut grays: Vec<u8>, bits: u8) -> Vec<u8> {
    if bits < 8 {
        let step = 255 / ((1 << bits) - 1);
        grays.iter_mut().for_each(|gray| *gray *= step);
    }
    grays
}

/// Looks places up in a palette: all reds, all greens, all blues, of 16 bits; of 8 in files of old programs.
fn coloured(places: &[u8], bits: u8, palette: &[u16]) -> Result<Vec<u8>, ImageError> {
    let colours = 1 << bits;
    if palette.len() < 3 * colours {
        return Err(ImageError::corrupt(Format::Tiff, "its palette has too few colours"));
    }
    let shift = if palette.iter().all(|&sample| sample < 256) { 0 } else { 8 };
    let colour = |&place: &u8| [0, 1, 2].map(|sample| (palette[sample * colours + usize::from(place)] >> shift) as u8);
    Ok(places.iter().flat_map(colour).collect())
}

/// Luma and differences become red, green and blue.
///
/// # Source
/// ITU-R BT.601 over all 256 levels, which is the default of TIFF.
fn rgb_of_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let [y, cb, cr] = [f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0];
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|sample| (sample + 0.5) as u8)
}

fn divide_by_alpha(pixel: &mut [u8; 4]) {
    let alpha = u32::from(pixel[3]);
    for sample in &mut pixel[..3] {
        *sample = (u32::from(*sample) * 255 + alpha / 2).checked_div(alpha).unwrap_or(0).min(255) as u8;
    }
}

fn refused(error: TiffError) -> ImageError {
    match error {
        TiffError::UnsupportedError(what) => match what {
            TiffUnsupportedError::InterpretationWithBits(kind, bits) => {
                pixels_not_read(&format!("{kind:?}"), bits.first().copied().unwrap_or_default())
            }
            TiffUnsupportedError::UnsupportedCompressionMethod(method) => not_read(&format!("compression {method:?}")),
            other => not_read(&other.to_string()),
        },
        TiffError::LimitsExceeded => ImageError::new(ErrorKind::TooLarge, "the TIFF needs too much memory"),
        TiffError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            ImageError::corrupt(Format::Tiff, "it ends before the picture does")
        }
        other => ImageError::corrupt(Format::Tiff, other),
    }
}

fn pixels_not_read(kind: &str, bits: u8) -> ImageError {
    let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    not_read(&format!("pixels of the kind {kind} with {bits} bits a sample"))
}

fn not_read(what: &str) -> ImageError {
    ImageError::unsupported(format!("this variety of TIFF is not read: {what}; read are {VARIETIES}"))
}

/// Encodes, with alpha that is not premultiplied.
///
/// # Errors
/// Where the file would be larger than 4 GiB.
pub(super) fn encode(picture: &Picture) -> TiffResult<Vec<u8>> {
    let mut bytes = Vec::new();
    write(picture, Cursor::new(&mut bytes))?;
    Ok(bytes)
}

fn write(picture: &Picture, to: impl Write + Seek) -> TiffResult<()> {
    let (data, width, height) = (&picture.data[..], picture.width, picture.height);
    let mut encoder = TiffEncoder::new(to)?;
    match picture.channels {
        Channels::Gray => encoder.write_image::<colortype::Gray8>(width, height, data),
        Channels::Rgb => encoder.write_image::<colortype::RGB8>(width, height, data),
        Channels::Rgba => {
            let mut image = encoder.new_image::<colortype::RGB8>(width, height)?;
            image.extra_samples(&[ExtraSamples::UnassociatedAlpha])?;
            image.write_data(data)
        }
    }
}

#[cfg(test)]
mod tests;
