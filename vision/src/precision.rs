//! The precision that a network runs in: the best of its card that the device is good at and that holds against fp32.

use tidemill_core::failure::chain;
use tidemill_tasks::vision::card::{Activation, Card, Precision, Question};

use crate::device::Device;
use crate::golden::{self, FaultKind};
use crate::network::{Network, NetworkError, usable_precisions};
use crate::torch;

/// How far apart the logarithms of the two most probable classes must lie for half precision to decide, in standard
/// deviations of what that distance is off by.
///
/// Two golden inputs tell little of other pictures, whose distances were off by three times as much. Of 256 pictures of noise
/// EfficientNet-Lite0 saw 3.5 of 100 again with 2.75, and 2 tipped all the same; with 2 it was 2.7 of 100, and 3, and 1 of 132
/// crops of photos more.
const SURE: f64 = 2.75;

/// A network as it is to run.
pub(crate) struct Loaded {
    pub(crate) network: Network,
    /// Where it classifies in half precision on a CPU: what to see a picture with again that it is undecided about.
    pub(crate) exact: Option<Exact>,
}

/// The same network in fp32.
pub(crate) struct Exact {
    pub(crate) network: Network,
    /// Where the logarithms of the two most probable classes are nearer to one another, it is asked.
    pub(crate) doubt: f64,
}

/// Loads a card's network in the precision that was asked for, or in the best one, to be run by so many threads.
///
/// Half precision is held against fp32, on the card's golden inputs or on two pictures that a formula gives. If it is too
/// far off, or does not run at all, the next of the card's list is taken, at last fp32. One that was asked for is taken
/// however far it is off, and that is said.
///
/// # Errors
/// Those of [`Network::load`]. That there is no memory is one of them, whatever else the card allows: it says nothing of the
/// precision. So is a golden file that is another one or cannot be read, unless the precision was asked for.
pub(crate) fn load(
    card: &Card,
    device: Device,
    asked: Option<Precision>,
    threads: usize,
) -> Result<Loaded, NetworkError> {
    let _threads = torch::Threads::set(threads);
    let wanted = asked.map_or_else(|| usable_precisions(card, device), |asked| vec![asked]);
    for precision in wanted.into_iter().take_while(|precision| *precision != Precision::Fp32) {
        let network = match Network::load(card, device, Some(precision)) {
            Ok(network) => network,
            // Another precision helps neither where memory is lacking nor where the file is another one.
            Err(error) if asked.is_some() || error.is_transient() || matches!(error, NetworkError::Card(_)) => {
                return Err(error);
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(model = %card.name, %device, reason, "{precision} does not run and is left aside");
                continue;
            }
        };
        let fault = match golden::holds(card, &network) {
            Ok(found) => {
                tracing::debug!(model = %card.name, found, "half precision holds");
                let exact = exact(card, &network)?;
                return Ok(Loaded { network, exact });
            }
            Err(fault) => fault,
        };
        let reason = fault.to_string();
        let what = if asked.is_some() { "was asked for" } else { "is left aside" };
        let is_known = fault.kind == FaultKind::Half || fault.kind == FaultKind::Model && asked.is_some();
        if !is_known {
            return Err(NetworkError::Torch { model: card.name.clone(), reason });
        }
        tracing::warn!(model = %card.name, %device, reason, "{precision} does not hold against fp32 and {what}");
        if asked.is_some() {
            return Ok(network.into());
        }
    }
    Network::load(card, device, Some(Precision::Fp32)).map(Loaded::from)
}

impl From<Network> for Loaded {
    fn from(network: Network) -> Self {
        Self { network, exact: None }
    }
}

/// On a GPU one picture takes as long as a batch, and fp16, which is best there, lets 1 of 100 tip at most: it decides alone.
fn exact(card: &Card, quick: &Network) -> Result<Option<Exact>, NetworkError> {
    let has_margins =
        card.task == Question::Classify && card.output.activation == Activation::Softmax && card.output.classes > 1;
    if quick.device() != Device::Cpu || !has_margins {
        return Ok(None);
    }
    // It is asked now and then, and about few: comparing the two is warm-up enough.
    let mut cold = card.clone();
    cold.warm_up.clear();
    let network = Network::load(&cold, quick.device(), Some(Precision::Fp32))?;
    let off = golden::deviation(card, quick, &network)
        .map_err(|reason| NetworkError::Torch { model: card.name.clone(), reason })?;
    Ok(Some(Exact { network, doubt: SURE * off }))
}
