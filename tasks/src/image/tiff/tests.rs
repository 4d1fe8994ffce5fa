//! TIFFs of all sorts, good and hostile.

use super::*;
use crate::image::measure::psnr;

/// A file of one strip: the tags with their numbers, and where the samples are.
fn file(tags: &[(Tag, &[u16])], samples: &[u8]) -> Vec<u8> {
    let place = [8_u16];
    let length = [samples.len() as u16];
    file_of(&[tags, &[(Tag::StripOffsets, &place[..]), (Tag::StripByteCounts, &length[..])]].concat(), samples)
}

/// A file: the tags with their numbers, and the samples from its 8th byte on.
fn file_of(tags: &[(Tag, &[u16])], samples: &[u8]) -> Vec<u8> {
    let mut file = b"II*\0\0\0\0\0".to_vec();
    file.extend_from_slice(samples);
    let mut tags = tags.to_vec();
    tags.sort_by_key(|(tag, _)| tag.to_u16());
    let mut directory = (tags.len() as u16).to_le_bytes().to_vec();
    for (tag, numbers) in tags {
        directory.extend_from_slice(&tag.to_u16().to_le_bytes());
        let is_of_bytes = tag == Tag::JPEGTables;
        directory.extend_from_slice(&[if is_of_bytes { 1 } else { 3 }, 0]); // of 8 or 16 bits
        directory.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
        let mut digits: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if is_of_bytes {
            digits = digits.into_iter().step_by(2).collect();
        }
        if digits.len() > 4 {
            let place = (file.len() as u32).to_le_bytes();
            file.append(&mut digits);
            digits = place.to_vec();
        }
        digits.resize(4, 0);
        directory.append(&mut digits);
    }
    let start = (file.len() as u32).to_le_bytes();
    file[4..8].copy_from_slice(&start);
    [&file[..], &directory, &[0; 4]].concat()
}

fn page(
    size: [u16; 2],
    photometric: PhotometricInterpretation,
    bits: &[u16],
    more: &[(Tag, &[u16])],
    samples: &[u8],
) -> Vec<u8> {
    let (count, photometric) = ([bits.len() as u16], [photometric.to_u16()]);
    let tags: &[(Tag, &[u16])] = &[
        (Tag::ImageWidth, &size[..1]),
        (Tag::ImageLength, &size[1..]),
        (Tag::BitsPerSample, bits),
        (Tag::SamplesPerPixel, &count),
        (Tag::PhotometricInterpretation, &photometric),
    ];
    file(&[tags, more].concat(), samples)
}

fn read(bytes: &[u8]) -> Picture {
    let header = Header::read(bytes, &Limits::default()).unwrap();
    let picture = decode(bytes, &Limits::default()).unwrap();
    assert_eq!((header.width, header.height), (picture.width, picture.height));
    picture
}

#[test]
fn alpha_is_divided_out_where_the_file_says_that_it_is_multiplied_in() {
    let samples = [50, 100, 25, 128, 9, 9, 9, 0, 90, 80, 70, 255];
    for (extra, seen) in [(2, samples), (1, [100, 199, 50, 128, 0, 0, 0, 0, 90, 80, 70, 255])] {
        let more: &[(Tag, &[u16])] = &[(Tag::ExtraSamples, &[extra])];

        let picture = read(&page([3, 1], PhotometricInterpretation::RGB, &[8; 4], more, &samples));

        assert_eq!((picture.channels, &picture.data[..]), (Channels::Rgba, &seen[..]), "{extra}");
    }
}

#[test]
fn gray_with_alpha_is_read() {
    let more: &[(Tag, &[u16])] = &[(Tag::ExtraSamples, &[2])];

    let picture = read(&page([2, 1], PhotometricInterpretation::BlackIsZero, &[8; 2], more, &[60, 200, 7, 0]));

    assert_eq!((picture.channels, &picture.data[..]), (Channels::Rgba, &[60, 60, 60, 200, 7, 7, 7, 0][..]));
}

