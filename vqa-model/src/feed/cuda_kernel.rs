//! Kernels of our own, compiled at run time by NVRTC, which is present wherever libtorch computes on GPUs.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use libloading::Library;
use tch::{Device, Kind, Tensor};

use crate::feed::cuda::{Cuda, Status, StreamHandle};
use crate::feed::cuda_graph::{Functions as StreamFunctions, current_stream};

/// Kernels that were compiled together.
#[derive(Debug, Clone)]
pub struct CudaModule(Arc<Code>);

/// Where kernels run.
#[derive(Debug)]
enum Code {
    Gpu(Gpu),
    /// On a CPU, slowly.
    #[cfg(test)]
    Emulated(crate::feed::cuda_on_cpu::Emulated),
}

#[derive(Debug)]
struct Gpu {
    cuda: Cuda,
    device: usize,
    driver: Driver,
    stream_functions: Arc<StreamFunctions>,
    module: Loaded,
}

/// The driver's handle of a module or a kernel.
#[derive(Debug, Clone, Copy)]
struct Loaded(Handle);

// SAFETY: the driver accepts them from any thread.
#[allow(unsafe_code)]
unsafe impl Send for Loaded {}
// SAFETY: they are never modified.
#[allow(unsafe_code)]
unsafe impl Sync for Loaded {}

