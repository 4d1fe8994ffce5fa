//! The third stage: what the network gives becomes answers.

use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::segment::Scores;

use super::{ModelError, Scored};

/// What one picture is answered with.
pub(super) type Answer = Result<Said, ModelError>;

/// What a network said of one picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// The most probable classes.
    Classes(Vec<Scored>),
    /// A map for each class.
    Maps(Scores),
}

/// Reads what was said of each picture: classes, or maps.
///
/// # Shape
///
/// in: `[n, classes]` or `[n, classes, height, width]`, `f32` · out: `n` answers
pub(super) fn read(output: &Tensor, top: usize) -> Result<Vec<Answer>, TchError> {
    match output.dim() {
        4 => maps(output),
        _ => self::top(output, top),
    }
}

/// Returns the maps of each picture. They are of the network's size, so little travels; what makes them large is computed
/// where the picture is.
fn maps(output: &Tensor) -> Result<Vec<Answer>, TchError> {
    let (count, classes, height, width) = output.size4()?;
    let values = to_vec::<f32>(output, Kind::Float)?;
    let [classes, height, width] = [classes, height, width].map(|side| usize::try_from(side).unwrap_or(0));
    let answers: Vec<Answer> = values
        .chunks(classes * height * width)
        .map(|values| {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(no_number());
            }
            Ok(Said::Maps(Scores { classes, width, height, values: values.to_vec() }))
        })
        .collect();
    debug_assert_eq!(answers.len() as i64, count);
    Ok(answers)
}

/// Returns the `top` most probable classes for each picture, chosen on the device, so that little travels back.
fn top(probabilities: &Tensor, top: usize) -> Result<Vec<Answer>, TchError> {
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
        return Err(no_number());
    }
    let scored = scores.iter().zip(numbers);
    Ok(Said::Classes(
        scored
            .map(|(&probability, &class)| Scored { class: u32::try_from(class).unwrap_or(u32::MAX), probability })
            .collect(),
    ))
}

fn no_number() -> ModelError {
    ModelError::Failed("it gave something that is not a number".to_owned())
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

        let answers = read(&probabilities, 2).unwrap();

        let scored = |class, probability| Scored { class, probability };
        let expected = [[scored(1, 0.7), scored(2, 0.2)], [scored(0, 0.5), scored(2, 0.3)]];
        assert_eq!(answers, expected.map(|classes| Ok(Said::Classes(classes.to_vec()))));
    }

    #[test]
    fn a_picture_that_comes_out_as_no_number_fails_alone() {
        let probabilities = Tensor::from_slice2(&[[f32::NAN, 0.7], [0.5, 0.2]]);

        let answers = read(&probabilities, 5).unwrap();

        assert!(answers[0].is_err());
        assert!(matches!(&answers[1], Ok(Said::Classes(classes)) if classes.len() == 2));
    }

    #[test]
    fn each_picture_gets_its_own_maps() {
        let maps = Tensor::arange(12, (Kind::Float, tch::Device::Cpu)).view([2, 2, 1, 3]);

        let answers = read(&maps, 1).unwrap();

        let values: Vec<f32> = (6_u8..12).map(f32::from).collect();
        assert_eq!(answers[1], Ok(Said::Maps(Scores { classes: 2, width: 3, height: 1, values })));
    }
}
