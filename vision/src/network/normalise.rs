//! From bytes to the numbers a network was trained on.

use tch::{Kind, TchError, Tensor};
use tidemill_tasks::vision::card::{Input, Precision};

use crate::device::Device;
use crate::torch;

const WHITE: f64 = 255.0;

/// Turns bytes into `(x / 255 - mean) / std`, in the network's precision.
#[derive(Debug)]
pub(crate) struct Normalise {
    kind: Kind,
    shift: Shift,
    scale: Option<Tensor>,
}

/// What is subtracted, on the scale of bytes.
#[derive(Debug)]
enum Shift {
    /// The same from each channel. The number meets each byte in fp32, whatever the precision, in one pass.
    Same(f64),
    /// One number for each channel, `[1, 3, 1, 1]` in fp32.
    Each(Tensor),
}

/// Returns what each channel is multiplied by once the mean is subtracted on the scale of bytes.
pub(super) fn scale(input: &Input) -> [f32; 3] {
    input.std.map(|std| (1.0 / (std * WHITE)) as f32)
}

impl Normalise {
    /// Prepares for a card's input. Where `scaled` is false the network multiplies by [`scale`] itself.
    pub(crate) fn new(input: &Input, scaled: bool, device: Device, precision: Precision) -> Result<Self, TchError> {
        let channels = |values: [f32; 3]| {
            Tensor::f_from_slice(&values)?.f_reshape([1, 3, 1, 1])?.f_to_device(torch::device(device))
        };
        let mean = input.mean.map(|mean| mean * WHITE);
        let same = mean.iter().all(|&other| other == mean[0]);
        Ok(Self {
            kind: torch::kind(precision),
            shift: if same { Shift::Same(mean[0]) } else { Shift::Each(channels(mean.map(|mean| mean as f32))?) },
            scale: if scaled { Some(channels(scale(input))?) } else { None },
        })
    }

    /// Returns the network's input, with the strides of the bytes.
    pub(crate) fn apply(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let shifted = match &self.shift {
            Shift::Same(mean) => pixels.f_to_kind(self.kind)?.f_add_scalar_(-mean)?,
            Shift::Each(mean) => pixels.f_to_kind(Kind::Float)?.f_sub_(mean)?,
        };
        match &self.scale {
            Some(scale) => shifted.f_mul(scale)?.f_to_kind(self.kind),
            None => shifted.f_to_kind(self.kind),
        }
    }
}
