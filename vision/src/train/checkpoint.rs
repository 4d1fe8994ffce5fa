//! What is written down after every epoch: enough to go on as if nothing had been in between.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};
use tidemill_core::failure::Failure;
use tidemill_tasks::vision::train::{Epoch, Figures, Recipe, Size};

use super::adam::Adam;
use super::workshop::Workshop;
use crate::torch;

/// The file's name.
pub(super) const FILE: &str = "checkpoint.safetensors";

/// The tensor of bytes that holds the [`State`] as JSON: so that one file is all, and all of it is from one epoch.
const STATE: &str = "state";

/// Where a training stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// What the weights depend on.
    pub(super) recipe: Recipe,
    /// The data set that it learned from.
    pub(super) data: String,
    /// What its classes are called.
    pub(super) labels: Vec<String>,
    /// The network, as it was chosen.
    pub(super) architecture: String,
    /// Its input.
    pub(super) size: Size,
    /// Every epoch so far.
    pub(super) epochs: Vec<Epoch>,
    /// The best one, and how good it was.
    pub(super) best: (u32, Figures),
    /// How many steps the optimiser made.
    pub(super) steps: u64,
}

impl State {
    /// How many epochs are done.
    pub(super) fn done(&self) -> u32 {
        u32::try_from(self.epochs.len()).unwrap_or(u32::MAX)
    }

    /// Whether so many epochs brought nothing better.
    pub(super) fn is_stale(&self, patience: Option<u32>) -> bool {
        patience.is_some_and(|patience| self.done() - self.best.0 >= patience)
    }
}

/// A checkpoint that was read.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) state: State,
    tensors: HashMap<String, Tensor>,
}

/// Writes where a training stands: its state, the variables that training changes, and the optimiser's moments.
pub(super) fn write(
    workshop: &Workshop,
    state: &State,
    variables: &HashMap<String, Tensor>,
    adam: &Adam,
) -> Result<(), Failure> {
    let json = serde_json::to_vec(state).map_err(|error| Failure::permanent("storage", error.to_string()))?;
    let mut tensors = vec![(STATE.to_owned(), Tensor::from_slice(&json))];
    let mut keep = |name: String, tensor: &Tensor| -> Result<(), TchError> {
        tensors.push((name, plain(tensor)?));
        Ok(())
    };
    let mut keep_all = || {
        for (name, variable) in variables {
            keep(format!("variable.{name}"), variable)?;
        }
        for weight in &adam.weights {
            keep(format!("first.{}", weight.name), &weight.first)?;
            keep(format!("second.{}", weight.name), &weight.second)?;
        }
        Ok(())
    };
    keep_all().map_err(super::failed)?;
    workshop.replace(FILE, |file| Tensor::write_safetensors(&tensors, file).map_err(|error| torch::reason(&error)))
}

/// A tensor as it is stored: on the CPU, densely, its elements in their order.
pub(super) fn plain(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()
}

impl Checkpoint {
    /// Reads where a training stands; `None` where none has begun.
    pub(super) fn read(workshop: &Workshop) -> Result<Option<Self>, Failure> {
        let file = workshop.file(FILE);
        if !file.is_file() {
            return Ok(None);
        }
        let broken = |what: String| {
            let remedy = "remove the folder to begin anew";
            Failure::permanent("checkpoint", format!("{} cannot be read: {what}; {remedy}", file.display()))
        };
        let tensors = Tensor::read_safetensors(&file).map_err(|error| broken(torch::reason(&error)))?;
        let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
        let json = tensors.get(STATE).filter(|state| state.kind() == Kind::Uint8 && state.dim() == 1);
        let json = json.ok_or_else(|| broken("it holds no state".to_owned()))?;
        let json = Vec::<u8>::try_from(json).map_err(|error| broken(torch::reason(&error)))?;
        let state = serde_json::from_slice(&json).map_err(|error| broken(error.to_string()))?;
        Ok(Some(Self { state, tensors }))
    }

    /// Puts variables and optimiser to where they were.
    pub(super) fn restore(&self, variables: &HashMap<String, Tensor>, adam: &mut Adam) -> Result<(), Failure> {
        let _no_grad = tch::no_grad_guard();
        let put = |name: String, into: &Tensor| {
            let refused = |what: String| Failure::permanent("checkpoint", format!("the checkpoint's {name} {what}"));
            let kept = self.tensors.get(&name).ok_or_else(|| refused("is missing".to_owned()))?;
            if kept.size() != into.size() {
                return Err(refused(format!("has the shape {:?} instead of {:?}", kept.size(), into.size())));
            }
            into.shallow_clone().f_copy_(kept).map_err(super::failed)
        };
        for (name, variable) in variables {
            put(format!("variable.{name}"), variable)?;
        }
        for weight in &adam.weights {
            put(format!("first.{}", weight.name), &weight.first)?;
            put(format!("second.{}", weight.name), &weight.second)?;
        }
        adam.steps = self.state.steps;
        Ok(())
    }
}
