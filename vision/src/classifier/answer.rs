//! The third stage: probabilities become answers.

use tch::{Kind, TchError, Tensor};

use super::{ClassifyError, Scored};

/// What one picture is answered with.
pub(super) type Answer = Result<Vec<Scored>, ClassifyError>;

/// Returns the `top` most probable classes for each picture, chosen on the device, so that little travels back.
///
/// # Shape
///
/// in: `[n, classes]`, `f32` · out: `n` answers
pub(super) fn top(probabilities: &Tensor, top: usize) -> Result<Vec<Answer>, TchError> {
    let classes = probabilities.size2()?.1;
    let top = i64::try_from(top).unwrap_or(classes).clamp(1, classes);
    let (scores, numbers) = probabilities.f_topk(top, 1, true, true)?;
    let scores = to_vec::<f32>(&scores, Kind::Float)?;
    let numbers = to_vec::<i64>(&numbers, Kind::Int64)?;
    let width = usize::try_from(top).unwrap_or(1);
    Ok(scores.chunks(width).zip(numbers.chunks(width)).map(|(scores, numbers)| answer(scores, numbers)).collect())
}

fn answer(scores: &[f32], numbers: &[i64]) -> Answer {
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(ClassifyError::Failed("it gave something that is not a number".to_owned()));
    }
    let scored = scores.iter().zip(numbers);
    Ok(scored
        .map(|(&probability, &class)| Scored { class: u32::try_from(class).unwrap_or(u32::MAX), probability })
        .collect())
}

fn to_vec<T: tch::kind::Element + Copy + Default>(tensor: &Tensor, kind: Kind) -> Result<Vec<T>, TchError> {
    let flat = tensor.f_to_kind(kind)?.f_to_device(tch::Device::Cpu)?.f_contiguous()?.f_view([-1])?;
    let mut values = vec![T::default(); flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_classes_come_first() {
        let probabilities = Tensor::from_slice2(&[[0.1_f32, 0.7, 0.2], [0.5, 0.2, 0.3]]);

        let answers = top(&probabilities, 2).unwrap();

        let scored = |class, probability| Scored { class, probability };
        assert_eq!(answers, [Ok(vec![scored(1, 0.7), scored(2, 0.2)]), Ok(vec![scored(0, 0.5), scored(2, 0.3)])]);
    }

    #[test]
    fn a_picture_that_comes_out_as_no_number_fails_alone() {
        let probabilities = Tensor::from_slice2(&[[f32::NAN, 0.7], [0.5, 0.2]]);

        let answers = top(&probabilities, 5).unwrap();

        assert!(answers[0].is_err());
        assert_eq!(answers[1].as_ref().unwrap().len(), 2);
    }
}
