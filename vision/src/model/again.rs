//! A second look: pictures about which half precision is undecided are seen again in fp32, so that the classes are those
//! that fp32 gives.

use tch::{TchError, Tensor};

use super::infer::Forward;

/// A quick network, and an exact one for what the quick one is undecided about. Both are on the CPU.
pub(super) struct Again {
    pub(super) quick: Box<dyn Forward>,
    pub(super) exact: Box<dyn Forward>,
    /// See [`Exact::doubt`](crate::precision::Exact::doubt).
    pub(super) doubt: f64,
}

impl Forward for Again {
    fn forward(&self, pixels: &[u8], count: i64) -> Result<Tensor, TchError> {
        let mut output = self.quick.forward(pixels, count)?;
        let doubtful = doubtful(&output, self.doubt)?;
        if doubtful.is_empty() {
            return Ok(output);
        }
        let one = pixels.len() / usize::try_from(count).unwrap_or(1).max(1);
        let places = doubtful.iter().filter_map(|&place| usize::try_from(place).ok());
        let again: Vec<u8> = places.flat_map(|place| &pixels[place * one..][..one]).copied().collect();
        let exact = self.exact.forward(&again, doubtful.len() as i64)?;
        output.f_index_copy_(0, &Tensor::f_from_slice(&doubtful)?, &exact)
    }

    fn probe(&self) -> Result<(), TchError> {
        self.quick.probe()
    }
}

/// Which rows of probabilities have their two largest too near to one another. What is no number is left as it is.
///
/// # Shape
///
/// in: `[n, classes]`, two classes or more · out: places from 0 to `n` - 1
fn doubtful(probabilities: &Tensor, doubt: f64) -> Result<Vec<i64>, TchError> {
    let two = probabilities.f_topk(2, 1, true, true)?.0.f_log()?;
    let apart = two.f_select(1, 0)?.f_sub(&two.f_select(1, 1)?)?;
    Ok((0..apart.size1()?).filter(|&row| apart.double_value(&[row]) < doubt).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Gives these rows, and remembers what it was shown.
    struct Gives(Vec<[f32; 2]>, std::sync::Arc<Mutex<Vec<u8>>>);

    impl Forward for Gives {
        fn forward(&self, pixels: &[u8], count: i64) -> Result<Tensor, TchError> {
            assert_eq!(count as usize, self.0.len());
            self.1.lock().unwrap().extend_from_slice(pixels);
            Ok(Tensor::from_slice2(&self.0))
        }

        fn probe(&self) -> Result<(), TchError> {
            Ok(())
        }
    }

    #[test]
    fn only_what_is_undecided_is_seen_again_and_only_that_changes() {
        let shown = std::sync::Arc::<Mutex<Vec<u8>>>::default();
        let quick = Gives(vec![[0.9, 0.1], [0.51, 0.49], [f32::NAN, 0.5], [0.48, 0.52]], std::sync::Arc::default());
        let exact = Gives(vec![[0.49, 0.51], [0.47, 0.53]], std::sync::Arc::clone(&shown));
        let again = Again { quick: Box::new(quick), exact: Box::new(exact), doubt: 0.1 };

        let output = again.forward(&[10, 11, 20, 21, 30, 31, 40, 41], 4).unwrap();

        assert_eq!(*shown.lock().unwrap(), [20, 21, 40, 41]);
        let first: Vec<f64> = (0..4).map(|row| output.double_value(&[row, 0])).collect();
        for (found, expected) in first.iter().zip([0.9, 0.49, f64::NAN, 0.47]) {
            assert!((found - expected).abs() < 1e-6 || found.is_nan() && expected.is_nan(), "{first:?}");
        }
    }
}
