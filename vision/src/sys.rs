//! What needs `unsafe`, and nothing else: each item says why it is sound.
#![expect(unsafe_code, reason = "libtorch is reached through pointers, the dynamic linker and the allocator")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Once, OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{CModule, Kind, TchError, Tensor};

/// Loads the CUDA half of libtorch, once, if it is in the library path. In fp32 it then computes in fp32: libtorch's own
/// choice for convolutions is TF32, which is further off than golden outputs may be.
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
                // SAFETY: it sets a few plain values of libtorch's, once, before anything computes there.
                unsafe { tidemill_exact_convolutions() };
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

/// From now on a process that ends in order, as a test's does, ends without the destructors of libtorch where threads are
/// still within it: those that compute would have taken from under them what they use, and it would crash. Nothing is lost
/// by that: Rust's own output has been written by then, and the rest is memory. (Our command has no destructors at its end.)
pub(crate) fn leave_threads_behind() {
    #[cfg(target_env = "gnu")]
    {
        static ASKED: Once = Once::new();
        ASKED.call_once(|| {
            // SAFETY: the function is of the kind that is asked for, never unloaded, and does not look at the argument.
            unsafe {
                on_exit(end_at_once_if_at_work, std::ptr::null_mut());
            }
        });
    }
}

/// Called at the end of `main` and by [`std::process::exit`], before the destructors of what was loaded by then.
#[cfg(target_env = "gnu")]
extern "C" fn end_at_once_if_at_work(status: libc::c_int, _argument: *mut c_void) {
    if crate::threads::is_any_at_work() {
        // SAFETY: it may be called at any time, and does not return.
        unsafe { libc::_exit(status) }
    }
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// glibc's own, which the crate `libc` does not have: as `atexit`, and tells the status.
    fn on_exit(call: extern "C" fn(libc::c_int, *mut c_void), argument: *mut c_void) -> libc::c_int;
}

/// What TorchScript modules print goes to standard error from now on: outcomes are on standard output.
pub(crate) fn print_to_stderr() {
    static ASKED: Once = Once::new();
    ASKED.call_once(|| {
        // SAFETY: it sets a pointer, which libtorch keeps as an atomic, to a function that is never unloaded.
        unsafe { tidemill_print_to_stderr() }
    });
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

unsafe extern "C" {
    fn tidemill_pack(
        weight: *const c_void,
        padding: i64,
        stride: i64,
        groups: i64,
        error: *mut *mut c_char,
    ) -> *mut c_void;

    fn tidemill_convolve(
        input: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        padding: i64,
        stride: i64,
        groups: i64,
        relu6: bool,
        error: *mut *mut c_char,
    ) -> *mut c_void;

    fn tidemill_cast(module: *const c_void, kind: c_int, error: *mut *mut c_char) -> i64;

    fn tidemill_exact_convolutions();

    fn tidemill_print_to_stderr();
}

/// Makes those numbers of a module that have a fraction ones of a kind: its parameters, and its buffers too, which `tch`
/// does not list. What counts or says yes or no stays what it is, since it says which place or whether. Returns how many
/// bytes they all take then.
///
/// # Errors
/// Where there is no memory for them, or `kind` is none of the three that networks compute in.
pub(crate) fn cast(module: &mut CModule, kind: Kind) -> Result<u64, TchError> {
    // As `c10::ScalarType` counts; tch keeps its own list to itself.
    let number = match kind {
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::BFloat16 => 15,
        other => return Err(TchError::Kind(format!("a module is not cast to {other:?}"))),
    };
    const { assert!(size_of::<CModule>() == size_of::<*const c_void>()) };
    // SAFETY: of tch 0.24.0, which is asked for exactly, a `CModule` is a struct of one pointer, to a `torch::jit::Module`:
    // being of a pointer's size it is that pointer.
    let module: *const c_void = unsafe { *std::ptr::from_mut(module).cast::<*const c_void>() };
    let mut error = std::ptr::null_mut();
    // SAFETY: the module outlives the call, and nobody else has it: it was lent to be changed.
    let bytes = unsafe { tidemill_cast(module, number, &raw mut error) };
    u64::try_from(bytes).map_err(|_| said(error))
}

/// How a convolution runs over its input: alike in both directions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Zeros on each side.
    pub(crate) padding: i64,
    /// Pixels from one place of the kernel to the next.
    pub(crate) stride: i64,
    /// In how many parts the channels are convolved by themselves.
    pub(crate) groups: i64,
}

/// Lays the weights of a convolution out on the CPU as oneDNN reads them, for [`convolve`] alone.
///
/// # Errors
/// Where libtorch was built without oneDNN, or it cannot compute in this kind of number here.
pub(crate) fn pack(weight: &Tensor, run: Run) -> Result<Tensor, TchError> {
    // SAFETY: the weight outlives the call, which only reads it.
    made(|error| unsafe { tidemill_pack(weight.as_ptr().cast(), run.padding, run.stride, run.groups, error) })
}

/// Convolves with packed weights, adds the bias in fp32 and limits the sum to 0 to 6 where that is asked for: all in one
/// pass over the output, which is rounded once.
///
/// # Shape
///
/// in: `[n, c, h, w]` on the CPU, of the weights' kind; as it lies (best channels last), so lies the output · bias:
/// `[c']`, `f32`
///
/// # Errors
/// oneDNN's.
pub(crate) fn convolve(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    run: Run,
    relu6: bool,
) -> Result<Tensor, TchError> {
    let Run { padding, stride, groups } = run;
    let (input, weight, bias) = (input.as_ptr().cast(), weight.as_ptr().cast(), bias.as_ptr().cast());
    // SAFETY: the three outlive the call, which only reads them.
    made(|error| unsafe { tidemill_convolve(input, weight, bias, padding, stride, groups, relu6, error) })
}

/// The tensor that a call of `fused.cpp` made, or what it said.
fn made(call: impl FnOnce(*mut *mut c_char) -> *mut c_void) -> Result<Tensor, TchError> {
    let mut error = std::ptr::null_mut();
    let tensor = call(&raw mut error);
    if !tensor.is_null() {
        // SAFETY: it is a tensor of its own on the heap, made by `new` as those of torch-sys are, and nobody else's.
        return Ok(unsafe { Tensor::from_ptr(tensor.cast()) });
    }
    Err(said(error))
}

/// The error that a call of `fused.cpp` left.
fn said(error: *mut c_char) -> TchError {
    if error.is_null() {
        return TchError::Torch("not enough memory to say what is wrong".to_owned());
    }
    // SAFETY: it is a text with its end, from malloc, and nobody else's.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        text
    };
    TchError::Torch(text)
}

/// Something that is shared between threads and only read.
pub(crate) struct ReadOnly<T>(T);

// SAFETY: what is shared so are a network's layers (tensors, and `Box<dyn ModuleT>` with tensors in it) and the tensors that
// pixels are normalised by, which are not `Sync` because tensors could be changed through a shared reference. Nobody does:
// the weights are placed before they are wrapped here, nothing hands them out but for a forward pass without training and
// without gradients, which reads them only (what it changes in place it has made itself), and libtorch counts the references
// to a tensor atomically. Of TorchScript's modules `tch` says by itself that they are `Sync`.
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
