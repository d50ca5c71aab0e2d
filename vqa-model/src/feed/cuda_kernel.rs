//! Kernels of our own, which the GPU's driver compiles when the program runs.

use std::ffi::{CString, c_char, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use libloading::Library;
use tch::{Device, Kind, Tensor};

use crate::feed::cuda::{Cuda, Status, StreamHandle};
use crate::feed::cuda_graph::{Functions as StreamFunctions, current_stream};

/// A kernel on a GPU.
#[derive(Debug)]
pub struct CudaKernel {
    cuda: Cuda,
    device: usize,
    functions: Functions,
    stream_functions: Arc<StreamFunctions>,
    kernel: Handle,
}

// SAFETY: the driver accepts a kernel from any thread.
#[allow(unsafe_code)]
unsafe impl Send for CudaKernel {}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum KernelArgument<'a> {
    /// A pointer to float32.
    Floats(&'a Tensor),
    /// A pointer to bfloat16.
    Bf16s(&'a Tensor),
    /// A null pointer.
    Null,
    /// A float.
    Float(f32),
    /// A long.
    Long(i64),
}

type Handle = *mut c_void;

#[derive(Debug, Clone, Copy)]
struct Functions {
    module_load_data: unsafe extern "C" fn(*mut Handle, *const c_void) -> Status,
    module_get_function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Status,
    launch_kernel: LaunchKernel,
}

/// cuLaunchKernel: the kernel, blocks in three dimensions, threads of a block in three, bytes of shared memory, the
/// stream, pointers to the arguments, and nothing.
type LaunchKernel = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    StreamHandle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Status;

impl Functions {
    #[allow(unsafe_code)]
    fn load() -> Result<Functions, String> {
        // SAFETY: the driver's initialisers are made to run whenever a program begins.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has this signature in every driver since CUDA 4.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let functions = Functions {
            module_load_data: function!(b"cuModuleLoadData\0"),
            module_get_function: function!(b"cuModuleGetFunction\0"),
            launch_kernel: function!(b"cuLaunchKernel\0"),
        };
        // The functions stay as long as the process.
        std::mem::forget(library);
        Ok(functions)
    }
}

fn check(what: &str, status: Status) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("CUDA failed {what} a kernel: error {status}")) }
}

impl CudaKernel {
    /// The kernel of this name in the text of a PTX file, for the GPU of this number.
    ///
    /// # Errors
    ///
    /// Says why there is none.
    #[allow(unsafe_code)]
    pub fn load(device: usize, ptx: &str, name: &str) -> Result<CudaKernel, String> {
        let cuda = Cuda::new(device)?;
        let stream_functions = Arc::new(StreamFunctions::load()?);
        let functions = Functions::load()?;
        let [ptx, name] = [ptx, name].map(CString::new);
        let (ptx, name) = (ptx.map_err(|error| error.to_string())?, name.map_err(|error| error.to_string())?);
        // The driver works for the GPU that the runtime has selected.
        cuda.select()?;
        let (mut module, mut kernel) = (null_mut(), null_mut());
        // SAFETY: text and name end in a zero, and the functions write to the addresses given. The module is never
        // unloaded.
        unsafe {
            check("to load", (functions.module_load_data)(&raw mut module, ptx.as_ptr().cast()))?;
            check("to find", (functions.module_get_function)(&raw mut kernel, module, name.as_ptr()))?;
        }
        Ok(CudaKernel { cuda, device, functions, stream_functions, kernel })
    }

    /// Has the GPU run the kernel in `n_blocks` blocks of `n_threads` threads, after all that was queued before in
    /// libtorch's current stream.
    ///
    /// # Errors
    ///
    /// When CUDA refuses.
    ///
    /// # Panics
    ///
    /// When a tensor is on another device, of another type, not contiguous or not aligned to 16 bytes.
    ///
    /// # Safety
    ///
    /// The arguments are those that the kernel declares, and it reads and writes nothing outside the tensors, which
    /// nothing else uses meanwhile in another stream.
    #[allow(unsafe_code)]
    pub unsafe fn launch(&self, [n_blocks, n_threads]: [u32; 2], arguments: &[KernelArgument]) -> Result<(), String> {
        let mut values: Vec<u64> = arguments.iter().map(|argument| argument.bits(self.device)).collect();
        let mut addresses: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        self.cuda.select()?;
        let stream = current_stream(&self.stream_functions, self.device);
        // SAFETY: the caller vouches for kernel and arguments, whose values outlive the call, which copies them.
        let launched = unsafe {
            (self.functions.launch_kernel)(
                self.kernel,
                n_blocks,
                1,
                1,
                n_threads,
                1,
                1,
                0,
                stream,
                addresses.as_mut_ptr(),
                null_mut(),
            )
        };
        check("to run", launched)
    }
}

impl KernelArgument<'_> {
    /// The value in the first bytes of a word, as GPUs and their hosts are little-endian.
    fn bits(self, device: usize) -> u64 {
        match self {
            KernelArgument::Floats(tensor) => address(tensor, device, Kind::Float),
            KernelArgument::Bf16s(tensor) => address(tensor, device, Kind::BFloat16),
            KernelArgument::Null => 0,
            KernelArgument::Float(value) => u64::from(value.to_bits()),
            KernelArgument::Long(value) => value as u64,
        }
    }
}

/// Where a tensor is, for a kernel that reads 16 bytes at a time.
fn address(tensor: &Tensor, device: usize, kind: Kind) -> u64 {
    let is_right = tensor.device() == Device::Cuda(device) && tensor.kind() == kind && tensor.is_contiguous();
    let address = tensor.data_ptr() as u64;
    assert!(is_right && address.is_multiple_of(16), "{tensor:?}");
    address
}