/// A kernel.
#[derive(Debug)]
pub struct CudaKernel {
    code: CudaModule,
    kernel: Loaded,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum KernelArgument<'a> {
    /// A pointer to float32.
    Floats(&'a Tensor),
    /// A pointer to float32 that is read one value at a time, and so needs no further alignment.
    UnalignedFloats(&'a Tensor),
    /// A pointer to bfloat16.
    Bf16s(&'a Tensor),
    /// A pointer to the first row of a bfloat16 matrix, whose rows need not be adjacent.
    Bf16Rows(&'a Tensor),
    /// A pointer to 32-bit integers.
    Ints(&'a Tensor),
    /// A pointer to 64-bit integers.
    Longs(&'a Tensor),
    /// A pointer to float64.
    Doubles(&'a Tensor),
    /// A pointer to booleans.
    Bools(&'a Tensor),
    /// A null pointer.
    Null,
    /// A float.
    Float(f32),
    /// An int.
    Int(i32),
    /// A long.
    Long(i64),
    /// A struct of 256 64-bit integers, passed by value.
    Table(&'a [u64; 256]),
}

pub(super) type Handle = *mut c_void;

#[derive(Debug, Clone, Copy)]
struct Driver {
    module_load_data: unsafe extern "C" fn(*mut Handle, *const c_void) -> Status,
    module_get_function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Status,
    launch_kernel: LaunchKernel,
}

/// cuLaunchKernel: the kernel, blocks in three dimensions, threads of a block in three, bytes of shared memory, the
/// stream, pointers to the arguments, and null.
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

impl Driver {
    #[allow(unsafe_code)]
    fn load() -> Result<Driver, String> {
        // SAFETY: the driver's initialisers are meant to be run by any program that loads it.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has this signature in every driver since CUDA 4.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let functions = Driver {
            module_load_data: function!(b"cuModuleLoadData\0"),
            module_get_function: function!(b"cuModuleGetFunction\0"),
            launch_kernel: function!(b"cuLaunchKernel\0"),
        };
        // The functions stay loaded as long as the process runs.
        std::mem::forget(library);
        Ok(functions)
    }
}

/// NVRTC, NVIDIA's compiler from CUDA C++ to PTX, which needs no GPU.
struct Compiler {
    create_program: CreateProgram,
    compile_program: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    get_ptx_size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    get_ptx: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    get_program_log_size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    get_program_log: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    destroy_program: unsafe extern "C" fn(*mut Handle) -> Status,
}

/// nvrtcCreateProgram: the program, source, its name, and no headers.
type CreateProgram = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;

impl Compiler {
    /// Code that is compiled for these GPUs (Turing, 2018) is translated by the driver for all later ones.
    const OPTIONS: [&std::ffi::CStr; 2] = [c"--gpu-architecture=compute_75", c"--std=c++17"];

    /// Loads the compiler from the first of these libraries that can be opened.
    #[allow(unsafe_code)]
    fn load(names: &[&str]) -> Result<Compiler, String> {
        let mut reasons = Vec::new();
        // SAFETY: NVRTC's initialisers, and those of the part of libtorch that depends on it, are meant to be run.
        let opened = names.iter().find_map(|name| unsafe { Library::new(name) }.map_err(|e| reasons.push(e)).ok());
        let library = opened.ok_or_else(|| reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has this signature in every NVRTC since CUDA 8.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let compiler = Compiler {
            create_program: function!(b"nvrtcCreateProgram\0"),
            compile_program: function!(b"nvrtcCompileProgram\0"),
            get_ptx_size: function!(b"nvrtcGetPTXSize\0"),
            get_ptx: function!(b"nvrtcGetPTX\0"),
            get_program_log_size: function!(b"nvrtcGetProgramLogSize\0"),
            get_program_log: function!(b"nvrtcGetProgramLog\0"),
            destroy_program: function!(b"nvrtcDestroyProgram\0"),
        };
        // The functions stay loaded as long as the process runs.
        std::mem::forget(library);
        Ok(compiler)
    }

    /// Compiles a source to PTX, which is null-terminated.
    #[allow(unsafe_code)]
    fn compile(&self, source: &str) -> Result<Vec<u8>, String> {
        let source = CString::new(source).map_err(|error| error.to_string())?;
        let options = Compiler::OPTIONS.map(|option| option.as_ptr());
        let mut program = null_mut();
        // SAFETY: strings are null-terminated; the size of a text is queried first, and the text is written to a
        // buffer of that size; and the program is destroyed once, at the end.
        unsafe {
            check("compile", (self.create_program)(&raw mut program, source.as_ptr(), null(), 0, null(), null()))?;
            let status = (self.compile_program)(program, options.len() as c_int, options.as_ptr());
            let (get_size, get) = match status {
                0 => (self.get_ptx_size, self.get_ptx),
                _ => (self.get_program_log_size, self.get_program_log),
            };
            let mut size = 0;
            let mut text = Vec::new();
            if get_size(program, &raw mut size) == 0 {
                text = vec![0u8; size];
                get(program, text.as_mut_ptr().cast());
            }
            (self.destroy_program)(&raw mut program);
            match status {
                0 => Ok(text),
                _ => Err(format!("NVRTC failed: {}", String::from_utf8_lossy(&text).trim_end_matches('\0').trim())),
            }
        }
    }
}

fn check(what: &str, status: Status) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("CUDA failed to {what} a kernel: error {status}")) }
}

impl CudaModule {
    /// Compiles a CUDA C++ source for a device, and returns what `kernels_of` builds from its kernels. Returns `None`
    /// on a CPU, and on failure, which logs a warning that `what` happens in a slower way.
    pub fn load<T>(
        device: Device,
        source: &str,
        what: &str,
        kernels_of: impl FnOnce(&CudaModule) -> Result<T, String>,
    ) -> Option<T> {
        let Device::Cuda(index) = device else { return None };
        CudaModule::compile(index, source)
            .and_then(|module| kernels_of(&module))
            .inspect_err(|reason| tracing::warn!("{what} more slowly ({reason})"))
            .ok()
    }

    /// Compiles the kernels in a CUDA C++ source for the GPU with this index.
    ///
    /// # Errors
    ///
    /// Says why they cannot be compiled or loaded.
    #[allow(unsafe_code)]
    fn compile(device: usize, source: &str) -> Result<CudaModule, String> {
        let cuda = Cuda::new(device)?;
        let stream_functions = Arc::new(StreamFunctions::load()?);
        let driver = Driver::load()?;
        // The first is a part of libtorch, which knows where its NVRTC is.
        let ptx = Compiler::load(&["libcaffe2_nvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"])?.compile(source)?;
        // The driver works for the GPU that the runtime has selected.
        cuda.select()?;
        let mut module = null_mut();
        // SAFETY: the PTX is null-terminated, and the function writes to the address given. The module is never
        // unloaded.
        unsafe { check("load", (driver.module_load_data)(&raw mut module, ptx.as_ptr().cast()))? };
        Ok(CudaModule(Arc::new(Code::Gpu(Gpu { cuda, device, driver, stream_functions, module: Loaded(module) }))))
    }

    /// Compiles the kernels with these names in a CUDA C++ source, to be emulated on a CPU.
    #[cfg(test)]
    pub(crate) fn emulated(source: &str, names: &[&str]) -> CudaModule {
        CudaModule(Arc::new(Code::Emulated(crate::feed::cuda_on_cpu::Emulated::compile(source, names))))
    }

    /// Returns the kernel with this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    #[allow(unsafe_code)]
    pub fn kernel(&self, name: &str) -> Result<CudaKernel, String> {
        let kernel = match &*self.0 {
            Code::Gpu(Gpu { driver, module, .. }) => {
                let text = CString::new(name).map_err(|error| error.to_string())?;
                let mut kernel = null_mut();
                // SAFETY: the name is null-terminated, and the function writes to the address given.
                let status = unsafe { (driver.module_get_function)(&raw mut kernel, module.0, text.as_ptr()) };
                check(&format!("find {name}, "), status)?;
                kernel
            }
            #[cfg(test)]
            Code::Emulated(emulated) => emulated.kernel(name),
        };
        Ok(CudaKernel { code: self.clone(), kernel: Loaded(kernel) })
    }
}

impl CudaKernel {
    /// Launches the kernel on the GPU with a two-dimensional grid of `n_blocks` blocks of `n_threads` threads, after
    /// everything that was queued before in libtorch's current stream.
    ///
    /// # Errors
    ///
    /// When CUDA refuses.
    ///
    /// # Panics
    ///
    /// When a tensor is on another device or of another type, not contiguous, or not aligned: to 16 bytes, unless its
    /// values are read one at a time.
    ///
    /// # Safety
    ///
    /// The arguments must be those that the kernel declares, and it must read and write nothing outside the tensors,
    /// which nothing in another stream may use meanwhile.
    #[allow(unsafe_code)]
    pub unsafe fn launch(
        &self,
        n_blocks: [u32; 2],
        n_threads: u32,
        arguments: &[KernelArgument],
    ) -> Result<(), String> {
        let device = match &*self.code.0 {
            Code::Gpu(gpu) => Device::Cuda(gpu.device),
            #[cfg(test)]
            Code::Emulated(_) => Device::Cpu,
        };
        let mut values: Vec<u64> = arguments.iter().map(|argument| argument.bits(device)).collect();
        let address = |(argument, value): (&KernelArgument, &mut u64)| match argument {
            KernelArgument::Table(table) => table.as_ptr().cast_mut().cast(),
            _ => (&raw mut *value).cast(),
        };
        let mut addresses: Vec<*mut c_void> = arguments.iter().zip(&mut values).map(address).collect();
        match &*self.code.0 {
            Code::Gpu(Gpu { cuda, device, driver, stream_functions, .. }) => {
                cuda.select()?;
                let stream = current_stream(stream_functions, *device);
                let [x, y] = n_blocks;
                let arguments = addresses.as_mut_ptr();
                // SAFETY: the caller vouches for kernel and arguments, whose values outlive the call, which copies
                // them.
                let launched = unsafe {
                    (driver.launch_kernel)(self.kernel.0, x, y, 1, n_threads, 1, 1, 0, stream, arguments, null_mut())
                };
                check("run", launched)
            }
            #[cfg(test)]
            Code::Emulated(emulated) => {
                // SAFETY: as above.
                unsafe { emulated.run(self.kernel.0, n_blocks, n_threads, addresses.as_mut_ptr()) };
                Ok(())
            }
        }
    }
}

impl KernelArgument<'_> {
    /// Returns the value in the first bytes of a 64-bit word, as GPUs and their hosts are little-endian.
    fn bits(self, device: Device) -> u64 {
        let is_contiguous = |tensor: &Tensor| tensor.is_contiguous();
        let are_rows = |tensor: &Tensor| tensor.dim() == 2 && tensor.stride()[1] == 1 && tensor.stride()[0] % 8 == 0;
        match self {
            KernelArgument::Floats(tensor) => address(tensor, device, Kind::Float, 16, is_contiguous(tensor)),
            KernelArgument::UnalignedFloats(tensor) => address(tensor, device, Kind::Float, 4, is_contiguous(tensor)),
            KernelArgument::Bf16s(tensor) => address(tensor, device, Kind::BFloat16, 16, is_contiguous(tensor)),
            KernelArgument::Bf16Rows(tensor) => address(tensor, device, Kind::BFloat16, 16, are_rows(tensor)),
            KernelArgument::Ints(tensor) => address(tensor, device, Kind::Int, 4, is_contiguous(tensor)),
            KernelArgument::Longs(tensor) => address(tensor, device, Kind::Int64, 8, is_contiguous(tensor)),
            KernelArgument::Doubles(tensor) => address(tensor, device, Kind::Double, 8, is_contiguous(tensor)),
            KernelArgument::Bools(tensor) => address(tensor, device, Kind::Bool, 1, is_contiguous(tensor)),
            KernelArgument::Null | KernelArgument::Table(_) => 0,
            KernelArgument::Float(value) => u64::from(value.to_bits()),
            KernelArgument::Int(value) => u64::from(value as u32),
            KernelArgument::Long(value) => value as u64,
        }
    }
}

/// Returns the address of a tensor, after checking it for a kernel that reads `alignment` bytes at a time.
fn address(tensor: &Tensor, device: Device, kind: Kind, alignment: u64, has_valid_layout: bool) -> u64 {
    let is_right = tensor.device() == device && tensor.kind() == kind && has_valid_layout;
    let address = tensor.data_ptr() as u64;
    assert!(is_right && address.is_multiple_of(alignment), "{tensor:?}");
    address
}
