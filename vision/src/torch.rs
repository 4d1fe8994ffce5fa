//! From this crate's words to those of `tch`.

use tch::{Kind, TchError};
use tidemill_tasks::vision::card::Precision;

use crate::device::Device;

/// Returns `tch`'s device.
pub(crate) fn device(device: Device) -> tch::Device {
    match device {
        Device::Cpu => tch::Device::Cpu,
        Device::Cuda(index) => tch::Device::Cuda(index),
    }
}

/// Returns `tch`'s kind of number.
pub(crate) fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
    }
}

/// Returns what went wrong in one line: libtorch's own messages go on with a stack trace of C++.
pub(crate) fn reason(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    line.split(" (Exception raised from").next().unwrap_or(line).to_owned()
}
