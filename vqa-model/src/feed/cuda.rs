//! The parts of CUDA and libtorch that tch lacks: pinned memory, events, how much memory is free, TF32.
//!
//! The CUDA functions are those of the runtime that libtorch itself uses, whatever its version, and are found through
//! libtorch's library. Their signatures have been the same since CUDA 4. If they are not found, the caller does without
//! them.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use libloading::Library;
use tch::{Device, Tensor};

use crate::error::Result;

/// The CUDA runtime, for one GPU.
#[derive(Debug, Clone)]
pub(crate) struct Cuda {
    device: c_int,
    functions: Arc<Functions>,
}

pub(super) type Status = c_int;
type EventHandle = *mut c_void;
pub(super) type StreamHandle = *mut c_void;

#[derive(Debug)]
struct Functions {
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    set_device: unsafe extern "C" fn(c_int) -> Status,
    mem_get_info: unsafe extern "C" fn(*mut usize, *mut usize) -> Status,
    host_alloc: unsafe extern "C" fn(*mut *mut c_void, usize, c_uint) -> Status,
    free_host: unsafe extern "C" fn(*mut c_void) -> Status,
    memcpy_async: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int, StreamHandle) -> Status,
    event_create: unsafe extern "C" fn(*mut EventHandle, c_uint) -> Status,
    event_record: unsafe extern "C" fn(EventHandle, StreamHandle) -> Status,
    event_synchronize: unsafe extern "C" fn(EventHandle) -> Status,
    event_destroy: unsafe extern "C" fn(EventHandle) -> Status,
}

/// The stream that libtorch computes in unless another is set: the default one.
const LIBTORCH_STREAM: StreamHandle = null_mut();

impl Cuda {
    /// Loads the runtime for the GPU with this index.
    ///
    /// # Errors
    ///
    /// Says why it is not available.
    #[allow(unsafe_code)]
    pub(crate) fn new(device: usize) -> Result<Cuda, String> {
        // SAFETY: if there is a GPU, this part of libtorch is loaded already. Its initialisers are meant to be run.
        let library = unsafe { Library::new("libtorch_cuda.so") }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has this signature in every version of the CUDA runtime.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let functions = Functions {
            get_error_string: function!(b"cudaGetErrorString\0"),
            set_device: function!(b"cudaSetDevice\0"),
            mem_get_info: function!(b"cudaMemGetInfo\0"),
            host_alloc: function!(b"cudaHostAlloc\0"),
            free_host: function!(b"cudaFreeHost\0"),
            memcpy_async: function!(b"cudaMemcpyAsync\0"),
            event_create: function!(b"cudaEventCreateWithFlags\0"),
            event_record: function!(b"cudaEventRecord\0"),
            event_synchronize: function!(b"cudaEventSynchronize\0"),
            event_destroy: function!(b"cudaEventDestroy\0"),
        };
        // The functions stay loaded as long as the process runs.
        std::mem::forget(library);
        Ok(Cuda { device: device as c_int, functions: Arc::new(functions) })
    }

    /// Directs this thread's CUDA calls to the GPU.
    #[allow(unsafe_code)]
    pub(super) fn select(&self) -> Result<(), String> {
        // SAFETY: the function accepts any number.
        self.check(unsafe { (self.functions.set_device)(self.device) })
    }

    #[allow(unsafe_code)]
    pub(super) fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: returns a static string, for any number.
        let words = unsafe { CStr::from_ptr((self.functions.get_error_string)(status)) };
        Err(format!("CUDA says: {}", words.to_string_lossy()))
    }

    /// Returns how many bytes of the GPU's memory are free.
    #[allow(unsafe_code)]
    pub(crate) fn free_memory(&self) -> Result<u64, String> {
        self.select()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the function writes to both addresses.
        self.check(unsafe { (self.functions.mem_get_info)(&raw mut free, &raw mut total) })?;
        Ok(free as u64)
    }
}

