//! Counts how well a network does. The counts stay on the device until they are asked for.

use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::train::{Figures, NOTHING};

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Tally {
    classes: i64,
    is_segmenting: bool,
    loss: Tensor,
    /// What the class should be, by row, and what it was said to be, by column: how often.
    confusion: Tensor,
}

impl Tally {
    /// Nothing was seen yet.
    pub(super) fn new(classes: i64, is_segmenting: bool, device: tch::Device) -> Self {
        Self {
            classes,
            is_segmenting,
            loss: Tensor::zeros([1], (Kind::Double, device)),
            confusion: Tensor::zeros([classes * classes], (Kind::Int64, device)),
        }
    }

    /// Adds a batch.
    ///
    /// # Shape
    ///
    /// `logits`: `[n, classes]` or `[n, classes, h, w]` · `target`: `[n]` or `[n, h, w]` · `loss`: their mean
    pub(super) fn add(&mut self, logits: &Tensor, target: &Tensor, loss: &Tensor) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let (said, target) = (logits.f_argmax(1, false)?.f_view([-1])?, target.f_reshape([-1])?);
        let counts = target.f_ne(i64::from(NOTHING))?;
        // Classes that are numbers of a picture's class may be 255 as well.
        let pairs = target.f_mul_scalar(self.classes)?.f_add(&said)?;
        let pairs = if self.is_segmenting { pairs.f_masked_select(&counts)? } else { pairs };
        let seen = pairs.numel() as f64;
        self.confusion = self.confusion.f_add(&pairs.f_bincount::<&Tensor>(None, self.classes * self.classes)?)?;
        self.loss = self.loss.f_add(&loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(seen)?)?;
        Ok(())
    }

    /// Says what it comes to.
    pub(super) fn figures(&self) -> Result<Figures, TchError> {
        let confusion = self.confusion.f_view([self.classes, self.classes])?.f_to_kind(Kind::Double)?;
        let sum = |tensor: &Tensor| tensor.f_sum(Kind::Double)?.f_double_value(&[]);
        let right = confusion.f_diagonal(0, 0, 1)?;
        let seen = sum(&confusion)?.max(1.0);
        let iou = if self.is_segmenting {
            let over = |side: i64| confusion.f_sum_dim_intlist([side].as_slice(), false, Kind::Double);
            let union = over(0)?.f_add(&over(1)?)?.f_sub(&right)?;
            let occurs = union.f_gt(0.0)?;
            let each = right.f_masked_select(&occurs)?.f_div(&union.f_masked_select(&occurs)?)?;
            Some(each.f_mean(Kind::Double)?.f_double_value(&[])?)
        } else {
            None
        };
        Ok(Figures { loss: sum(&self.loss)? / seen, accuracy: sum(&right)? / seen, iou })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn logits(said: &[i64], classes: i64) -> Tensor {
        Tensor::from_slice(said).one_hot(classes).to_kind(Kind::Float)
    }

    #[test]
    fn accuracy_and_loss_are_means_over_pictures_however_they_are_batched() {
        let mut tally = Tally::new(3, false, Device::Cpu);
        tally.add(&logits(&[0, 1, 2], 3), &Tensor::from_slice(&[0_i64, 1, 1]), &Tensor::from(1.0_f32)).unwrap();
        tally.add(&logits(&[2], 3), &Tensor::from_slice(&[2_i64]), &Tensor::from(5.0_f32)).unwrap();

        assert_eq!(tally.figures().unwrap(), Figures { loss: 2.0, accuracy: 0.75, iou: None });
    }

    #[test]
    fn classes_that_never_occur_and_pixels_that_do_not_count_are_left_out() {
        let mut tally = Tally::new(3, true, Device::Cpu);
        let said = logits(&[0, 0, 1, 1, 0], 3).transpose(0, 1).reshape([1, 3, 1, 5]);
        let target = Tensor::from_slice(&[0_i64, 0, 1, 0, i64::from(NOTHING)]).reshape([1, 1, 5]);
        tally.add(&said, &target, &Tensor::from(1.0_f32)).unwrap();

        let figures = tally.figures().unwrap();

        // Class 0: 2 of 3. Class 1: 1 of 2. Class 2: nowhere.
        assert!((figures.iou.unwrap() - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-9, "{figures:?}");
        assert_eq!((figures.accuracy, figures.loss), (0.75, 1.0));
    }
}
