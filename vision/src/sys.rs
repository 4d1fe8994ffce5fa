//! What needs `unsafe`, and nothing else: each item says why it is sound.
#![expect(unsafe_code, reason = "libtorch is reached through pointers, the dynamic linker and the allocator")]

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Kind, TchError, Tensor};

/// Loads the CUDA half of libtorch, once, if it is in the library path.
///
/// It must happen before the first tensor: libtorch asks for its CUDA hooks once, and an executable that is linked to the
/// CPU half only would be without CUDA for good.
pub(crate) fn load_cuda() -> &'static Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| {
        // SAFETY: the library is part of libtorch, whose initialisers are meant to run at any time after libtorch_cpu's,
        // which this executable is linked to. It is never unloaded.
        match unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                std::mem::forget(library);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    })
}

/// Tells the C allocator to keep freed memory, once for the process. For machines that run networks on the CPU.
///
/// libtorch frees and allocates every layer's output anew. By glibc's defaults blocks of this size go back to the kernel
/// each time, which then has to hand out zeroed pages again. The thresholds stop that for the main arena; the arenas that
/// other threads get are cut in pieces of 64 MiB and give those back whatever the thresholds, so there is to be one arena.
/// Measured on 2 cores in bf16: 9 times fewer page faults, and batches of 32 at 129 instead of 106 pictures a second.
///
/// Threads that have an arena already keep it: it is best called before there are any.
pub(crate) fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        static KEPT: OnceLock<()> = OnceLock::new();
        const GIBIBYTE: libc::c_int = 1 << 30;
        KEPT.get_or_init(|| {
            // SAFETY: mallopt takes plain numbers, is thread-safe, and an option that it refuses changes nothing.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, GIBIBYTE);
                libc::mallopt(libc::M_TRIM_THRESHOLD, GIBIBYTE);
                libc::mallopt(libc::M_ARENA_MAX, 1);
            }
        });
    }
}

/// Calls `f` with a tensor over a batch of pixels, without copying them.
///
/// # Shape
///
/// `pixels` holds `n` images of `height × width × 3` bytes. The tensor is `[n, 3, height, width]`, `u8`, on the CPU, with
/// the strides of the bytes as they lie: channels last, which every later step keeps.
pub(crate) fn with_pixels<T>(
    pixels: &[u8],
    [n, height, width]: [i64; 3],
    f: impl FnOnce(&Tensor) -> Result<T, TchError>,
) -> Result<T, TchError> {
    let needed = usize::try_from(n * height * width * 3).unwrap_or(usize::MAX);
    if pixels.len() != needed {
        return Err(TchError::Shape(format!("{} bytes of pixels, {needed} are needed", pixels.len())));
    }
    // SAFETY: size and strides stay within `pixels`, as was just checked, and the slice outlives the call of `f`, which
    // gets the tensor by reference only. A shallow copy that `f` returned would dangle: the callers in this crate return
    // what a copy to another kind or device made.
    let batch = unsafe {
        let strides = [height * width * 3, 1, width * 3, 3];
        Tensor::f_from_blob(pixels.as_ptr(), &[n, 3, height, width], &strides, Kind::Uint8, tch::Device::Cpu)?
    };
    f(&batch)
}

/// Something that is shared between threads and only read.
pub(crate) struct ReadOnly<T>(T);

// SAFETY: what is shared so are a network's layers (`Box<dyn ModuleT>`), which are not `Sync` because tensors could be
// changed through a shared reference. Nobody does: the weights are placed before they are wrapped here, nothing hands out
// the layers but for a forward pass without training and without gradients, which reads them only, and libtorch counts the
// references to a tensor atomically.
unsafe impl<T: Send> Sync for ReadOnly<T> {}

impl<T> ReadOnly<T> {
    /// From here on it is only read.
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns it, to be read.
    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}

impl<T> std::fmt::Debug for ReadOnly<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadOnly").finish_non_exhaustive()
    }
}
