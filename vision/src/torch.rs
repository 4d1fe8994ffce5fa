//! From this crate's words to those of `tch`.

use std::any::Any;

use tch::{Kind, TchError, Tensor};
use tidemill_core::failpoint::fails;
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

/// Waits until a device has computed all that it was asked for.
pub(crate) fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Asks a device for next to nothing: whether it answers at all.
pub(crate) fn probe(on: Device) -> Result<(), TchError> {
    alive()?;
    let one = Tensor::f_from_slice(&[1_f32])?.f_to_device(device(on))?;
    one.f_add_scalar(1.0)?.f_to_device(tch::Device::Cpu).map(drop)
}

/// Where fault tests lose the device.
pub(crate) fn alive() -> Result<(), TchError> {
    if fails("vision.device") { Err(TchError::Torch("the device is unplugged, as told".to_owned())) } else { Ok(()) }
}

/// How many threads this one computes with, for as long as this is held.
///
/// oneDNN lays weights out for as many as the thread has that loads them, and converts them at every run where others run
/// it: on a CPU with AMX in bf16 one picture then takes 85 ms instead of 7.
pub(crate) struct Threads(i32);

impl Threads {
    /// From now on so many.
    pub(crate) fn set(threads: usize) -> Self {
        let before = Self(tch::get_num_threads());
        tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(1));
        before
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        tch::set_num_threads(self.0);
    }
}

/// Says whether a reason is that there is no memory left: on a GPU, or on the CPU (`DefaultCPUAllocator`).
pub(crate) fn is_about_memory(reason: &str) -> bool {
    [
        "out of memory",
        "OutOfMemory",
        "can't allocate memory",
        "Cannot allocate memory",
        "not enough memory",
        "bad_alloc",
        "ALLOC_FAILED",
    ]
    .iter()
    .any(|said| reason.contains(said))
}

/// What a panic says, in one line: where tch's own functions panic, they print the whole error, its lines ended by `\n`.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let first = text.and_then(|text| text.lines().next()).and_then(|line| line.split("\\n").next());
    format!("it panicked: {}", first.unwrap_or("no reason given"))
}

/// Returns what went wrong in one line: libtorch's own messages go on with a stack trace of C++.
pub(crate) fn reason(error: &TchError) -> String {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or("no reason given");
    // TorchScript begins with a trace of its own and says last what it was.
    let line = if first.contains("TorchScript interpreter") { lines.next_back().unwrap_or(first) } else { first };
    line.split(" (Exception raised from").next().unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_one_line_and_the_one_that_helps() {
        for (text, said) in [
            ("shape is invalid (Exception raised from view at x.cpp:1)\nframe #0", "shape is invalid"),
            (
                "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript:\n  x\n\
                 RuntimeError: shape '[2, -1]' is invalid for input of size 512\n\n",
                "RuntimeError: shape '[2, -1]' is invalid for input of size 512",
            ),
            ("", "no reason given"),
        ] {
            assert_eq!(reason(&TchError::Torch(text.to_owned())), said);
        }
    }

    #[test]
    fn a_panic_of_the_library_is_one_line_too() {
        let error = TchError::Torch("CUDA error: unknown error\nException raised from x.cpp".to_owned());
        let text = format!("called `Result::unwrap()` on an `Err` value: {error:?}");

        assert!(panicked(&text).ends_with("Torch(\"CUDA error: unknown error"), "{}", panicked(&text));
        assert_eq!(panicked(&"seven\nis unlucky"), "it panicked: seven");
    }
}
