//! The photos in `examples/photos` come out as Pillow has them (`tests/references/make.py`), and as planned they come
//! out as without a plan. `--nocapture` shows the distances.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic and shows what it measured")]

use std::path::{Path, PathBuf};

use ::image::codecs::png::PngEncoder;
use ::image::{ExtendedColorType, ImageEncoder as _};
use moxcms::ColorProfile;
use tidemill_tasks::image::decode::decode;
use tidemill_tasks::image::picture::{Channels, Picture};
use tidemill_tasks::image::steps::Filter;
use tidemill_tasks::image::{Eighths, Header, LEFT_TO_SHRINK, Limits, Options, Order, Plan, Preparation, Target};
use tidemill_tasks::image::{blur, prepare, resize, transform};

/// The side of the parts of the blurred photos that are compared.
const SIDE: u32 = 160;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The photos by name, with their bytes.
fn photos() -> Vec<(String, Vec<u8>)> {
    fn walk(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("examples/photos"), &mut found);
    assert!(found.len() >= 10);
    found.sort();
    found
}

/// Decodes whole, in the colours of the file.
fn read(bytes: &[u8]) -> Picture {
    let limits = Limits::default();
    let header = Header::read(bytes, &limits).unwrap();
    header.upright.apply(decode(bytes, &header, &limits, Eighths::Eight).unwrap().picture).into_rgb()
}

fn reference(name: &str, what: &str) -> Picture {
    read(&std::fs::read(root().join(format!("tests/references/{name}.{what}.webp"))).unwrap())
}

fn psnr(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    let squares: f64 = a.data.iter().zip(&b.data).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * a.data.len() as f64 / squares).log10()
}

/// Shows a distance and holds it against what it must be.
fn check(what: &str, distance: f64, least: f64) {
    eprintln!("{what}: {distance:.1} dB");
    assert!(distance >= least, "{what}: {distance:.1} dB, must be {least}");
}

#[test]
fn a_thumbnail_is_that_of_pillow_to_40_db() {
    for (name, bytes) in photos() {
        let photo = read(&bytes);
        let size = resize::fit((photo.width, photo.height), (320, 320));

        let small = resize::resize(&photo, resize::whole(&photo), size, Filter::Lanczos3).unwrap();

        check(&format!("thumbnail {name}"), psnr(&small, &reference(&name, "thumbnail")), 40.0);
    }
}

#[test]
fn a_blur_is_that_of_pillow_to_38_db_in_the_centre_and_in_the_corner() {
    for (name, bytes) in photos() {
        let photo = read(&bytes);
        let (x, y) = ((photo.width - SIDE) / 2, (photo.height - SIDE) / 2);

        let blurred = blur::gaussian(photo, (15.0, 15.0), blur::FINEST).unwrap();

        let reference = reference(&name, "blur");
        for (place, x, y, row) in [("centre", x, y, 0), ("corner", 0, 0, SIDE)] {
            let part = blurred.crop(x, y, SIDE, SIDE).unwrap();
            check(&format!("blur {name} {place}"), psnr(&part, &reference.crop(0, row, SIDE, SIDE).unwrap()), 38.0);
        }
    }
}

