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

/// What a network gave for a batch, in this machine's memory.
#[derive(Debug)]
pub(super) enum Given {
    /// Of each picture the most probable classes, so many: their numbers, and how probable they are.
    Classes { each: usize, numbers: Vec<u32>, probabilities: Vec<f32> },
    /// Maps of each picture: `[n, classes, height, width]`, `f32`, one after the other.
    Maps(Tensor),
}

impl Given {
    /// Brings it here, once it is computed: the `top` most probable classes, chosen on the device so that little travels,
    /// or all maps. They are of the network's size, so little travels too; what makes them large is computed where the
    /// picture is.
    ///
    /// # Shape
    ///
    /// in: `[n, classes]` or `[n, classes, height, width]`, `f32`
    pub(super) fn fetch(output: &Tensor, top: usize) -> Result<Self, TchError> {
        if output.dim() == 4 {
            return Ok(Self::Maps(output.f_to_device(tch::Device::Cpu)?.f_contiguous()?));
        }
        let classes = output.size2()?.1;
        let top = i64::try_from(top).unwrap_or(classes).clamp(1, classes);
        let (probabilities, numbers) = output.f_topk(top, 1, true, true)?;
        // As one, in which both are exact: each by itself would wait its turn on the device.
        let both = [probabilities.f_to_kind(Kind::Double)?, numbers.f_to_kind(Kind::Double)?];
        let both = to_vec::<f64>(&Tensor::f_stack(&both, 0)?)?;
        let (probabilities, numbers) = both.split_at(both.len() / 2);
        Ok(Self::Classes {
            each: usize::try_from(top).unwrap_or(1),
            numbers: numbers.iter().map(|&number| number as u32).collect(),
            probabilities: probabilities.iter().map(|&probability| probability as f32).collect(),
        })
    }

    /// What each picture is answered with.
    ///
    /// # Errors
    ///
    /// libtorch's.
    pub(super) fn answers(self) -> Result<Vec<Answer>, TchError> {
        match self {
            Self::Classes { each, numbers, probabilities } => {
                let pictures = probabilities.chunks(each).zip(numbers.chunks(each));
                Ok(pictures.map(|(probabilities, numbers)| classes(probabilities, numbers)).collect())
            }
            Self::Maps(all) => (0..all.size4()?.0).map(|picture| maps(&all.f_get(picture)?)).collect(),
        }
    }
}

/// One picture's, `[classes, height, width]`.
fn maps(maps: &Tensor) -> Result<Answer, TchError> {
    let (classes, height, width) = maps.size3()?;
    let [classes, height, width] = [classes, height, width].map(|side| usize::try_from(side).unwrap_or(0));
    let values: Vec<f32> = to_vec(maps)?;
    if values.iter().any(|value| !value.is_finite()) {
        return Ok(Err(no_number()));
    }
    Ok(Ok(Said::Maps(Scores { classes, width, height, values })))
}

fn classes(probabilities: &[f32], numbers: &[u32]) -> Answer {
    if probabilities.iter().any(|probability| !probability.is_finite()) {
        return Err(no_number());
    }
    let scored = probabilities.iter().zip(numbers);
    Ok(Said::Classes(scored.map(|(&probability, &class)| Scored { class, probability }).collect()))
}

fn no_number() -> ModelError {
    ModelError::Failed("it gave something that is not a number".to_owned())
}

/// Copies what a tensor holds, of its own kind.
fn to_vec<T: tch::kind::Element + Copy + Default>(tensor: &Tensor) -> Result<Vec<T>, TchError> {
    let flat = tensor.f_to_device(tch::Device::Cpu)?.f_contiguous()?.f_view([-1])?;
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

        let answers = Given::fetch(&probabilities, 2).unwrap().answers().unwrap();

        let scored = |class, probability| Scored { class, probability };
        let expected = [[scored(1, 0.7), scored(2, 0.2)], [scored(0, 0.5), scored(2, 0.3)]];
        assert_eq!(answers, expected.map(|classes| Ok(Said::Classes(classes.to_vec()))));
    }

    #[test]
    fn a_picture_that_comes_out_as_no_number_fails_alone() {
        let probabilities = Tensor::from_slice2(&[[f32::NAN, 0.7], [0.5, 0.2]]);

        let answers = Given::fetch(&probabilities, 5).unwrap().answers().unwrap();

        assert!(answers[0].is_err());
        assert!(matches!(&answers[1], Ok(Said::Classes(classes)) if classes.len() == 2));
    }

    #[test]
    fn each_picture_gets_its_own_maps() {
        let maps = Tensor::arange(12, (Kind::Float, tch::Device::Cpu)).view([2, 2, 1, 3]);

        let answers = Given::fetch(&maps, 1).unwrap().answers().unwrap();

        let values: Vec<f32> = (6_u8..12).map(f32::from).collect();
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[1], Ok(Said::Maps(Scores { classes: 2, width: 3, height: 1, values })));
    }

    #[test]
    fn maps_that_come_out_as_no_numbers_or_without_a_place_harm_nobody_else() {
        let zeros = |shape: [i64; 4]| Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu));
        let maps = Tensor::cat(&[zeros([1, 2, 1, 3]) * f64::NAN, zeros([1, 2, 1, 3])], 0);
        let answers = |output: &Tensor| Given::fetch(output, 1).unwrap().answers().unwrap();

        let said = answers(&maps);

        assert!(said[0].is_err() && said[1].is_ok(), "{said:?}");
        assert_eq!(answers(&zeros([2, 2, 0, 3])).len(), 2);
    }
}
