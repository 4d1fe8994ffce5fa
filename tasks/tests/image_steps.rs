//! Each step of `image.transform` comes out as Pillow has it (`tests/references/steps.py`). `--nocapture` shows the
//! distances.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic and shows what it measured")]

use std::path::PathBuf;

use tidemill_tasks::image::decode::decode;
use tidemill_tasks::image::picture::Picture;
use tidemill_tasks::image::{Eighths, Header, Limits, Options, Plan, transform};

/// What all begin with: a part of the photo.
const PART: &str = r#"{"crop": [180, 60, 120, 80]}"#;

fn file(path: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn read(bytes: &[u8]) -> Picture {
    let limits = Limits::default();
    let header = Header::read(bytes, &limits).unwrap();
    decode(bytes, &header, &limits, Eighths::Eight).unwrap().picture
}

fn reference(name: &str) -> Vec<u8> {
    file(&format!("tests/references/step.{name}.webp"))
}

/// What the steps make of a picture.
fn carried_out(picture: &[u8], steps: &str) -> Picture {
    let options = format!(r#"{{"steps": [{steps}], "format": "png"}}"#);
    let plan = Plan::new(serde_json::from_str::<Options>(&options).unwrap()).unwrap();
    read(&transform(picture, &plan, &Limits::default(), &|| false).unwrap().bytes)
}

/// The largest distance of two samples, in levels of 255.
fn farthest(name: &str, is: &Picture, wanted: &Picture) -> u8 {
    assert_eq!((is.width, is.height, is.channels), (wanted.width, wanted.height, wanted.channels), "{name}");
    let far = is.data.iter().zip(&wanted.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    eprintln!("{name}: {far} levels");
    far
}

#[test]
fn each_step_is_that_of_pillow() {
    let photo = file("examples/photos/animals/chelsea.png");
    for (name, step, levels) in [
        ("crop", "", 0),
        ("resize-bilinear", r#", {"resize": {"size": [47, 61], "filter": "bilinear"}}"#, 1),
        ("resize-bicubic", r#", {"resize": {"size": [47, 61], "filter": "bicubic"}}"#, 1),
        ("resize-lanczos3", r#", {"resize": [47, 61]}"#, 1),
        ("resize-larger", r#", {"resize": [200, 90]}"#, 2),
        ("rotate-90", r#", {"rotate": 90}"#, 0),
        ("rotate-180", r#", {"rotate": 180}"#, 0),
        ("rotate-270", r#", {"rotate": 270}"#, 0),
        ("flip-horizontal", r#", {"flip": "horizontal"}"#, 0),
        ("flip-vertical", r#", {"flip": "vertical"}"#, 0),
        ("grayscale", r#", "grayscale""#, 1),
        // Pillow blurs with boxes, we with a Gaussian, and what they differ in counts one and a half times.
        ("sharpen", r#", {"sharpen": 2}"#, 10),
        ("brightness", r#", {"brightness": 1.3}"#, 1),
        ("darkness", r#", {"brightness": 0.4}"#, 1),
        ("contrast", r#", {"contrast": 0.6}"#, 1),
        ("more-contrast", r#", {"contrast": 1.7}"#, 1),
    ] {
        let is = carried_out(&photo, &format!("{PART}{step}")).into_rgb();

        let far = farthest(name, &is, &read(&reference(name)).into_rgb());

        assert!(far <= levels, "{name}: {far} levels of {levels}");
    }
}

#[test]
fn colours_do_not_bleed_out_of_what_is_clear() {
    let is = carried_out(&reference("alpha"), r#"{"resize": [47, 61]}"#);
    let wanted = read(&reference("alpha-resize"));
    // What is nearly clear has few levels left for its colours: they count by what is seen.
    let seen = |picture: &Picture| -> Vec<u8> {
        let over_white = |pixel: &[u8]| {
            let alpha = u32::from(pixel[3]);
            [0, 1, 2].map(|c| ((u32::from(pixel[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
        };
        picture.data.chunks_exact(4).flat_map(over_white).collect()
    };
    assert_eq!((is.width, is.height, is.channels), (wanted.width, wanted.height, wanted.channels));

    let far = seen(&is).iter().zip(seen(&wanted)).map(|(a, b)| a.abs_diff(b)).max().unwrap();

    eprintln!("alpha: {far} levels");
    assert!(far <= 2, "{far} levels");
}
