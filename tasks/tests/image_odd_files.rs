//! Every file of `tests/odd-files` comes out as `expected.json` beside it says, and none makes the library panic.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tidemill_tasks::image::decode::decode;
use tidemill_tasks::image::picture::Picture;
use tidemill_tasks::image::{
    Eighths, Format, Header, Limits, Options, Order, Plan, Preparation, Target, prepare, steps, transform,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/odd-files")
}

fn expected() -> BTreeMap<String, Value> {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn plan(options: &str) -> Plan {
    Plan::new(serde_json::from_str::<Options>(options).unwrap()).unwrap()
}

/// Reads what `transform` wrote as PNG.
fn read(bytes: &[u8]) -> Picture {
    let limits = Limits::default();
    let header = Header::read(bytes, &limits).unwrap();
    decode(bytes, &header, &limits, Eighths::Eight).unwrap().picture.into_rgb()
}

/// Whether the pixel at x, y has the samples of `expected`, give or take.
fn is_near(picture: &Picture, (x, y): (u64, u64), expected: &Value, tolerance: u64) -> bool {
    let at = (y * u64::from(picture.width) + x) as usize;
    let is = &picture.data[at * 3..][..3];
    (0..3).all(|i| u64::from(is[i]).abs_diff(expected[i].as_u64().unwrap()) <= tolerance)
}

#[test]
fn every_odd_file_comes_out_as_expected() {
    let (as_it_is, as_png) = (plan("{}"), plan(r#"{"format": "png"}"#));
    let limits = Limits::default();
    for (name, expected) in expected() {
        let bytes = std::fs::read(folder().join(&name)).unwrap();

        let result = transform(&bytes, &as_png, &limits, &|| false);

        if let Some(kind) = expected["error"].as_str() {
            let error = result.expect_err(&name);
            assert_eq!(error.kind().as_str(), kind, "{name}: {error}");
            continue;
        }
        let png = result.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(serde_json::json!([png.width, png.height]), expected["size"], "{name}");
        let picture = read(&png.bytes);
        for pixel in expected["pixels"].as_array().unwrap() {
            let [x, y, tolerance] = [0, 1, 3].map(|i| pixel[i].as_u64().unwrap());
            assert!(is_near(&picture, (x, y), &pixel[2], tolerance), "{name}: not {pixel}");
        }
        let same = transform(&bytes, &as_it_is, &limits, &|| false).unwrap();
        let format: Format = serde_json::from_value(expected["format"].clone()).unwrap();
        assert_eq!((same.media_type, same.extension), (format.media_type(), format.extension()), "{name}");
    }
}

#[test]
fn the_list_of_expectations_is_the_folder() {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "expected.json");
    names.sort();
    assert_eq!(names, expected().into_keys().collect::<Vec<_>>());
}

#[test]
fn a_shrunk_picture_is_upright_too() {
    let plan = plan(r#"{"steps": [{"blur": 2}, {"thumbnail": 48}], "format": "png"}"#);
    for (name, expected) in expected().iter().filter(|(name, _)| name.starts_with("exif")) {
        let bytes = std::fs::read(folder().join(name)).unwrap();

        let small = transform(&bytes, &plan, &Limits::default(), &|| false).unwrap();

        let picture = read(&small.bytes);
        for pixel in expected["pixels"].as_array().unwrap() {
            let [x, y] = [0, 1].map(|i| pixel[i].as_u64().unwrap() / 2);
            assert!(is_near(&picture, (x, y), &pixel[2], 25), "{name}: not {pixel}");
        }
    }
}

#[test]
fn damaged_files_give_results_and_never_panics() {
    const MUTATIONS: u64 = 300;
    let limits = Limits { max_pixels: 1_000_000, ..Limits::default() };
    let plan = plan(r#"{"steps": [{"blur": 3}, {"thumbnail": 20}, {"sharpen": 1}], "format": "jpeg"}"#);
    let preparation = Preparation {
        resize: Target::ShortSide(24),
        filter: steps::Filter::Bilinear,
        crop: Some((20, 20)),
        channels: Order::Bgr,
    };
    let mut out = Vec::new();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for name in expected().into_keys().filter(|name| name != "empty.jpg") {
        let original = std::fs::read(folder().join(&name)).unwrap();
        for _ in 0..MUTATIONS {
            let mut bytes = original.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes.truncate(at + 1),
                    _ => drop(bytes.splice(at..at, [0xFF; 3])),
                }
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _transformed = transform(&bytes, &plan, &limits, &|| false);
                out.clear();
                match prepare(&bytes, &preparation, &limits, &mut out) {
                    Ok(prepared) => assert_eq!((prepared.size, out.len()), ((20, 20), 20 * 20 * 3)),
                    Err(_) => assert!(out.is_empty()),
                }
            }));
            assert!(result.is_ok(), "{name} panicked as {bytes:?}");
        }
    }
}

#[test]
fn what_is_cancelled_stops() {
    let bytes = std::fs::read(folder().join("plain.jpg")).unwrap();

    let error = transform(&bytes, &plan("{}"), &Limits::default(), &|| true).unwrap_err();

    assert_eq!(error.kind().as_str(), "stopped");
}