#[test]
fn grays_of_few_bits_are_read() {
    for (bits, samples, seen) in [(1, 0b0110_0000, [0, 255, 255, 0]), (2, 0b00_01_10_11, [0, 85, 170, 255])] {
        let picture = read(&page([4, 1], PhotometricInterpretation::BlackIsZero, &[bits], &[], &[samples]));

        assert_eq!((picture.channels, &picture.data[..]), (Channels::Gray, &seen[..]));
    }
}

#[test]
fn a_palette_is_read_of_8_bits_and_of_16() {
    for factor in [1, 0x100] {
        let mut palette = [0_u16; 48];
        (palette[1], palette[17], palette[33]) = (0x11 * factor, 0x22 * factor, 0x33 * factor);
        let more: &[(Tag, &[u16])] = &[(Tag::ColorMap, &palette)];

        let picture = read(&page([3, 1], PhotometricInterpretation::RGBPalette, &[4], more, &[0x10, 0x10]));

        let seen = [0x11, 0x22, 0x33, 0, 0, 0, 0x11, 0x22, 0x33];
        assert_eq!((picture.channels, &picture.data[..]), (Channels::Rgb, &seen[..]));
    }
    let more: &[(Tag, &[u16])] = &[(Tag::ColorMap, &[7; 9])];
    let short = page([2, 1], PhotometricInterpretation::RGBPalette, &[8], more, &[0, 1]);
    assert_eq!(decode(&short, &Limits::default()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_jpeg_within_is_read() {
    let mut picture = Picture::blank(70, 50, Channels::Rgb);
    for (i, pixel) in picture.data.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        *pixel = [(i % 70 * 3) as u8, (i / 70 * 5) as u8, 90];
    }
    let strip = jpeg::encode(&picture, 90).unwrap();
    let more: &[(Tag, &[u16])] = &[(Tag::Compression, &[7])];

    let read = read(&page([70, 50], PhotometricInterpretation::YCbCr, &[8; 3], more, &strip));

    let distance = psnr(&read, &picture);

    assert!(distance > 30.0, "{distance:.1} dB");
}

#[test]
fn a_jpeg_within_may_not_be_larger_than_its_strip() {
    let jpeg = jpeg::encode(&Picture::blank(70, 50, Channels::Gray), 90).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let more: &[(Tag, &[u16])] = &[(Tag::Compression, &[7])];
    for (size, kind) in [(16_000_u16, ErrorKind::TooLarge), (97, ErrorKind::Corrupt)] {
        let mut strip = jpeg.clone();
        strip[frame + 5..frame + 7].copy_from_slice(&size.to_be_bytes());
        strip[frame + 7..frame + 9].copy_from_slice(&size.to_be_bytes());
        let bytes = page([70, 50], PhotometricInterpretation::BlackIsZero, &[8], more, &strip);

        assert_eq!(Header::read(&bytes, &Limits::default()).unwrap_err().kind(), kind, "{size}");
    }
    let strays = [&jpeg[..2], &[0xFF, 0], &jpeg[2..]].concat();
    let bytes = page([70, 50], PhotometricInterpretation::BlackIsZero, &[8], more, &strays);
    assert_eq!(Header::read(&bytes, &Limits::default()).unwrap_err().kind(), ErrorKind::Corrupt);
    // Without a size, and with one in the tables that stand apart.
    let apart: Vec<u16> = jpeg.iter().map(|&byte| u16::from(byte)).collect();
    for (more, is_read) in [(more, false), (&[more[0], (Tag::JPEGTables, &apart[..])], true)] {
        let bytes = page([70, 50], PhotometricInterpretation::BlackIsZero, &[8], more, &[0xFF, 0xD8, 0xFF, 0xD9]);

        assert_eq!(Header::read(&bytes, &Limits::default()).is_ok(), is_read);
    }
}

#[test]
fn large_tables_are_not_joined_with_a_multitude_of_jpegs() {
    let mut tables: Vec<u16> =
        jpeg::encode(&Picture::blank(8, 1, Channels::Gray), 90).unwrap().into_iter().map(u16::from).collect();
    tables.resize(60_000, 0);
    let (starts, lengths) = (vec![8; 15_000], vec![4; 15_000]);
    let tags: &[(Tag, &[u16])] = &[
        (Tag::ImageWidth, &[8]),
        (Tag::ImageLength, &[15_000]),
        (Tag::RowsPerStrip, &[1]),
        (Tag::BitsPerSample, &[8]),
        (Tag::SamplesPerPixel, &[1]),
        (Tag::PhotometricInterpretation, &[1]),
        (Tag::Compression, &[7]),
        (Tag::StripOffsets, &starts),
        (Tag::StripByteCounts, &lengths),
        (Tag::JPEGTables, &tables),
    ];

    let error = Header::read(&file_of(tags, &[0xFF, 0xD8, 0xFF, 0xD9]), &Limits::default()).unwrap_err();

    assert_eq!((error.kind(), error.to_string().contains("too large tables")), (ErrorKind::TooLarge, true), "{error}");
}

#[test]
fn planes_in_tiles_are_not_read() {
    let sides: [(Tag, &[u16]); 2] = [(Tag::TileWidth, &[16]), (Tag::TileLength, &[16])];
    let places: [(Tag, &[u16]); 2] = [(Tag::TileOffsets, &[8; 6]), (Tag::TileByteCounts, &[256; 6])];
    let more = [&sides[..], &places, &[(Tag::PlanarConfiguration, &[2])]].concat();
    // Tiles only: strips beside them are refused.
    let size: [(Tag, &[u16]); 2] = [(Tag::ImageWidth, &[20]), (Tag::ImageLength, &[10])];
    let pixel: [(Tag, &[u16]); 3] =
        [(Tag::BitsPerSample, &[8; 3]), (Tag::SamplesPerPixel, &[3]), (Tag::PhotometricInterpretation, &[2])];
    let bytes = file_of(&[&size[..], &pixel, &more].concat(), &[7; 256]);

    let error = Header::read(&bytes, &Limits::default()).unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("is not read: tiles that hold one colour each; read are"), "{error}");
}

fn refusal(bytes: &[u8]) -> String {
    let error = Header::read(bytes, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    error.to_string()
}

#[test]
fn samples_beyond_the_colours_are_passed_over_where_the_decoder_can() {
    let extra: (Tag, &[u16]) = (Tag::ExtraSamples, &[0]);
    let samples = [10, 20, 30, 99, 40, 50, 60, 99];
    let wide: Vec<u8> = samples.iter().flat_map(|&sample| [sample; 2]).collect();

    for (bits, samples) in [(8, &samples[..]), (16, &wide[..])] {
        let picture = read(&page([2, 1], PhotometricInterpretation::RGB, &[bits; 4], &[extra], samples));

        assert_eq!((picture.channels, &picture.data[..]), (Channels::Rgb, &[10, 20, 30, 40, 50, 60][..]), "{bits}");
    }
    let inks = [255, 255, 255, 0, 7, 0, 0, 0, 0, 7];
    let picture = read(&page([2, 1], PhotometricInterpretation::CMYK, &[8; 5], &[extra], &inks));
    assert_eq!((picture.channels, &picture.data[..]), (Channels::Rgb, &[0, 0, 0, 255, 255, 255][..]));
}

#[test]
fn samples_beyond_the_colours_are_not_read_with_a_predictor_or_in_tiles() {
    let said = "is not read: samples beyond the colours, in tiles or with a predictor; read are";
    let extra: (Tag, &[u16]) = (Tag::ExtraSamples, &[0]);
    let predictor: (Tag, &[u16]) = (Tag::Predictor, &[2]);
    let rgb = page([2, 1], PhotometricInterpretation::RGB, &[8; 4], &[extra, predictor], &[7; 8]);
    let cmyk = page([2, 1], PhotometricInterpretation::CMYK, &[8; 5], &[extra, predictor], &[7; 10]);
    let sides: [(Tag, &[u16]); 4] =
        [(Tag::ImageWidth, &[20]), (Tag::ImageLength, &[10]), (Tag::TileWidth, &[16]), (Tag::TileLength, &[16])];
    let places: [(Tag, &[u16]); 2] = [(Tag::TileOffsets, &[8; 2]), (Tag::TileByteCounts, &[1024; 2])];
    let pixel: [(Tag, &[u16]); 4] =
        [(Tag::BitsPerSample, &[8; 4]), (Tag::SamplesPerPixel, &[4]), (Tag::PhotometricInterpretation, &[2]), extra];
    let tiled = file_of(&[&sides[..], &places, &pixel].concat(), &[7; 1024]);
    for bytes in [rgb, cmyk, tiled] {
        let error = refusal(&bytes);
        assert!(error.contains(said), "{error}");
    }

    // What says that there is none, or has no samples beyond the colours, is read.
    let none: (Tag, &[u16]) = (Tag::Predictor, &[1]);
    let samples = [1, 2, 3, 0, 4, 5, 6, 0];
    let picture = read(&page([2, 1], PhotometricInterpretation::RGB, &[8; 4], &[extra, none], &samples));
    assert_eq!(picture.data, [1, 2, 3, 4, 5, 6]);
    let picture = read(&page([2, 1], PhotometricInterpretation::RGB, &[8; 3], &[predictor], &[1, 2, 3, 4, 5, 6]));
    assert_eq!(picture.data, [1, 2, 3, 5, 7, 9]);
}

#[test]
fn bits_in_the_other_order_are_not_read() {
    let order: (Tag, &[u16]) = (Tag::FillOrder, &[2]);
    let gray = PhotometricInterpretation::BlackIsZero;
    let fax: (Tag, &[u16]) = (Tag::Compression, &[4]);
    for (bits, more) in [(1, &[order][..]), (4, &[order]), (8, &[order]), (1, &[order, fax])] {
        let error = refusal(&page([4, 1], gray, &[bits], more, &[7; 4]));
        assert!(error.contains("is not read: bits in the other order; read are"), "{error}");
    }

    let usual: (Tag, &[u16]) = (Tag::FillOrder, &[1]);
    assert_eq!(read(&page([4, 1], gray, &[1], &[usual], &[0b0110_0000])).data, [0, 255, 255, 0]);
    // Within a JPEG nothing is turned around.
    let jpeg = jpeg::encode(&Picture::blank(16, 16, Channels::Gray), 90).unwrap();
    let within: (Tag, &[u16]) = (Tag::Compression, &[7]);
    assert_eq!(read(&page([16, 16], gray, &[8], &[order, within], &jpeg)).width, 16);
}

#[test]
fn what_is_not_read_is_said_in_words() {
    type Case = (PhotometricInterpretation, &'static [u16], (Tag, &'static [u16]), &'static str);
    let cases: [Case; 3] = [
        (
            PhotometricInterpretation::BlackIsZero,
            &[32],
            (Tag::SampleFormat, &[3]),
            "pixels of the kind Gray with 32 bits a sample",
        ),
        (
            PhotometricInterpretation::CIELab,
            &[8, 8, 8],
            (Tag::Compression, &[1]),
            "pixels of the kind CIELab with 8 bits a sample",
        ),
        (PhotometricInterpretation::BlackIsZero, &[1], (Tag::Compression, &[3]), "compression Fax3"),
    ];
    for (photometric, bits, more, said) in cases {
        let bytes = page([1, 1], photometric, bits, &[more], &[0; 12]);

        let error = Header::read(&bytes, &Limits::default()).and(decode(&bytes, &Limits::default())).unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let wanted = format!("this variety of TIFF is not read: {said}; read are {VARIETIES}");
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn a_file_says_that_its_alpha_is_not_multiplied_in() {
    let data = vec![200, 100, 50, 128, 1, 2, 3, 0];
    let picture = Picture { width: 2, height: 1, channels: Channels::Rgba, data };

    let bytes = encode(&picture).unwrap();

    let extra = directory::number(&bytes, Tag::ExtraSamples.to_u16()).unwrap();
    assert_eq!(extra.value, u32::from(ExtraSamples::UnassociatedAlpha.to_u16()));
    assert_eq!(read(&bytes), picture);
}
