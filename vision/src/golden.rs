//! Golden inputs: pictures as the network takes them, with what it gave for them when the card was made.

use std::path::{Path, PathBuf};

use tch::{Kind, TchError, Tensor};
use tidemill_core::failure::chain;
use tidemill_core::settings::VisionSettings;
use tidemill_tasks::image::{Limits, prepare};
use tidemill_tasks::vision::card::{Card, MAP_STEP, Precision};

use crate::engine::first_device;
use crate::network::{Network, NetworkError, usable_precisions};
use crate::{sys, torch};

/// How far a probability may be off in fp32: processors add in different orders.
const EXACT: f64 = 5e-4;

/// How far it may be off in half precision: 8 bits of a number are kept in bf16.
const HALF: f64 = 0.05;

/// How many of the values of maps may be off further in half precision: at the edge of a mask a rounded number may tip. Of
/// a picture's classes none may: of a thousand probabilities all but the first few are next to nothing, whatever comes out.
const HALF_OUTSIDE: f64 = 0.01;

/// The names in the file.
const PIXELS: &str = "pixels";
const OUTPUTS: &str = "outputs";

/// What is not well about a model, in words for people.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    what: String,
}

/// What is to be done about a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The network does not run in half precision, or not as it does in fp32: that is left to do.
    Half,
    /// There was no memory, or no thread: another time there may be.
    Lacking,
    /// Nothing but to mend it.
    Model,
}

impl Fault {
    /// What stands in the way of half precision.
    fn half(self) -> Self {
        match self.kind {
            FaultKind::Model => Self { kind: FaultKind::Half, ..self },
            FaultKind::Half | FaultKind::Lacking => self,
        }
    }

    /// The same of files by their names alone: their folder is gone by the time that it is read.
    pub(crate) fn without(self, folder: &Path) -> Self {
        Self { what: self.what.replace(&format!("{}/", folder.display()), ""), ..self }
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        let kind = if torch::is_about_memory(&what) { FaultKind::Lacking } else { FaultKind::Model };
        Self { kind, what }
    }
}

impl From<NetworkError> for Fault {
    fn from(error: NetworkError) -> Self {
        let kind = if error.is_transient() { FaultKind::Lacking } else { FaultKind::Model };
        Self { kind, what: chain(&error) }
    }
}

impl From<TchError> for Fault {
    fn from(error: TchError) -> Self {
        torch::reason(&error).into()
    }
}

/// Checks a card's files by their digests, and what its network gives for the golden inputs in each precision that the
/// device is good at. Returns what was found well, a line each.
///
/// # Errors
///
/// What is not well, in words for people.
pub fn verify(card: &Card, settings: &VisionSettings) -> Result<Vec<String>, String> {
    check(card, settings).map_err(|fault| fault.to_string())
}

/// As [`verify`]; its errors say what is to be done.
pub(crate) fn check(card: &Card, settings: &VisionSettings) -> Result<Vec<String>, Fault> {
    let device = first_device(settings)?;
    card.verify().map_err(|error| chain(&error))?;
    let mut lines = vec![format!("{} has its digest", card.network.file)];
    let Some(golden) = &card.golden else {
        Network::load(card, device, None)?;
        lines.push("it loads; the card has no golden inputs to compare with".to_owned());
        return Ok(lines);
    };
    card.verify_golden().map_err(|error| chain(&error))?;
    let (pixels, expected) = read(&card.folder().join(&golden.file), card)?;
    let mut precisions = usable_precisions(card, device);
    if !precisions.contains(&Precision::Fp32) {
        precisions.push(Precision::Fp32);
    }
    for precision in precisions {
        let network = Network::load(card, device, Some(precision)).map_err(Fault::from);
        let compared = network.and_then(|network| compare(&network, &pixels, &expected));
        lines.push(compared.map_err(|fault| if precision == Precision::Fp32 { fault } else { fault.half() })?);
    }
    Ok(lines)
}

