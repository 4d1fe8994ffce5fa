//! The devices that networks run on: which there are, and how a person names one.

use std::fmt;
use std::fs;

#[cfg(target_arch = "x86_64")]
use raw_cpuid::CpuId;
use tidemill_core::compute::available_cores;
use tidemill_core::settings;

use crate::sys;

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPUs of this machine.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

/// The devices of this machine that were asked for, one at least.
///
/// Loads the CUDA half of libtorch unless the CPU was asked for, so it must come before any other use of libtorch; and tunes
/// the allocator for the CPU if that is what it comes to, so it is best called before any thread is started.
///
/// # Errors
///
/// Where a CUDA device was asked for and is not there. `auto` is content with the CPU.
pub fn devices(asked: &settings::Device) -> Result<Vec<Device>, DeviceError> {
    let devices = match asked {
        settings::Device::Cpu => vec![Device::Cpu],
        settings::Device::Auto => cuda_count().map_or_else(|_| vec![Device::Cpu], all_cuda),
        settings::Device::Cuda(numbers) => {
            let count = cuda_count().map_err(DeviceError::NoCuda)?;
            let one = |number: &u32| match *number as usize {
                index if index < count => Ok(Device::Cuda(index)),
                index => Err(DeviceError::NoSuchCuda { index, count }),
            };
            if numbers.is_empty() { all_cuda(count) } else { numbers.iter().map(one).collect::<Result<Vec<_>, _>>()? }
        }
    };
    if devices.contains(&Device::Cpu) {
        sys::keep_freed_memory();
    }
    Ok(devices)
}

fn all_cuda(count: usize) -> Vec<Device> {
    (0..count).map(Device::Cuda).collect()
}

/// The first of the devices that were asked for.
///
/// # Errors
///
/// Those of [`devices`].
pub(crate) fn first(asked: &settings::Device) -> Result<Device, DeviceError> {
    devices(asked).map(|devices| devices[0])
}

/// The names of devices, as outcomes give them.
pub(crate) fn names(devices: &[Device]) -> String {
    devices.iter().map(Device::to_string).collect::<Vec<_>>().join(",")
}

/// What there is to run networks on, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// How many threads the CPUs offer to this process.
    pub cpu_threads: usize,
    /// Whether the CPU computes quickly in bf16.
    pub cpu_bf16: bool,
    /// The CUDA devices by number, each with its name where it can be told, or why CUDA is out of reach.
    pub cuda: Result<Vec<String>, String>,
}

/// Says why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The name is not one of a device.
    #[error("`{0}` is no device: auto, cpu, cuda and cuda:N are")]
    Unknown(String),
    /// CUDA cannot be reached at all.
    #[error("cuda cannot be reached: {0}\nput a libtorch 2.11 with CUDA in LD_LIBRARY_PATH, or use the device cpu")]
    NoCuda(String),
    /// CUDA can be reached, but has fewer devices.
    #[error("there is no cuda:{index}: this machine has {count} such devices, counted from 0")]
    NoSuchCuda {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Looks what there is to run networks on.
pub fn inventory() -> Inventory {
    Inventory { cpu_threads: available_cores(), cpu_bf16: cpu_has_bf16(), cuda: cuda_count().map(cuda_names) }
}

/// Says whether this CPU multiplies bf16 numbers faster than fp32 ones. Where it does not in hardware it never does.
///
/// Intel's cores do so by AMX, which a virtual machine may lack. By AVX-512 alone they are slower: convolutions of ResNet's
/// shapes ran at 0.55 to 0.87 of their speed in fp32 (one core of such a Xeon, PyTorch 2.11), where AMD's gain by it.
pub(crate) fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_quick_in_bf16(
        std::arch::is_x86_feature_detected!("avx512bf16"),
        CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "GenuineIntel"),
        CpuId::new().get_extended_feature_info().is_some_and(|features| features.has_amx_bf16()),
    );
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Every processor with AMX for bf16 has AVX-512 for it too.
#[cfg(target_arch = "x86_64")]
const fn is_quick_in_bf16(has_avx512: bool, is_intel: bool, has_amx: bool) -> bool {
    has_avx512 && (has_amx || !is_intel)
}

/// Counts the CUDA devices; none is a reason, too.
fn cuda_count() -> Result<usize, String> {
    sys::load_cuda().clone()?;
    match tch::Cuda::device_count() {
        count if count > 0 => Ok(usize::try_from(count).unwrap_or(0)),
        _ => Err("libtorch_cuda.so is there, but finds no device; see whether nvidia-smi does".to_owned()),
    }
}

/// Names the devices as the driver does; libtorch's own names are out of reach from here.
fn cuda_names(count: usize) -> Vec<String> {
    let folders = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let mut folders: Vec<_> = folders.map(|entry| entry.path()).collect();
    folders.sort();
    let model = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path.join("information")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Model:").map(|name| name.trim().to_owned()))
    };
    let names: Vec<String> = folders.iter().filter_map(model).collect();
    // With some devices hidden from this process the driver's list is not ours.
    if names.len() == count { names } else { vec!["CUDA device".to_owned(); count] }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_for_processors_that_gain_by_it() {
        assert!(is_quick_in_bf16(true, false, false), "AMD's");
        assert!(is_quick_in_bf16(true, true, true), "Intel's with AMX");
        assert!(!is_quick_in_bf16(true, true, false), "Intel's without");
        assert!(!is_quick_in_bf16(false, false, false), "older ones");
    }
}
