//! Adam, in tensors that can be written down: `tch`'s own optimiser keeps its moments out of reach.

use tch::{TchError, Tensor};

/// How much of the mean gradient is kept at each step.
const FIRST: f64 = 0.9;
/// How much of the mean squared gradient is kept.
const SECOND: f64 = 0.999;
/// Keeps the division from one by zero.
const EPSILON: f64 = 1e-8;

/// A weight, and what is remembered of its gradients.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) value: Tensor,
    /// The mean gradient.
    pub(super) first: Tensor,
    /// The mean squared gradient.
    pub(super) second: Tensor,
}

/// The optimiser.
///
/// # Source
///
/// Kingma, Ba, "Adam: A Method for Stochastic Optimization" (2015), <https://arxiv.org/abs/1412.6980>, algorithm 1 with its
/// usual constants.
#[derive(Debug)]
pub(super) struct Adam {
    learning_rate: f64,
    pub(super) steps: u64,
    pub(super) weights: Vec<Weight>,
}

impl Adam {
    /// Will move these weights.
    pub(super) fn new(weights: Vec<(String, Tensor)>, learning_rate: f64) -> Result<Self, TchError> {
        let weight = |(name, value): (String, Tensor)| {
            let (first, second) = (value.f_zeros_like()?.f_detach()?, value.f_zeros_like()?.f_detach()?);
            Ok(Weight { name, value, first, second })
        };
        let weights = weights.into_iter().map(weight).collect::<Result<_, TchError>>()?;
        Ok(Self { learning_rate, steps: 0, weights })
    }

    /// Moves the weights one step down the gradient of `loss`.
    pub(super) fn step(&mut self, loss: &Tensor) -> Result<(), TchError> {
        let values: Vec<&Tensor> = self.weights.iter().map(|weight| &weight.value).collect();
        let gradients = Tensor::f_run_backward(&[loss], &values, false, false)?;
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        // Both means begin at zero; this is what they lack at the beginning.
        let (first_lacks, second_lacks) = (1.0 - FIRST.powi(steps), 1.0 - SECOND.powi(steps));
        let _no_grad = tch::no_grad_guard();
        for (weight, gradient) in self.weights.iter_mut().zip(gradients) {
            drop(weight.first.f_mul_scalar_(FIRST)?.f_add_(&gradient.f_mul_scalar(1.0 - FIRST)?)?);
            drop(weight.second.f_mul_scalar_(SECOND)?.f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - SECOND)?)?);
            let spread = weight.second.f_div_scalar(second_lacks)?.f_sqrt_()?.f_add_scalar_(EPSILON)?;
            let step = weight.first.f_div(&spread)?.f_mul_scalar_(self.learning_rate / first_lacks)?;
            drop(weight.value.f_sub_(&step)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::{self, Module as _, OptimizerConfig as _, VarStore};
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn it_steps_as_libtorchs_own_does() {
        tch::set_num_threads(1);
        let formula = |n: i64| Tensor::arange(n, (Kind::Float, Device::Cpu)).sin();
        let (ours, theirs) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let layer = |store: &VarStore| {
            let layer = nn::linear(store.root(), 4, 3, nn::LinearConfig::default());
            tch::no_grad(|| layer.ws.shallow_clone().copy_(&formula(12).view([3, 4])));
            drop(tch::no_grad(|| layer.bs.as_ref().unwrap().shallow_clone().zero_()));
            layer
        };
        let (mine, other) = (layer(&ours), layer(&theirs));
        let weights = vec![
            ("weight".to_owned(), mine.ws.shallow_clone()),
            ("bias".to_owned(), mine.bs.as_ref().unwrap().shallow_clone()),
        ];
        let mut adam = Adam::new(weights, 0.01).unwrap();
        let mut reference = nn::Adam::default().build(&theirs, 0.01).unwrap();

        for step in 1..20 {
            let input = (formula(20).view([5, 4]) * f64::from(step)).cos();
            let loss = |layer: &nn::Linear| (layer.forward(&input) - 0.5).square().mean(Kind::Float);
            adam.step(&loss(&mine)).unwrap();
            reference.backward_step(&loss(&other));
        }

        assert!(mine.ws.allclose(&other.ws, 1e-6, 1e-6, false), "{} {}", mine.ws, other.ws);
        assert!(!mine.ws.allclose(&formula(12).view([3, 4]), 1e-3, 1e-3, false), "it moved");
    }
}
