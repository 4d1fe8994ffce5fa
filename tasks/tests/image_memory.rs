//! A slender picture takes no more memory on its way than a picture may have: nothing between is larger than what it was or
//! becomes. A test of its own process, since it looks at the most that the process ever had.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use tidemill_tasks::image::encode::encode;
use tidemill_tasks::image::picture::{Channels, Picture};
use tidemill_tasks::image::{Format, Limits, Options, Order, Plan, Preparation, Target, prepare, steps, transform};

/// The most memory that this process ever had, in MiB.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut picture = Picture::blank(width, height, Channels::Gray);
    picture.data.fill(200);
    encode(picture, Format::Png, 0).unwrap()
}

#[test]
fn a_slender_picture_does_not_grow_between() {
    let limits = Limits { max_pixels: 5_000_000, ..Limits::default() };
    let preparation = Preparation {
        resize: Target::Exact(256, 256),
        filter: steps::Filter::Bilinear,
        crop: None,
        channels: Order::Rgb,
    };
    let mut prepared = Vec::new();

    prepare(&png(1, 4_000_000), &preparation, &limits, &mut prepared).unwrap();
    assert_eq!(prepared.len(), 256 * 256 * 3);
    assert!(prepared.iter().all(|sample| sample.abs_diff(200) < 2));

    let crop = Preparation { resize: Target::ShortSide(256), crop: Some((224, 224)), ..preparation };
    prepared.clear();
    prepare(&png(2, 30_000), &crop, &limits, &mut prepared).unwrap(); // 256×3,840,000 with what lies beside the crop
    assert_eq!(prepared.len(), 224 * 224 * 3);

    for steps in [r#"[{"resize": [30, 65535]}]"#, r#"[{"rotate": 90}, {"resize": [65535, 30]}]"#] {
        let options = format!(r#"{{"steps": {steps}, "format": "png"}}"#);
        let plan = Plan::new(serde_json::from_str::<Options>(&options).unwrap()).unwrap();
        transform(&png(65_535, 30), &plan, &limits, &|| false).unwrap();
    }

    for steps in [r#"[{"thumbnail": 10}]"#, r#"[{"resize": [1, 65535]}]"#] {
        let plan = Plan::new(serde_json::from_str::<Options>(&format!(r#"{{"steps": {steps}}}"#)).unwrap()).unwrap();
        transform(&png(1, 5_000_000), &plan, &limits, &|| false).unwrap();
    }

    let most = most_memory();
    assert!(most < 400, "{most} MiB");
}