#[test]
fn a_photo_prepared_for_a_network_is_that_of_pillow_to_two_levels() {
    let preparation = Preparation {
        resize: Target::ShortSide(256),
        filter: Filter::Bicubic,
        crop: Some((224, 224)),
        channels: Order::Rgb,
    };
    for (name, bytes) in photos() {
        let mut data = Vec::new();

        let prepared = prepare(&bytes, &preparation, &Limits::default(), &mut data).unwrap();

        let picture = Picture { width: 224, height: 224, channels: Channels::Rgb, data };
        let reference = reference(&name, "network");
        let far = picture.data.iter().zip(&reference.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let is_reduced = bytes.starts_with(&[0xFF, 0xD8]) && prepared.width.min(prepared.height) >= 4 * 256;
        check(&format!("network {name}, at most {far} levels"), psnr(&picture, &reference), 40.0);
        assert!(far <= 2 || is_reduced, "{name}: {far} levels");
    }
}

#[test]
fn colours_are_lost_as_srgb_whether_before_a_shrink_or_after() {
    let mut whole = read(&std::fs::read(root().join("examples/photos/animals/chelsea.png")).unwrap());
    // As far from gray as it goes.
    for [red, _, blue] in whole.data.as_chunks_mut::<3>().0 {
        (*red, *blue) = (red.saturating_mul(2), *blue / 3);
    }
    let profile = ColorProfile::new_display_p3().encode().unwrap();
    let mut wide = Vec::new();
    let mut encoder = PngEncoder::new(&mut wide);
    encoder.set_icc_profile(profile).unwrap();
    encoder.write_image(&whole.data, whole.width, whole.height, ExtendedColorType::Rgb8).unwrap();
    let run = |bytes: &[u8], options: &str| {
        let options = format!(r#"{{{options}, "format": "png"}}"#);
        let plan = Plan::new(serde_json::from_str::<Options>(&options).unwrap()).unwrap();
        transform(bytes, &plan, &Limits::default(), &|| false).unwrap().bytes
    };
    let srgb = run(&wide, r#""steps": []"#);
    let wanted = read(&run(&srgb, r#""exact": true, "steps": ["grayscale", {"thumbnail": 100}]"#));

    for (exact, steps, least) in [
        ("true", r#"["grayscale", {"thumbnail": 100}]"#, 50.0),
        ("false", r#"["grayscale", {"thumbnail": 100}]"#, 45.0),
        ("false", r#"[{"thumbnail": 100}, "grayscale"]"#, 45.0),
    ] {
        let is = read(&run(&wide, &format!(r#""exact": {exact}, "steps": {steps}"#)));
        check(&format!("gray {steps}, exact: {exact}"), psnr(&is, &wanted), least);
    }
}

#[test]
fn what_is_planned_is_what_is_exact_to_40_db() {
    let cases = [
        r#"[{"blur": 15}, {"thumbnail": 300}]"#,
        r#"[{"blur": 15}, {"resize": [500, 220]}]"#,
        r#"[{"blur": 5}, {"thumbnail": 200}]"#,
        r#"[{"blur": 1.5}, {"rotate": 90}, {"thumbnail": 100}]"#,
        r#"[{"thumbnail": 200}]"#,
        r#"[{"flip": "vertical"}, {"thumbnail": 120}, "grayscale"]"#,
        r#"[{"thumbnail": 60}, {"sharpen": 1}]"#,
        r#"[{"thumbnail": 100}, {"contrast": 1.5}]"#,
        r#"[{"blur": 30}]"#,
    ];
    let mut misses = Vec::new();
    for (name, bytes) in photos() {
        let header = Header::read(&bytes, &Limits::default()).unwrap();
        // Just where half the size is decoded, and a quarter: there the least is left to shrink.
        let longest = f64::from(header.width.max(header.height));
        let at_the_edge = [2.0, 4.0].map(|fraction| longest / fraction / LEFT_TO_SHRINK);
        let at_the_edge = at_the_edge.map(|side| format!(r#"[{{"thumbnail": {}}}]"#, side.floor()));
        for steps in cases.into_iter().chain(at_the_edge.iter().map(String::as_str)) {
            let run = |exact: bool| {
                let options = format!(r#"{{"steps": {steps}, "format": "png", "exact": {exact}}}"#);
                let plan = Plan::new(serde_json::from_str::<Options>(&options).unwrap()).unwrap();
                read(&transform(&bytes, &plan, &Limits::default(), &|| false).unwrap().bytes)
            };

            let distance = psnr(&run(false), &run(true));

            eprintln!("plan {name} {steps}: {distance:.1} dB");
            if distance < 40.0 {
                misses.push(format!("{name} {steps}: {distance:.1} dB"));
            }
        }
    }
    assert!(misses.is_empty(), "{misses:#?}");
}
