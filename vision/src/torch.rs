//! From this crate's words to those of `tch`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// Lays out the weights of a convolution as the pictures are, channels last. The sizes stay in their order.
pub(crate) fn channels_last(weight: &Tensor) -> Result<Tensor, TchError> {
    weight.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
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

/// From now on the thread that calls computes with so many.
///
/// libtorch sets a thread up when it is asked for the number, or else at its first parallel run, and then with what any thread
/// has asked for last: after a training an instance that has run nothing yet would begin with all cores. So it is asked first.
pub(crate) fn use_threads(threads: usize) {
    let _set_up = tch::get_num_threads();
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(1));
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
        use_threads(threads);
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

/// Runs what panics where libtorch refuses, as the library's layers do; here that is an error again.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, TchError> {
    // Nothing half done is seen again: what it was to make is not there.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| TchError::Torch(refusal(&*panic)))
}

/// What libtorch said, out of the panic of an `unwrap`: the whole error stands there, its lines ended by `\n`.
fn refusal(panic: &(dyn Any + Send)) -> String {
    let text = text_of(panic).unwrap_or("no reason given");
    let inner = text.split_once("Torch(\"").map_or(text, |(_, inner)| inner);
    line(&inner.replace("\\n", "\n")).to_owned()
}

/// What a panic says, in one line.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> String {
    format!("it panicked: {}", line(&text_of(panic).unwrap_or_default().replace("\\n", "\n")))
}

fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}

/// Returns what went wrong in one line: libtorch's own messages go on with a stack trace of C++. That there is no memory is
/// said by that line, wherever in the message it stands: [`is_about_memory`] finds it there.
pub(crate) fn reason(error: &TchError) -> String {
    match error {
        TchError::Torch(text) => line(text).to_owned(),
        other => line(&other.to_string()).to_owned(),
    }
}

/// The line of a message that says what went wrong.
fn line(text: &str) -> &str {
    let lines = || {
        let said = text.lines().map(str::trim).filter(|line| !line.is_empty());
        said.take_while(|line| !line.starts_with("frame #"))
    };
    let first = lines().next().unwrap_or("no reason given");
    // TorchScript begins with a trace of its own, and what it was comes after that.
    let named = || lines().filter(|line| line.contains("Error: ")).last();
    let line = match lines().find(|line| is_about_memory(line)) {
        Some(line) => line,
        None if first.contains("TorchScript interpreter") => named().or_else(|| lines().last()).unwrap_or(first),
        None => first,
    };
    line.split(" (Exception raised from").next().unwrap_or(line)
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
            (
                "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript:\n  x\n\
                 RuntimeError: mat1 and mat2 must have the same dtype\nException raised from meta at x.cpp:1\n\
                 frame #0: c10::Error::Error(...)\nframe #25: clone\n",
                "RuntimeError: mat1 and mat2 must have the same dtype",
            ),
            ("", "no reason given"),
        ] {
            assert_eq!(reason(&TchError::Torch(text.to_owned())), said);
        }
    }

    #[test]
    fn that_there_is_no_memory_is_said_wherever_it_stands() {
        for text in [
            "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript:\n  x\n\
             RuntimeError: CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`\nframe #25: clone",
            "a run went wrong\n[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
        ] {
            let reason = reason(&TchError::Torch(text.to_owned()));
            assert!(is_about_memory(&reason), "{reason}");
        }
        let other = TchError::Torch("shape is invalid\nframe #1: c10::OutOfMemoryError::OutOfMemoryError".to_owned());
        assert_eq!(reason(&other), "shape is invalid");
    }

    #[test]
    fn what_libtorch_says_is_taken_out_of_its_panic() {
        let text =
            r#"called `Result::unwrap()` on an `Err` value: Torch("CUDA out of memory. Tried\nException raised")"#;

        let error = caught::<()>(|| std::panic::panic_any(text.to_owned())).unwrap_err();

        assert_eq!(reason(&error), "CUDA out of memory. Tried");
        assert_eq!(caught(|| 7).unwrap(), 7);
    }

    #[test]
    fn how_many_threads_another_asks_for_does_not_reach_this_one() {
        let on_a_new_thread = |work: fn() -> i32| std::thread::spawn(work).join().unwrap();

        let threads = on_a_new_thread(|| {
            use_threads(1);
            let other = std::thread::spawn(|| use_threads(3)).join();
            // The number is looked at first where something runs.
            let threads = tch::get_num_threads();
            use_threads(1); // tests run beside one another
            other.map_or(0, |()| threads)
        });

        assert_eq!(threads, 1);
    }

    #[test]
    fn a_panic_of_the_library_is_one_line_too() {
        let error = TchError::Torch("CUDA error: unknown error\nException raised from x.cpp".to_owned());
        let text = format!("called `Result::unwrap()` on an `Err` value: {error:?}");

        assert!(panicked(&text).ends_with("Torch(\"CUDA error: unknown error"), "{}", panicked(&text));
        assert_eq!(panicked(&"seven\nis unlucky"), "it panicked: seven");
    }
}
