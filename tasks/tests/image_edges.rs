//! Pictures that are unlike photographs come out as without a plan too: with a frame, with fine stripes, slender ones.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use tidemill_tasks::image::decode::decode;
use tidemill_tasks::image::encode::encode;
use tidemill_tasks::image::picture::{Channels, Picture};
use tidemill_tasks::image::{Eighths, Format, Header, Limits, Options, Plan, transform};

/// A gray picture of what is at each x and y.
fn drawn(width: u32, height: u32, gray: impl Fn(u32, u32) -> u8) -> Picture {
    let mut picture = Picture::blank(width, height, Channels::Gray);
    for (i, sample) in picture.data.iter_mut().enumerate() {
        *sample = gray(i as u32 % width, i as u32 / width);
    }
    picture
}

/// Dark, with an outermost pixel that is white.
fn framed() -> Picture {
    let is_edge = |x, y| x == 0 || y == 0 || x == 402 || y == 299;
    drawn(403, 300, |x, y| if is_edge(x, y) { 255 } else { 10 })
}

/// What the steps make of a file, planned or exact.
fn carried_out(file: &[u8], steps: &str, exact: bool) -> Picture {
    let options = format!(r#"{{"steps": {steps}, "format": "png", "exact": {exact}}}"#);
    let plan = Plan::new(serde_json::from_str::<Options>(&options).unwrap()).unwrap();
    let limits = Limits::default();
    let png = transform(file, &plan, &limits, &|| false).unwrap().bytes;
    let header = Header::read(&png, &limits).unwrap();
    decode(&png, &header, &limits, Eighths::Eight).unwrap().picture
}

fn distance(file: &[u8], steps: &str) -> f64 {
    let (planned, exact) = (carried_out(file, steps, false), carried_out(file, steps, true));
    assert_eq!((planned.width, planned.height, planned.channels), (exact.width, exact.height, exact.channels));
    let pairs = planned.data.iter().zip(&exact.data);
    let squares: f64 = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * exact.data.len() as f64 / squares).log10()
}

#[test]
fn a_frame_of_one_pixel_is_blurred_as_at_the_full_size() {
    let png = encode(framed(), Format::Png, 0).unwrap();
    for steps in [
        r#"[{"blur": 15}]"#,
        r#"[{"blur": 15}, {"thumbnail": 200}]"#,
        r#"[{"blur": 15}, {"rotate": 90}, {"resize": [300, 225]}]"#,
        r#"[{"blur": 6}, {"thumbnail": 80}]"#,
        r#"[{"blur": 30}, {"resize": [300, 30]}]"#,
    ] {
        let distance = distance(&png, steps);

        assert!(distance > 45.0, "{steps}: {distance:.1} dB");
    }
}

#[test]
fn a_blurred_frame_is_as_bright_as_its_outermost_pixel_makes_it() {
    let png = encode(framed(), Format::Png, 0).unwrap();

    let blurred = carried_out(&png, r#"[{"blur": 15}]"#, false);

    // Half of the kernel lies beyond the edge, and half a pixel of it, 0.0133, on the edge: 10 + 245 × 0.513.
    let middle = blurred.data[201];
    assert!(middle.abs_diff(136) <= 3, "{middle}");
}

#[test]
fn fine_stripes_before_a_shrink_are_not_reduced_without_a_blur_that_dissolves_them() {
    let png = encode(drawn(640, 200, |x, _| if x % 7 < 4 { 255 } else { 0 }), Format::Png, 0).unwrap();
    for steps in [r#"[{"blur": 0.5}, {"thumbnail": 80}]"#, r#"[{"blur": 15}, {"thumbnail": 200}]"#] {
        let distance = distance(&png, steps);

        assert!(distance > 45.0, "{steps}: {distance:.1} dB");
    }
}

#[test]
fn before_a_step_that_magnifies_strongly_a_shrink_is_exact_and_before_another_nearly() {
    let stripes = drawn(640, 480, |x, y| if (x / 3 + y / 5) % 2 == 0 { 160 } else { 90 });
    let jpeg = encode(stripes, Format::Jpeg, 90).unwrap();
    for step in [r#"{"contrast": 3}"#, r#"{"sharpen": {"sigma": 2, "amount": 3}}"#] {
        let steps = format!(r#"[{{"thumbnail": 70}}, {step}]"#);

        assert_eq!(carried_out(&jpeg, &steps, false), carried_out(&jpeg, &steps, true), "{step}");
    }
    for step in [r#"{"contrast": 1.5}"#, r#"{"brightness": 1.5}"#, r#"{"sharpen": 2}"#] {
        let distance = distance(&jpeg, &format!(r#"[{{"thumbnail": 70}}, {step}]"#));

        assert!(distance > 40.0, "{step}: {distance:.1} dB");
    }
}

#[test]
fn a_slender_picture_keeps_its_brightness() {
    let png = encode(drawn(1, 5_000_000, |_, _| 200), Format::Png, 0).unwrap();
    for (steps, size) in [(r#"[{"thumbnail": 10}]"#, (1, 10)), (r#"[{"resize": [2, 3000]}]"#, (2, 3000))] {
        let small = carried_out(&png, steps, false);

        assert_eq!((small.width, small.height), size);
        assert!(small.data.iter().all(|sample| sample.abs_diff(200) <= 1), "{steps}: {}", small.data[0]);
    }
}
