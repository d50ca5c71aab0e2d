//! What is used of CUDA and libtorch that tch does not have: memory that a GPU copies from by itself, events, free memory, TF32.
//!
//! The CUDA functions are those of the runtime that libtorch works with, found through libtorch's own library, whatever version
//! it has; they have been the same since CUDA 4. Where they are not found, the caller does without.

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

type Status = c_int;
type EventHandle = *mut c_void;
type StreamHandle = *mut c_void;

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

/// The stream that libtorch computes in, as long as nobody sets another: the default one.
const LIBTORCH_STREAM: StreamHandle = null_mut();

impl Cuda {
    /// The runtime for a GPU.
    ///
    /// # Errors
    ///
    /// Says why there is none.
    #[allow(unsafe_code)]
    pub(crate) fn new(device: usize) -> Result<Cuda, String> {
        // SAFETY: a part of libtorch, which is loaded already where there is a GPU.
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
        // The functions stay as long as the process.
        std::mem::forget(library);
        Ok(Cuda { device: device as c_int, functions: Arc::new(functions) })
    }

    /// Makes this thread's calls go to the GPU.
    #[allow(unsafe_code)]
    fn select(&self) -> Result<(), String> {
        // SAFETY: takes a number, of whatever value.
        self.check(unsafe { (self.functions.set_device)(self.device) })
    }

    #[allow(unsafe_code)]
    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: returns a string that is never freed, for any number.
        let words = unsafe { CStr::from_ptr((self.functions.get_error_string)(status)) };
        Err(format!("CUDA says: {}", words.to_string_lossy()))
    }

    /// Bytes of the GPU's memory that nobody has.
    #[allow(unsafe_code)]
    pub(crate) fn free_memory(&self) -> Result<u64, String> {
        self.select()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes the two numbers.
        self.check(unsafe { (self.functions.mem_get_info)(&raw mut free, &raw mut total) })?;
        Ok(free as u64)
    }
}

/// Memory of the computer that the GPU copies from by itself, at full speed and while the program goes on.
#[derive(Debug)]
pub(crate) struct Pinned {
    cuda: Cuda,
    start: NonNull<c_void>,
    len: usize,
    /// Passed when the last copy from it is done.
    copied: EventHandle,
}

// SAFETY: its memory and its event are its own, and the runtime takes them from any thread.
#[allow(unsafe_code)]
unsafe impl Send for Pinned {}

impl Pinned {
    /// So many bytes.
    #[allow(unsafe_code)]
    pub(crate) fn new(cuda: &Cuda, len: usize) -> Result<Pinned, String> {
        /// For every GPU, as the process may have several.
        const PORTABLE: c_uint = 1;
        /// Without a clock, and the thread that waits sleeps.
        const EVENT: c_uint = 1 | 2;
        cuda.select()?;
        let mut copied = null_mut();
        // SAFETY: writes the handle.
        cuda.check(unsafe { (cuda.functions.event_create)(&raw mut copied, EVENT) })?;
        let mut start = null_mut();
        // SAFETY: writes the address.
        let allocated = cuda.check(unsafe { (cuda.functions.host_alloc)(&raw mut start, len.max(1), PORTABLE) });
        let start = allocated.and_then(|()| NonNull::new(start).ok_or("CUDA gave no memory".to_owned()));
        let pinned = start.map(|start| Pinned { cuda: cuda.clone(), start, len, copied });
        if pinned.is_err() {
            // SAFETY: it was made above, and nothing waits for it.
            unsafe { (cuda.functions.event_destroy)(copied) };
            return pinned;
        }
        let mut pinned = pinned?;
        pinned.bytes_mut().fill(0);
        Ok(pinned)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Waits until the GPU has read what was copied before.
    #[allow(unsafe_code)]
    pub(crate) fn wait(&self) -> Result<(), String> {
        // SAFETY: the event is there as long as this is. One that was never recorded is passed.
        self.cuda.check(unsafe { (self.cuda.functions.event_synchronize)(self.copied) })
    }

    /// The bytes. After [`Pinned::copy_to`] they must not be written before [`Pinned::wait`]: the GPU would read a mixture.
    #[allow(unsafe_code)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory has this length, was set to 0 at first, and is nobody else's; the GPU only reads it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }

    /// Has the GPU copy the beginning to a flat tensor of bytes, when it comes to it. Returns at once.
    #[allow(unsafe_code)]
    pub(crate) fn copy_to(&self, tensor: &Tensor) -> Result<(), String> {
        const HOST_TO_DEVICE: c_int = 1;
        let n = tensor.numel() * tensor.kind().elt_size_in_bytes();
        assert!(n <= self.len && tensor.is_contiguous() && tensor.device() == Device::Cuda(self.cuda.device as usize));
        self.cuda.select()?;
        let Functions { memcpy_async, event_record, .. } = *self.cuda.functions;
        // SAFETY: both have that many bytes. The pinned ones are freed after a wait; the tensor's memory is libtorch's, which
        // gives it to others only in the order of this stream.
        self.cuda.check(unsafe {
            memcpy_async(tensor.data_ptr(), self.start.as_ptr(), n, HOST_TO_DEVICE, LIBTORCH_STREAM)
        })?;
        // SAFETY: the event is there as long as this is.
        self.cuda.check(unsafe { event_record(self.copied, LIBTORCH_STREAM) })
    }
}

impl Drop for Pinned {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // Where even waiting fails, the GPU is gone.
        let _ = self.wait();
        // SAFETY: both were made in `new`, and the GPU has no more use for them.
        unsafe {
            (self.cuda.functions.event_destroy)(self.copied);
            (self.cuda.functions.free_host)(self.start.as_ptr());
        }
    }
}

/// Whether the GPU may compute products of float32 matrices in TF32, in the whole process. Returns whether this libtorch can be
/// told; `at::Context` has no other way in from Rust than its two functions' names.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn allow_tf32(allowed: bool) -> bool {
    let process = libloading::os::unix::Library::this();
    type GlobalContext = unsafe extern "C" fn() -> *mut c_void;
    type SetAllowTf32 = unsafe extern "C" fn(*mut c_void, bool);
    // SAFETY: at::globalContext() returns a reference, and at::Context::setAllowTF32CuBLAS is a method of a bool. Neither
    // signature is other in a version of libtorch that tch accepts.
    unsafe {
        let context = process.get::<GlobalContext>(b"_ZN2at13globalContextEv\0");
        let set = process.get::<SetAllowTf32>(b"_ZN2at7Context18setAllowTF32CuBLASEb\0");
        let (Ok(context), Ok(set)) = (context, set) else { return false };
        set(context(), allowed);
    }
    true
}

#[cfg(not(unix))]
pub fn allow_tf32(_: bool) -> bool {
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
        // A first tensor, so that libtorch is there.
        let _ = Tensor::zeros([1], (tch::Kind::Float, Device::Cpu));
        assert!(!is_allowed());
        assert!(allow_tf32(true) && is_allowed());
        assert!(allow_tf32(false) && !is_allowed());
    }

    /// Where there is no driver or no GPU, CUDA's own words say so.
    #[test]
    fn without_a_gpu_there_is_a_reason() {
        match Cuda::new(0).and_then(|cuda| cuda.free_memory()) {
            Ok(free) => assert!(free > 0),
            Err(reason) => assert!(reason.contains("CUDA") || reason.contains("libtorch_cuda"), "{reason}"),
        }
    }
}
