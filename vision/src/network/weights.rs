//! Weights: read from a file, and put in their places by name, none missing and none left over.

use std::collections::HashMap;
use std::path::Path;

use tch::nn::VarStore;
use tch::{TchError, Tensor};

use super::state_dict;
use crate::torch;

/// Tensors by name.
pub(crate) type Tensors = HashMap<String, Tensor>;

/// How many names an error lists before it only counts.
const NAMED: usize = 5;

/// Reads a file of weights: safetensors by its ending, a PyTorch state dict otherwise.
///
/// Names are made torchvision's present ones: without the prefix that training on several devices leaves, and as
/// DenseNet's were renamed. Counters of training are left out, and so is the head that Inception has for training alone.
pub(crate) fn read(file: &Path) -> Result<Tensors, TchError> {
    let tensors = if is_safetensors(file) { Tensor::read_safetensors(file)? } else { state_dict::read(file)? };
    let is_wrapped = tensors.iter().all(|(name, _)| name.starts_with("module."));
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let name = if is_wrapped { name["module.".len()..].to_owned() } else { name };
        (densenet(name), tensor)
    });
    let is_for_training = |name: &str| name.ends_with("num_batches_tracked") || name.starts_with("AuxLogits.");
    Ok(renamed.filter(|(name, _)| !is_for_training(name)).collect())
}

/// Whether a file holds weights, and no layers that they are for.
pub(super) fn are_all_of(file: &Path) -> bool {
    is_safetensors(file) || state_dict::is_one(file)
}

fn is_safetensors(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "safetensors")
}

/// DenseNet's published files call `norm1`, `conv1`, … `norm.1`, `conv.1`, …; torchvision renames them as it loads.
fn densenet(name: String) -> String {
    if !name.contains(".denselayer") {
        return name;
    }
    ["norm", "relu", "conv"].into_iter().fold(name, |name, layer| {
        ["1", "2"]
            .into_iter()
            .fold(name, |name, number| name.replace(&format!(".{layer}.{number}."), &format!(".{layer}{number}.")))
    })
}

/// What of a file does not fit an architecture.
#[derive(Debug)]
pub(crate) struct Unfit {
    /// In words for people.
    pub(crate) what: String,
    /// Where nothing else differs than how many rows tensors have: how many the architecture's have. They are its classes,
    /// or it is another architecture.
    pub(crate) rows: Option<i64>,
}

/// Copies tensors into the variables of their names.
///
/// # Errors
///
/// Says which are missing, which are of another shape, and which the architecture does not know.
pub(crate) fn fill(store: &VarStore, mut tensors: Tensors) -> Result<(), Unfit> {
    let (mut missing, mut shapes, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (name, variable) in store.variables() {
        match tensors.remove(&name) {
            None => missing.push(name),
            Some(tensor) if tensor.size() != variable.size() => {
                let (found, expected) = (tensor.size(), variable.size());
                let is_row = found.len() == expected.len() && found.get(1..) == expected.get(1..);
                rows.push(expected.first().copied().filter(|_| is_row));
                shapes.push(format!("{name} {found:?} instead of {expected:?}"));
            }
            Some(tensor) => {
                let copied = tch::no_grad(|| variable.shallow_clone().f_copy_(&tensor));
                copied.map_err(|error| Unfit {
                    what: format!("{name} cannot be taken from its file: {}", torch::reason(&error)),
                    rows: None,
                })?;
            }
        }
    }
    let left = tensors.into_keys().collect::<Vec<_>>();
    let is_alike = missing.is_empty() && left.is_empty() && rows.iter().all(|other| *other == rows[0]);
    let rows = rows.first().copied().flatten().filter(|_| is_alike);
    let found = [("lacks", missing), ("has in another shape", shapes), ("has beyond the architecture", left)];
    let faults: Vec<String> =
        found.into_iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| told(what, names)).collect();
    if faults.is_empty() { Ok(()) } else { Err(Unfit { what: format!("its file {}", faults.join("; ")), rows }) }
}

fn told(what: &str, mut names: Vec<String>) -> String {
    names.sort();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED);
    format!("{what} {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, nn};

    use super::*;

    fn zeros(shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let store = VarStore::new(Device::Cpu);
        let _layer = nn::linear(store.root() / "fc", 3, 2, nn::LinearConfig::default());
        let _other = nn::linear(store.root() / "more", 3, 2, nn::LinearConfig::default());
        let tensors = [("fc.weight", zeros(&[2, 4])), ("fc.bias", zeros(&[2])), ("fd.bias", zeros(&[2]))]
            .map(|(name, t)| (name.to_owned(), t));

        let unfit = fill(&store, tensors.into_iter().collect()).unwrap_err();

        assert_eq!(
            unfit.what,
            "its file lacks more.bias, more.weight; has in another shape fc.weight [2, 4] instead of [2, 3]; \
             has beyond the architecture fd.bias"
        );
    }

    #[test]
    fn a_file_for_other_classes_is_told_from_one_of_another_architecture() {
        let store = VarStore::new(Device::Cpu);
        let _layer = nn::linear(store.root() / "fc", 3, 1000, nn::LinearConfig::default());
        let rows = |weight: [i64; 2], bias: i64, more: &[&str]| {
            let of_layer = [("fc.weight", zeros(&weight)), ("fc.bias", zeros(&[bias]))];
            let more = more.iter().map(|name| (*name, zeros(&[1])));
            let tensors = of_layer.into_iter().chain(more).map(|(name, tensor)| (name.to_owned(), tensor));
            fill(&store, tensors.collect()).unwrap_err().rows
        };

        assert_eq!(rows([10, 3], 10, &[]), Some(1000));
        assert_eq!(rows([10, 4], 10, &[]), None, "the layer before it differs too");
        assert_eq!(rows([10, 3], 10, &["fd.bias"]), None);
    }

    #[test]
    fn densenets_older_names_are_renamed() {
        let name = "features.denseblock1.denselayer2.norm.1.running_mean";
        assert_eq!(densenet(name.to_owned()), "features.denseblock1.denselayer2.norm1.running_mean");
        assert_eq!(densenet("features.norm5.weight".to_owned()), "features.norm5.weight");
    }
}
