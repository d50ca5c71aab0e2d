//! Kernels emulated on a CPU, compiled by a C++ compiler, for tests without a GPU.

use std::ffi::{c_uint, c_void};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use crate::feed::cuda_kernel::Handle;

/// Compiled kernels.
#[derive(Debug)]
pub(super) struct Emulated(Library);

type Run = unsafe extern "C" fn(c_uint, c_uint, c_uint, *mut *mut c_void);

impl Emulated {
    /// Compiles the kernels of a source that have these names.
    #[allow(unsafe_code)]
    pub(super) fn compile(source: &str, names: &[&str]) -> Emulated {
        let dir = tempfile::tempdir().unwrap();
        let [cpp, library] = ["kernels.cpp", "kernels.so"].map(|name| dir.path().join(name));
        let runs: String = names.iter().map(|name| format!("RUN({name})\n")).collect();
        std::fs::write(&cpp, format!("{}\n{source}\n{runs}", include_str!("cuda_on_cpu.h"))).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let compiled = Command::new(&compiler)
            .args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-o"])
            .args([&library, &cpp])
            .output();
        let output = compiled.unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: nothing runs when the library is loaded.
        Emulated(unsafe { Library::new(&library) }.unwrap())
    }

    /// Returns the function that runs the kernel with this name.
    #[allow(unsafe_code)]
    pub(super) fn kernel(&self, name: &str) -> Handle {
        // SAFETY: the function has this signature, as the header says.
        let run: Run = *unsafe { self.0.get(format!("run_{name}\0").as_bytes()) }.unwrap();
        run as Handle
    }

    /// Runs a kernel from [`Emulated::kernel`].
    ///
    /// # Safety
    ///
    /// The arguments must be those of the kernel, and it must read and write nothing outside its tensors.
    #[allow(unsafe_code)]
    pub(super) unsafe fn run(&self, kernel: Handle, [x, y]: [u32; 2], n_threads: u32, arguments: *mut *mut c_void) {
        /// All blocks run in the same fibres.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the handle is that of a function of this type; the caller vouches for the arguments.
        unsafe { std::mem::transmute::<Handle, Run>(kernel)(x, y, n_threads, arguments) }
    }
}