/// Pinned memory: host memory that a GPU copies from by itself, at full speed, while the program continues.
///
/// The bytes can be written only through [`PinnedBytes`], which [`wait`](Pinned::wait) returns once the GPU has
/// finished the last copy, and which the next copy consumes. So nothing writes while the GPU reads.
#[derive(Debug)]
pub(crate) struct Pinned {
    cuda: Cuda,
    start: NonNull<c_void>,
    len: usize,
    /// Marks the end of the last copy.
    copied: EventHandle,
    /// Whether a copy was started whose end could not be marked, so that there is no way to tell when it has finished.
    is_unmarked: bool,
}

/// The bytes of [`Pinned`] memory while the GPU isn't reading them.
pub(crate) struct PinnedBytes<'a> {
    pinned: &'a mut Pinned,
}

// SAFETY: its memory and its event are its own, and the runtime accepts them from any thread.
#[allow(unsafe_code)]
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates `len` bytes, all 0.
    #[allow(unsafe_code)]
    pub(crate) fn new(cuda: &Cuda, len: usize) -> Result<Pinned, String> {
        /// cudaHostAllocPortable: pinned for every GPU, as the process may have several.
        const PORTABLE: c_uint = 1;
        /// cudaEventBlockingSync | cudaEventDisableTiming: a thread that waits sleeps, and no times are recorded.
        const EVENT: c_uint = 1 | 2;
        cuda.select()?;
        let mut copied = null_mut();
        // SAFETY: the function writes the handle to this address.
        cuda.check(unsafe { (cuda.functions.event_create)(&raw mut copied, EVENT) })?;
        let mut start = null_mut();
        // SAFETY: the function writes the address of the memory to this address.
        let allocated = cuda.check(unsafe { (cuda.functions.host_alloc)(&raw mut start, len.max(1), PORTABLE) });
        match allocated.and_then(|()| NonNull::new(start).ok_or("CUDA gave no memory".to_owned())) {
            Ok(start) => {
                // SAFETY: the memory has this length and nothing else uses it yet.
                unsafe { start.cast::<u8>().write_bytes(0, len) };
                Ok(Pinned { cuda: cuda.clone(), start, len, copied, is_unmarked: false })
            }
            Err(reason) => {
                // SAFETY: the event was created above and is not in use.
                unsafe { (cuda.functions.event_destroy)(copied) };
                Err(reason)
            }
        }
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Waits until the GPU has read the last copy, if there was one.
    #[allow(unsafe_code)]
    pub(crate) fn wait(&mut self) -> Result<PinnedBytes<'_>, String> {
        if self.is_unmarked {
            return Err("an earlier copy to the GPU failed".to_owned());
        }
        // SAFETY: the event exists as long as `self`. The function returns at once for one that was never recorded.
        self.cuda.check(unsafe { (self.cuda.functions.event_synchronize)(self.copied) })?;
        Ok(PinnedBytes { pinned: self })
    }
}

impl PinnedBytes<'_> {
    /// Returns the bytes, to be written.
    #[allow(unsafe_code)]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory has this length, is initialised since `new`, and is borrowed through `self`. The GPU isn't
        // reading it: the last copy was waited for, and the next one consumes `self`.
        unsafe { std::slice::from_raw_parts_mut(self.pinned.start.as_ptr().cast(), self.pinned.len) }
    }

    /// Queues a copy of the first bytes, as many as the tensor has, to a contiguous tensor on the GPU, after everything
    /// that was queued before. Returns at once.
    ///
    /// # Panics
    ///
    /// When the tensor is on another device, not contiguous, or larger than the memory.
    #[allow(unsafe_code)]
    pub(crate) fn copy_to(self, tensor: &Tensor) -> Result<(), String> {
        /// cudaMemcpyHostToDevice
        const HOST_TO_DEVICE: c_int = 1;
        let Pinned { cuda, start, len, copied, is_unmarked } = self.pinned;
        let n = tensor.numel() * tensor.kind().elt_size_in_bytes();
        assert!(n <= *len && tensor.is_contiguous() && tensor.device() == Device::Cuda(cuda.device as usize));
        cuda.select()?;
        let Functions { memcpy_async, event_record, .. } = *cuda.functions;
        *is_unmarked = true;
        // SAFETY: both have that many bytes. The pinned memory is written and freed only after the event
        // recorded below. The tensor's memory is libtorch's, which reuses it only in the order of this stream.
        cuda.check(unsafe { memcpy_async(tensor.data_ptr(), start.as_ptr(), n, HOST_TO_DEVICE, LIBTORCH_STREAM) })?;
        // SAFETY: the event exists as long as the `Pinned`.
        cuda.check(unsafe { event_record(*copied, LIBTORCH_STREAM) })?;
        *is_unmarked = false;
        Ok(())
    }
}

