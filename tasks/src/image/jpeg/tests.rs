//! JPEGs as cameras and accidents make them.

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
        assert_eq!(error.to_string(), "the JPEG is damaged: it ends before the picture does", "after {length} bytes");
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
        assert_eq!((header(&bytes).unwrap().width, mended(&bytes)), (70, jpeg.clone()), "{strays:?}");
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
    for padding in [&[0x5A; 8][..], &[0; 40], &[0, 0, 0, 0, 0xFF]] {
        let padded = decode(&[scans, padding, end].concat(), Eighths::Eight);
        assert_eq!(padded.unwrap(), decode(&jpeg, Eighths::Eight).unwrap(), "{padding:?}");
    }
}

/// Two blocks with a restart marker between, and so many bytes before that.
fn with_a_restart(strays: usize) -> Vec<u8> {
    let jpeg = encode(&Picture::blank(8, 8, Channels::Gray), 90).unwrap();
    let at = |marker| jpeg.windows(2).position(|pair| pair == [0xFF, marker]).unwrap();
    let (frame, scan) = (at(0xC0), at(0xDA));
    let block = scan + 2 + usize::from(u16::from_be_bytes([jpeg[scan + 2], jpeg[scan + 3]]));
    let mut bytes = jpeg[..scan].to_vec();
    bytes[frame + 8] = 16; // the width
    bytes.extend_from_slice(&[0xFF, 0xDD, 0, 4, 0, 1]); // a restart after each block
    bytes.extend_from_slice(&jpeg[scan..jpeg.len() - 2]);
    bytes.extend(std::iter::repeat_n(0x5A, strays));
    bytes.extend_from_slice(&[0xFF, 0xD0]);
    bytes.extend_from_slice(&jpeg[block..]);
    bytes
}

#[test]
fn what_fills_up_before_a_restart_is_passed_over() {
    let clean = decode(&with_a_restart(0), Eighths::Eight).unwrap();
    for strays in [1, 4, PADDING] {
        let bytes = with_a_restart(strays);
        assert_eq!(decode(&bytes, Eighths::Eight).unwrap(), clean, "{strays}");
        let cut = decode(&bytes[..bytes.len() - 2], Eighths::Eight).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::Corrupt, "{strays}");
    }
    assert_eq!(decode(&with_a_restart(17), Eighths::Eight).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn segments_of_unknown_versions_are_taken_as_libjpeg_takes_them() {
    let jpeg = encode(&gradient(), 90).unwrap();
    let wanted = decode(&jpeg, Eighths::Eight).unwrap();
    let jfif = jpeg.windows(5).position(|name| name == b"JFIF\0").unwrap();
    for version in [[0, 0], [2, 1]] {
        let mut bytes = jpeg.clone();
        bytes[jfif + 5..jfif + 7].copy_from_slice(&version);

        assert_eq!(header(&bytes).unwrap().width, 70);
        assert_eq!(decode(&bytes, Eighths::Eight).unwrap(), wanted, "{version:?}");
    }
    // In the place of JFIF, which says more.
    let adobe = b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0\x05";
    let bytes = [&jpeg[..2], adobe, &jpeg[jfif - 4 + 18..]].concat();

    assert_eq!(header(&bytes).unwrap().width, 70);
    assert_eq!(decode(&bytes, Eighths::Eight).unwrap(), wanted);
}

#[test]
fn what_a_decoder_that_lost_step_leaves_is_damage() {
    let jpeg = encode(&gradient(), 90).unwrap();
    let progressive = &include_bytes!("../../../../tests/odd-files/progressive.jpg")[..];
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
