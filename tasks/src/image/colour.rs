//! From the colours of an embedded ICC profile to sRGB.
//!
//! Results carry no profile, and a picture without one is shown as sRGB everywhere. Profiles of grays and of inks are
//! not applied, nor is one that is damaged: such pictures are taken as sRGB, as browsers do.

use moxcms::{ColorProfile, DataColorSpace, Layout, ProfileText, TransformOptions};

use super::picture::{Channels, Picture};

/// Converts a picture to sRGB, where its profile says that it is something else.
pub fn to_srgb(picture: Picture, profile: Option<&[u8]>) -> Picture {
    let layout = match picture.channels {
        Channels::Gray => return picture,
        Channels::Rgb => Layout::Rgb,
        Channels::Rgba => Layout::Rgba,
    };
    let Some(profile) = profile.and_then(|p| ColorProfile::new_from_slice(p).ok()) else { return picture };
    if profile.color_space != DataColorSpace::Rgb || is_srgb(&profile) {
        return picture;
    }
    let srgb = ColorProfile::new_srgb();
    let Ok(transform) = profile.create_transform_8bit(layout, &srgb, layout, TransformOptions::default()) else {
        return picture;
    };
    let mut converted = Picture::blank(picture.width, picture.height, picture.channels);
    match transform.transform(&picture.data, &mut converted.data) {
        Ok(()) => converted,
        Err(_) => picture,
    }
}

/// Whether a profile says by its name that it is sRGB, as most do; to convert would cost time and change nothing.
fn is_srgb(profile: &ColorProfile) -> bool {
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
}