impl Drop for Pinned {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.wait().is_err() {
            // The GPU may still be reading, so the memory is leaked.
            return;
        }
        // SAFETY: both were created in `new`, and the GPU no longer uses either.
        unsafe {
            (self.cuda.functions.event_destroy)(self.copied);
            (self.cuda.functions.free_host)(self.start.as_ptr());
        }
    }
}

/// Sets, for the entire process, whether the GPU may use TF32 for float32 matrices: in products, and in cuDNN's
/// recurrent networks, for which libtorch allows it by default. Returns whether this libtorch has the settings.
#[allow(unsafe_code)]
pub fn allow_tf32(allowed: bool) -> bool {
    const SETTERS: [&[u8]; 2] = [b"_ZN2at7Context18setAllowTF32CuBLASEb\0", b"_ZN2at7Context17setAllowTF32CuDNNEb\0"];
    // SAFETY: the names are those of at::Context::setAllowTF32CuBLAS(bool) and at::Context::setAllowTF32CuDNN(bool).
    SETTERS.iter().fold(true, |is_set, setter| is_set & unsafe { set_in_context(setter, allowed) })
}

/// Calls a setter of `at::Context`, found by its mangled name: libtorch's C interface has none for these settings.
/// Returns whether it was found.
///
/// # Safety
///
/// The name must be null-terminated, and that of a method of `at::Context` that takes a bool and returns nothing.
#[cfg(unix)]
#[allow(unsafe_code)]
unsafe fn set_in_context(setter: &[u8], on: bool) -> bool {
    let process = libloading::os::unix::Library::this();
    type GlobalContext = unsafe extern "C" fn() -> *mut c_void;
    type Setter = unsafe extern "C" fn(*mut c_void, bool);
    // SAFETY: at::globalContext() returns a reference, in the one version of libtorch that tch accepts; the
    // caller vouches for the setter.
    unsafe {
        let context = process.get::<GlobalContext>(b"_ZN2at13globalContextEv\0");
        let set = process.get::<Setter>(setter);
        let (Ok(context), Ok(set)) = (context, set) else { return false };
        set(context(), on);
    }
    true
}

#[cfg(not(unix))]
#[allow(unsafe_code)]
unsafe fn set_in_context(_: &[u8], _: bool) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    #[allow(unsafe_code)]
    fn tf32_is_libtorchs_own_setting() {
        let process = libloading::os::unix::Library::this();
        // SAFETY: at::globalContext() as above, and at::Context::allowTF32CuBLAS() const, which returns a bool.
        let is_allowed = || unsafe {
            let context = process.get::<unsafe extern "C" fn() -> *mut c_void>(b"_ZN2at13globalContextEv\0").unwrap()();
            process.get::<unsafe extern "C" fn(*mut c_void) -> bool>(b"_ZNK2at7Context15allowTF32CuBLASEv\0").unwrap()(
                context,
            )
        };
        // A tensor, so that libtorch is loaded.
        let _ = Tensor::zeros([1], (tch::Kind::Float, Device::Cpu));
        assert!(!is_allowed());
        assert!(allow_tf32(true) && is_allowed());
        assert!(allow_tf32(false) && !is_allowed());
    }

    /// Where there is no driver or no GPU, the message is CUDA's own.
    #[test]
    fn without_a_gpu_there_is_a_reason() {
        match Cuda::new(0).and_then(|cuda| cuda.free_memory()) {
            Ok(free) => assert!(free > 0),
            Err(reason) => assert!(reason.contains("CUDA") || reason.contains("libtorch_cuda"), "{reason}"),
        }
    }
}
