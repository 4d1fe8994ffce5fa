//! Any network saved as TorchScript.

use tch::{CModule, TchError, Tensor};
use tidemill_tasks::vision::card::{Card, Precision};

use super::{NetworkError, weights};
use crate::device::Device;
use crate::{sys, torch};

/// What is wrong with a file of weights, and what to do.
const WEIGHTS_ONLY: &str = "its file holds weights without layers, so it is no TorchScript\n\
    say whose layers they are for: --architecture resnet18, or in a card architecture = \"resnet18\"";

/// A TorchScript module.
#[derive(Debug)]
pub(super) struct TorchScript {
    module: CModule,
    bytes: u64,
}

impl TorchScript {
    /// Loads a card's file.
    ///
    /// A *frozen* module has its weights built in as constants, out of reach of a change of precision: it runs only in the
    /// precision that it was saved in. Another one is refused here in words that say so. Of any other all that has a fraction
    /// is cast, to fp32 too: it may have been saved in another precision. Places and masks stay what they are.
    pub(super) fn load(card: &Card, device: Device, precision: Precision) -> Result<Self, NetworkError> {
        let refused = |error: TchError| NetworkError::Torch { model: card.name.clone(), reason: torch::reason(&error) };
        sys::print_to_stderr();
        let (device, kind) = (torch::device(device), torch::kind(precision));
        let file = card.network_path();
        let mut module = CModule::load_on_device(&file, device).map_err(|error| match weights::are_all_of(&file) {
            true => NetworkError::misfit(card, WEIGHTS_ONLY.to_owned()),
            false => refused(error),
        })?;
        if module.named_parameters().map_err(refused)?.is_empty() {
            if precision != Precision::Fp32 {
                let what = format!(
                    "its file is frozen, so it cannot be run in {precision}\n\
                     name only \"fp32\" in `precision`, or save the module without freezing it"
                );
                return Err(NetworkError::misfit(card, what));
            }
            // They are constants within it, which nobody lists; the file is little more than them.
            let bytes = std::fs::metadata(&file).map_or(0, |file| file.len());
            return Ok(Self { module, bytes });
        }
        module.f_set_eval().map_err(refused)?;
        let bytes = sys::cast(&mut module, kind).map_err(refused)?;
        Ok(Self { module, bytes })
    }

    /// Returns how many bytes its weights take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs it.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        self.module.forward_ts(&[input])
    }
}
