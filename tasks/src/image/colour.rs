//! From the colours of an embedded ICC profile to sRGB.
//!
//! Results carry no profile, and a picture without one is shown as sRGB everywhere. Profiles of grays and of inks are
//! not applied, nor is one that is damaged: such pictures are taken as sRGB, as browsers do.

use moxcms::{ColorProfile, DataColorSpace, Layout, ProfileText, ToneReprCurve, TransformOptions};

use super::picture::{Channels, Picture};

/// How far a colorant may lie from that of sRGB, in XYZ. Makers' roundings of the same primaries and white lie
/// up to 0.0005 from those of `moxcms`; the nearest other primaries in use, of EBU and SMPTE-C, are 0.019 away.
const SAME_COLORANT: f64 = 0.002;

/// Converts a picture to sRGB, where its profile says that it is something else.
pub fn to_srgb(picture: Picture, profile: Option<&[u8]>) -> Picture {
    let layout = match picture.channels {
        Channels::Gray => return picture,
        Channels::Rgb => Layout::Rgb,
        Channels::Rgba => Layout::Rgba,
    };
    let Some(profile) = profile.and_then(|p| ColorProfile::new_from_slice(p).ok()) else { return picture };
    let srgb = ColorProfile::new_srgb();
    if profile.color_space != DataColorSpace::Rgb || is_srgb(&profile, &srgb) {
        return picture;
    }
    let Ok(transform) = profile.create_transform_8bit(layout, &srgb, layout, TransformOptions::default()) else {
        return picture;
    };
    let mut converted = Picture::blank(picture.width, picture.height, picture.channels);
    match transform.transform(&picture.data, &mut converted.data) {
        Ok(()) => converted,
        Err(_) => picture,
    }
}

/// Whether a profile is sRGB, as most are; to convert would cost time and shift samples by one. The name does not tell:
/// there are "Linear sRGB" and "e-sRGB".
fn is_srgb(profile: &ColorProfile, srgb: &ColorProfile) -> bool {
    let curves = [&profile.red_trc, &profile.green_trc, &profile.blue_trc];
    if curves.iter().all(|curve| curve.is_none()) {
        // All tables, as ICC's "sRGB v4 preference": of these, the name is all that is looked at.
        return is_called_srgb(profile);
    }
    let colorants = |of: &ColorProfile| [of.red_colorant, of.green_colorant, of.blue_colorant].map(|c| [c.x, c.y, c.z]);
    let (is, wanted) = (colorants(profile), colorants(srgb));
    let mut pairs = is.as_flattened().iter().zip(wanted.as_flattened());
    pairs.all(|(is, wanted)| (is - wanted).abs() < SAME_COLORANT)
        && curves.into_iter().all(|curve| is_curve_of(srgb, curve.as_ref()))
}

/// Whether a curve is that of sRGB: whether it gives each of the 256 levels a light of which sRGB makes that level.
fn is_curve_of(srgb: &ColorProfile, curve: Option<&ToneReprCurve>) -> bool {
    let light = |curve: Option<&ToneReprCurve>| curve.and_then(|curve| curve.make_linear_evaluator().ok());
    let (Some(is), Some(wanted)) = (light(curve), light(srgb.red_trc.as_ref())) else { return false };
    (0..=255_u8).map(f32::from).all(|level| {
        let [least, most] = [level - 0.5, level + 0.5].map(|level| wanted.evaluate_value(level / 255.0));
        (least..=most).contains(&is.evaluate_value(level / 255.0))
    })
}

fn is_called_srgb(profile: &ColorProfile) -> bool {
    match &profile.description {
        Some(ProfileText::PlainString(name)) => name.contains("sRGB"),
        Some(ProfileText::Localizable(names)) => names.iter().any(|name| name.value.contains("sRGB")),
        Some(ProfileText::Description(name)) => name.ascii_string.contains("sRGB"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn red() -> Picture {
        Picture { width: 1, height: 1, channels: Channels::Rgb, data: vec![200, 100, 100] }
    }

    #[test]
    fn a_wider_gamut_becomes_stronger_in_srgb() {
        let profile = ColorProfile::new_display_p3().encode().unwrap();

        let converted = to_srgb(red(), Some(&profile));

        assert!(converted.data[0] > 205 && converted.data[1] < 100, "{:?}", converted.data);
    }

    #[test]
    fn srgb_and_nonsense_change_nothing() {
        let srgb = ColorProfile::new_srgb().encode().unwrap();
        for profile in [None, Some(&srgb[..]), Some(&b"nonsense"[..])] {
            assert_eq!(to_srgb(red(), profile), red());
        }
    }

    /// sRGB with another curve. It keeps its name.
    fn with_curve(curve: ToneReprCurve) -> ColorProfile {
        let (mut profile, curve) = (ColorProfile::new_srgb(), Some(curve));
        profile.cicp = None; // it would say the same once more
        (profile.red_trc, profile.green_trc, profile.blue_trc) = (curve.clone(), curve.clone(), curve);
        profile
    }

    #[test]
    fn a_linear_profile_is_converted_whatever_its_name() {
        for linear in [ToneReprCurve::Parametric(vec![1.0]), ToneReprCurve::Lut(Vec::new())] {
            let converted = to_srgb(red(), Some(&with_curve(linear).encode().unwrap()));

            // Light of 100/255 is shown by the level 168, of 200/255 by 229.
            let off = converted.data.iter().zip([229, 168, 168]).map(|(is, wanted)| is.abs_diff(wanted)).max();
            assert!(off <= Some(1), "{:?}", converted.data);
        }
    }

    #[test]
    fn srgb_is_known_by_its_curves_and_colorants() {
        let srgb = ColorProfile::new_srgb();
        let table = |entries: u16| {
            let light = |level: f64| if level <= 0.04045 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) };
            let entry = |i: u16| (light(f64::from(i) / f64::from(entries - 1)) * 65535.0).round() as u16;
            ToneReprCurve::Lut((0..entries).map(entry).collect())
        };
        for curve in [table(1024), table(4096)] {
            assert!(is_srgb(&with_curve(curve), &srgb));
        }
        let mut hp = with_curve(table(1024));
        let colorant = |[x, y, z]: [f64; 3]| moxcms::Xyzd { x, y, z };
        hp.red_colorant = colorant([0.43607, 0.22249, 0.01392]);
        hp.green_colorant = colorant([0.38515, 0.71687, 0.09708]);
        hp.blue_colorant = colorant([0.14307, 0.06061, 0.7141]);
        hp.description = None;
        assert!(is_srgb(&hp, &srgb));

        for other in [
            with_curve(ToneReprCurve::Parametric(vec![2.2])),
            ColorProfile::new_display_p3(),
            ColorProfile::new_adobe_rgb(),
        ] {
            assert!(!is_srgb(&other, &srgb), "{:?}", other.description);
        }
    }
}
