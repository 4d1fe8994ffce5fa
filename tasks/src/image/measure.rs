//! The distance between two pictures, for the tests.

use super::picture::Picture;

/// The peak signal-to-noise ratio in decibels; infinite for equal pictures.
pub(super) fn psnr(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    let squares: f64 = a.data.iter().zip(&b.data).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * a.data.len() as f64 / squares).log10()
}
