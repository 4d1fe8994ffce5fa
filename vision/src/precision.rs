//! The precision that a network runs in: the best of its card that the device is good at and that holds against fp32.

use tidemill_tasks::vision::card::{Card, Precision};

use crate::device::Device;
use crate::golden;
use crate::network::{Network, NetworkError, usable_precisions};
use crate::torch;

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
) -> Result<Network, NetworkError> {
    let _threads = torch::Threads::set(threads);
    let mut precisions = asked.map_or_else(|| usable_precisions(card, device), |asked| vec![asked]);
    if asked.is_none() && !precisions.contains(&Precision::Fp32) {
        precisions.push(Precision::Fp32);
    }
    let mut last = None;
    for precision in precisions {
        let network = Network::load(card, device, Some(precision))?;
        if precision == Precision::Fp32 {
            return Ok(network);
        }
        match golden::holds(card, &network) {
            Ok(found) => {
                tracing::debug!(model = %card.name, found, "half precision holds");
                return Ok(network);
            }
            Err(reason) => {
                let what = if asked.is_some() { "was asked for" } else { "is left aside" };
                tracing::warn!(model = %card.name, %device, reason, "{precision} does not hold against fp32 and {what}");
            }
        }
        last = Some(network);
    }
    // Only what was asked for comes here: else fp32 is the last of the list.
    last.map_or_else(|| Network::load(card, device, Some(Precision::Fp32)), Ok)
}
