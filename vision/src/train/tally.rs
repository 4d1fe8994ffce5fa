//! Counts how well a network does. The counts stay on the device until they are asked for.

use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::train::{Figures, NOTHING};

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Tally {
    classes: i64,
    loss: Tensor,
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    /// How many pictures, and of how many of them the class was right. What else there was to say would be a number for each
    /// two classes, at every batch.
    Pictures { right: Tensor, all: f64 },
    /// Of pixels, what the class should be, by row, and what it was said to be, by column: how often.
    Pixels { confusion: Tensor },
}

impl Tally {
    /// Nothing was seen yet.
    pub(super) fn new(classes: i64, is_segmenting: bool, device: tch::Device) -> Self {
        let zeros = |count: i64, kind: Kind| Tensor::zeros([count], (kind, device));
        let seen = if is_segmenting {
            Seen::Pixels { confusion: zeros(classes * classes, Kind::Int64) }
        } else {
            Seen::Pictures { right: zeros(1, Kind::Double), all: 0.0 }
        };
        Self { classes, loss: zeros(1, Kind::Double), seen }
    }

    /// Adds a batch.
    ///
    /// # Shape
    ///
    /// `logits`: `[n, classes]` or `[n, classes, h, w]` · `target`: `[n]` or `[n, h, w]` · `loss`: their mean
    pub(super) fn add(&mut self, logits: &Tensor, target: &Tensor, loss: &Tensor) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let (said, target) = (logits.f_argmax(1, false)?.f_view([-1])?, target.f_reshape([-1])?);
        let seen = match &mut self.seen {
            Seen::Pictures { right, all } => {
                let seen = target.numel() as f64;
                *right = right.f_add(&said.f_eq_tensor(&target)?.f_sum(Kind::Double)?)?;
                *all += seen;
                seen
            }
            Seen::Pixels { confusion } => {
                let counts = target.f_ne(i64::from(NOTHING))?;
                let pairs = target.f_mul_scalar(self.classes)?.f_add(&said)?.f_masked_select(&counts)?;
                *confusion = confusion.f_add(&pairs.f_bincount::<&Tensor>(None, self.classes * self.classes)?)?;
                pairs.numel() as f64
            }
        };
        self.loss = self.loss.f_add(&loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(seen)?)?;
        Ok(())
    }

    /// Says what it comes to.
    pub(super) fn figures(&self) -> Result<Figures, TchError> {
        let sum = |tensor: &Tensor| tensor.f_sum(Kind::Double)?.f_double_value(&[]);
        let (right, seen, iou) = match &self.seen {
            Seen::Pictures { right, all } => (sum(right)?, *all, None),
            Seen::Pixels { confusion } => {
                let confusion = confusion.f_view([self.classes, self.classes])?.f_to_kind(Kind::Double)?;
                let right = confusion.f_diagonal(0, 0, 1)?;
                let over = |side: i64| confusion.f_sum_dim_intlist([side].as_slice(), false, Kind::Double);
                let union = over(0)?.f_add(&over(1)?)?.f_sub(&right)?;
                let occurs = union.f_gt(0.0)?;
                let each = right.f_masked_select(&occurs)?.f_div(&union.f_masked_select(&occurs)?)?;
                let iou = each.f_mean(Kind::Double)?.f_double_value(&[])?;
                (sum(&right)?, sum(&confusion)?, Some(iou))
            }
        };
        let seen = seen.max(1.0);
        Ok(Figures { loss: sum(&self.loss)? / seen, accuracy: right / seen, iou })
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

    #[test]
    fn a_hundred_thousand_classes_are_counted_as_few_are_and_255_is_one_of_them() {
        let mut tally = Tally::new(100_000, false, Device::Cpu);
        tally
            .add(
                &logits(&[255, 99_999, 7], 100_000),
                &Tensor::from_slice(&[255_i64, 99_999, 8]),
                &Tensor::from(2.0_f32),
            )
            .unwrap();

        let figures = tally.figures().unwrap();

        assert!((figures.accuracy - 2.0 / 3.0).abs() < 1e-9 && figures.loss == 2.0, "{figures:?}");
    }
}
