//! scikit-learn's digits as a data set.

use std::path::Path;

use image::{GrayImage, imageops};

use super::repository;

/// Writes a folder for each class: of every five, four in `train` and one in `val`; of each class at most `most`.
pub(crate) fn write(to: &Path, most: u32) {
    let sprite = image::open(repository().join("vision/tests/digits.png")).unwrap().into_luma8();
    for digit in 0..10 {
        for place in 0..(sprite.width() / 8).min(most) {
            let picture: GrayImage = imageops::crop_imm(&sprite, 8 * place, 8 * digit, 8, 8).to_image();
            // Behind the last one of a row there is nothing.
            if picture.pixels().any(|pixel| pixel.0[0] > 0) {
                let part = if place % 5 == 4 { "val" } else { "train" };
                let folder = to.join(format!("{part}/{digit}"));
                std::fs::create_dir_all(&folder).unwrap();
                picture.save(folder.join(format!("{place:03}.png"))).unwrap();
            }
        }
    }
}
