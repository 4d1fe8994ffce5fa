//! The precision that a network runs in: the best of its card that the device is good at and that holds against fp32.

use tidemill_tasks::vision::card::{Activation, Card, Precision, Question};

use crate::device::Device;
use crate::golden;
use crate::network::{Network, NetworkError, usable_precisions};
use crate::torch;

/// How far apart the logarithms of the two most probable classes must lie for half precision to decide, in standard
/// deviations of what it is off by.
///
/// The difference of two such errors deviates by √2 of one. Where margins are spread evenly, as they are near zero, 2.5
/// leaves out what then tips all the same for fewer than 2 of 1,000 of the pictures within a margin of 1.
const SURE: f64 = 2.5;

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
/// far off, the next of the card's list is taken, at last fp32; one that was asked for is taken all the same, and said.
///
/// # Errors
/// Those of [`Network::load`].
pub(crate) fn load(
    card: &Card,
    device: Device,
    asked: Option<Precision>,
    threads: usize,
) -> Result<Loaded, NetworkError> {
    let _threads = torch::Threads::set(threads);
    let mut precisions = asked.map_or_else(|| usable_precisions(card, device), |asked| vec![asked]);
    if asked.is_none() && !precisions.contains(&Precision::Fp32) {
        precisions.push(Precision::Fp32);
    }
    let mut last = None;
    for precision in precisions {
        let network = Network::load(card, device, Some(precision))?;
        if precision == Precision::Fp32 {
            return Ok(network.into());
        }
        match golden::holds(card, &network) {
            Ok(found) => {
                tracing::debug!(model = %card.name, found, "half precision holds");
                let exact = exact(card, &network)?;
                return Ok(Loaded { network, exact });
            }
            Err(reason) => {
                let what = if asked.is_some() { "was asked for" } else { "is left aside" };
                tracing::warn!(model = %card.name, %device, reason, "{precision} does not hold against fp32 and {what}");
            }
        }
        last = Some(network);
    }
    // Only what was asked for comes here: else fp32 is the last of the list.
    last.map_or_else(|| Network::load(card, device, Some(Precision::Fp32)), Ok).map(Loaded::from)
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