/// Compares what a network in half precision gives for the card's golden inputs, or where it has none for two pictures that
/// a formula gives, with what it gives in fp32. Says how far it is off.
///
/// # Errors
/// That it is too far off, or fails ([`FaultKind::Half`]); or why that could not be found out.
pub(crate) fn holds(card: &Card, network: &Network) -> Result<String, Fault> {
    let (pixels, expected) = match &card.golden {
        Some(golden) => {
            card.verify_golden().map_err(|error| chain(&error))?;
            read(&card.folder().join(&golden.file), card)?
        }
        None => {
            let pixels = pixels(card, &[])?;
            let exact = Network::load(card, network.device(), Some(Precision::Fp32))?;
            let expected = outputs(&exact, &pixels)?;
            (pixels, expected)
        }
    };
    compare(network, &pixels, &expected).map_err(Fault::half)
}

/// A card's golden inputs, or two pictures that a formula gives.
///
/// # Shape
/// `[n, height, width, 3]`, `u8`
///
/// # Errors
/// In words for people.
pub(crate) fn inputs(card: &Card) -> Result<Tensor, String> {
    match &card.golden {
        Some(golden) => Ok(read(&card.folder().join(&golden.file), card)?.0),
        None => pixels(card, &[]),
    }
}

/// By how much the distance of two logarithms of what one network of a card gives is off from that of the other: the standard
/// deviation, over [`inputs`]. What all classes of a picture are off by alike is no part of it.
///
/// # Errors
/// In words for people.
pub(crate) fn deviation(card: &Card, one: &Network, other: &Network) -> Result<f64, String> {
    let pixels = inputs(card)?;
    let logarithms = |network: &Network| outputs(network, &pixels)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_log();
    let apart = || {
        let off = logarithms(one)?.f_sub(&logarithms(other)?)?;
        let alike = off.f_mean_dim([1].as_slice(), true, Kind::Float)?;
        // That of two that are off by themselves is √2 of one.
        off.f_sub(&alike)?.f_square()?.f_mean(Kind::Float)?.f_mul_scalar(2.0)?.f_sqrt()
    };
    apart().map(|apart| apart.double_value(&[])).map_err(|error| torch::reason(&error))
}

/// Runs the golden inputs and says how far what comes out is from what is expected.
fn compare(network: &Network, pixels: &Tensor, expected: &Tensor) -> Result<String, Fault> {
    let (precision, device) = (network.precision(), network.device());
    let refused = |error: TchError| format!("golden inputs in {precision}: {}", torch::reason(&error));
    let found = outputs(network, pixels).map_err(refused)?;
    if found.size() != expected.size() {
        let (expected, found) = (expected.size(), found.size());
        return Err(format!("golden outputs have the shape {expected:?}, the network gives {found:?}").into());
    }
    let off = found.f_sub(expected).and_then(|off| off.f_abs()).map_err(refused)?;
    let (largest, allowed) = (off.max().double_value(&[]), allowed(precision));
    let count = pixels.size()[0];
    let text =
        format!("{count} golden inputs in {precision} on {device}: at most {largest:.1e} off, {allowed} is allowed");
    if is_near(&off, precision) { Ok(text) } else { Err(text.into()) }
}

/// How far a value may be off.
fn allowed(precision: Precision) -> f64 {
    if precision == Precision::Fp32 { EXACT } else { HALF }
}

/// Whether values are no further off than they may be in a precision.
///
/// # Shape
/// `[n, classes]`, or `[n, classes, height, width]`
fn is_near(off: &Tensor, precision: Precision) -> bool {
    let outside = if precision != Precision::Fp32 && off.dim() == 4 { HALF_OUTSIDE } else { 0.0 };
    let beyond = off.gt(allowed(precision)).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    // A value that is no number is never within.
    beyond <= outside && off.max().double_value(&[]).is_finite()
}

/// What a network gives for pixels, as it is kept: on the CPU, of maps a part.
pub(crate) fn outputs(network: &Network, pixels: &Tensor) -> Result<Tensor, TchError> {
    let _no_grad = tch::no_grad_guard();
    let output = network.forward(&pixels.f_permute([0, 3, 1, 2])?)?.f_to_device(tch::Device::Cpu)?;
    let kept = match output.dim() {
        4 => output.f_slice(2, None, None, MAP_STEP)?.f_slice(3, None, None, MAP_STEP)?,
        _ => output,
    };
    kept.f_contiguous()
}

