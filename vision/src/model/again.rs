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
        let output = self.quick.forward(pixels, count)?;
        let one = pixels.len() / usize::try_from(count).unwrap_or(1).max(1);
        for place in doubtful(&output, self.doubt)? {
            // One at a time: how many there are differs from batch to batch, and more of them than ever before would take
            // memory that nothing else has needed.
            let exact = self.exact.forward(&pixels[place * one..][..one], 1)?;
            output.f_get(place as i64)?.f_copy_(&exact.f_get(0)?)?;
        }
        Ok(output)
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
fn doubtful(probabilities: &Tensor, doubt: f64) -> Result<Vec<usize>, TchError> {
    let two = probabilities.f_topk(2, 1, true, true)?.0.f_log()?;
    let apart = Vec::<f64>::try_from(two.f_select(1, 0)?.f_sub(&two.f_select(1, 1)?)?)?;
    Ok(apart.iter().enumerate().filter(|(_, apart)| **apart < doubt).map(|(place, _)| place).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Gives these rows, as many at a time as it is shown pictures, and remembers those.
    struct Gives(Mutex<VecDeque<[f32; 2]>>, Arc<Mutex<Vec<Vec<u8>>>>);

    impl Forward for Gives {
        fn forward(&self, pixels: &[u8], count: i64) -> Result<Tensor, TchError> {
            self.1.lock().unwrap().push(pixels.to_vec());
            let rows = self.0.lock().unwrap().drain(..count as usize).collect::<Vec<_>>();
            Ok(Tensor::from_slice2(&rows))
        }

        fn probe(&self) -> Result<(), TchError> {
            Ok(())
        }
    }

    #[test]
    fn only_what_is_undecided_is_seen_again_and_only_that_changes() {
        let shown = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let rows = [[0.9, 0.1], [0.51, 0.49], [f32::NAN, 0.5], [0.48, 0.52]];
        let quick = Gives(Mutex::new(rows.into()), Arc::default());
        let exact = Gives(Mutex::new([[0.49, 0.51], [0.47, 0.53]].into()), Arc::clone(&shown));
        let again = Again { quick: Box::new(quick), exact: Box::new(exact), doubt: 0.1 };

        let output = again.forward(&[10, 11, 20, 21, 30, 31, 40, 41], 4).unwrap();

        assert_eq!(*shown.lock().unwrap(), [[20, 21], [40, 41]]);
        let first: Vec<f64> = (0..4).map(|row| output.double_value(&[row, 0])).collect();
        for (found, expected) in first.iter().zip([0.9, 0.49, f64::NAN, 0.47]) {
            assert!((found - expected).abs() < 1e-6 || found.is_nan() && expected.is_nan(), "{first:?}");
        }
    }
}