/// Pixels of pictures as the card's input wants them; without pictures, of two that are made by a formula: one changes
/// slowly, the other in blocks.
pub(crate) fn pixels(card: &Card, pictures: &[PathBuf]) -> Result<Tensor, String> {
    let (width, height) = (card.input.width, card.input.height);
    let mut bytes = Vec::new();
    for picture in pictures {
        let told = |reason: String| format!("{}: {reason}", picture.display());
        let file = std::fs::read(picture).map_err(|error| told(error.to_string()))?;
        prepare(&file, &card.input.preparation(), &Limits::default(), &mut bytes)
            .map_err(|error| told(error.to_string()))?;
    }
    if pictures.is_empty() {
        for row in 0..height {
            for column in 0..width {
                let slowly = |from: u32, whole: u32| (255 * from / whole) as u8;
                bytes.extend([slowly(row, height), slowly(column, width), slowly(row + column, height + width)]);
            }
        }
        for row in 0..height {
            for column in 0..width {
                let block = (row / 16).wrapping_mul(2_654_435_761) ^ (column / 16).wrapping_mul(2_246_822_519);
                bytes.extend([8, 16, 24].map(|shift| (block >> shift) as u8));
            }
        }
    }
    let count = if pictures.is_empty() { 2 } else { pictures.len() as i64 };
    let shape = [count, i64::from(height), i64::from(width)];
    let copied = sys::with_pixels(&bytes, shape, |pixels| pixels.f_permute([0, 2, 3, 1])?.f_detach_copy());
    copied.map_err(|error| torch::reason(&error))
}

/// Writes a golden file.
pub(crate) fn write(file: &Path, pixels: &Tensor, outputs: &Tensor) -> Result<(), String> {
    Tensor::write_safetensors(&[(PIXELS, pixels), (OUTPUTS, outputs)], file)
        .map_err(|error| format!("{} cannot be written: {}", file.display(), torch::reason(&error)))
}

fn read(file: &Path, card: &Card) -> Result<(Tensor, Tensor), String> {
    let told = |reason: String| format!("{}: {reason}", file.display());
    let tensors = Tensor::read_safetensors(file).map_err(|error| told(torch::reason(&error)))?;
    let take = |name: &str, kind: Kind| {
        let found = tensors.iter().find(|(found, tensor)| found == name && tensor.kind() == kind);
        found.map(|(_, tensor)| tensor.shallow_clone()).ok_or_else(|| told(format!("holds no `{name}` of {kind:?}")))
    };
    let (pixels, outputs) = (take(PIXELS, Kind::Uint8)?, take(OUTPUTS, Kind::Float)?);
    match pixels.size().as_slice() {
        &[count, height, width, 3]
            if count > 0 && height == i64::from(card.input.height) && width == i64::from(card.input.width) =>
        {
            Ok((pixels, outputs))
        }
        other => Err(told(format!("its pixels have the shape {other:?}, not that of the card's input"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is off by 0.3 in so many places, and by nothing elsewhere.
    fn off(shape: &[i64], places: i64) -> Tensor {
        let all = Tensor::zeros([shape.iter().product::<i64>()], (Kind::Float, tch::Device::Cpu));
        drop(all.narrow(0, 0, places).fill_(0.3));
        all.reshape(shape)
    }

    #[test]
    fn of_many_classes_none_may_be_far_off_and_of_maps_one_place_in_a_hundred() {
        for half in [Precision::Bf16, Precision::Fp16] {
            assert!(is_near(&off(&[2, 1000], 0), half));
            assert!(!is_near(&off(&[2, 1000], 1), half), "its probability went to another class");
            assert!(is_near(&off(&[1, 2, 32, 32], 20), half), "an edge");
            assert!(!is_near(&off(&[1, 2, 32, 32], 21), half));
        }
        assert!(!is_near(&off(&[1, 2, 32, 32], 1), Precision::Fp32));
    }

    #[test]
    fn what_is_no_number_is_not_near() {
        assert!(!is_near(&(off(&[1, 2, 32, 32], 0) * f64::NAN), Precision::Bf16));
    }

    #[test]
    fn that_there_is_no_memory_is_no_word_against_half_precision() {
        let said = |what: &str| Fault::from(TchError::Torch(what.to_owned())).half().kind;

        assert_eq!(said("not implemented for 'Half'"), FaultKind::Half);
        assert_eq!(said("CUDA out of memory. Tried to allocate 20.00 MiB"), FaultKind::Lacking);
    }
}
