//! NCCL, through its C interface. The library is loaded at run time, since a libtorch for CPUs does not have it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use libloading::Library;
use tch::{Device, Kind, Tensor};

use crate::Result;

type Status = c_int;
type Handle = *mut c_void;
/// The stream that libtorch uses unless another is set.
const LIBTORCH_STREAM: *mut c_void = null_mut();
const SUM: c_int = 0;

/// The identity of a communicator: one process creates it, and sends it to the others.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct UniqueId(
    /// NCCL's bytes.
    pub [u8; 128],
);

#[derive(Debug)]
struct Functions {
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    comm_init_rank: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> Status,
    comm_abort: unsafe extern "C" fn(Handle) -> Status,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> Status,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> Status,
}

/// NCCL's library.
#[derive(Debug, Clone)]
pub struct Nccl(Arc<Functions>);

impl Nccl {
    /// Loads the library that libtorch itself is linked with.
    ///
    /// # Errors
    ///
    /// When there is none; the message says why.
    pub fn open() -> Result<Nccl> {
        // SAFETY: on a machine with a GPU, libtorch has loaded it already. Its initialisers are meant to run on
        // loading.
        let library = unsafe { Library::new("libnccl.so.2") }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has this signature in every NCCL 2.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let functions = Functions {
            get_error_string: function!(b"ncclGetErrorString\0"),
            get_unique_id: function!(b"ncclGetUniqueId\0"),
            comm_init_rank: function!(b"ncclCommInitRank\0"),
            comm_abort: function!(b"ncclCommAbort\0"),
            all_reduce: function!(b"ncclAllReduce\0"),
            broadcast: function!(b"ncclBroadcast\0"),
        };
        // Keeps the functions loaded for the lifetime of the process.
        std::mem::forget(library);
        Ok(Nccl(Arc::new(functions)))
    }

    fn check(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: returns a static string for any status.
        let words = unsafe { CStr::from_ptr((self.0.get_error_string)(status)) };
        Err(format!("NCCL says: {}", words.to_string_lossy()))
    }

    /// Creates the identity of a new communicator.
    ///
    /// # Errors
    ///
    /// When NCCL finds no network.
    pub fn unique_id(&self) -> Result<UniqueId> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the function writes to the address.
        self.check(unsafe { (self.0.get_unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// Joins a communicator with this thread's current GPU, and waits for the other processes.
    ///
    /// # Errors
    ///
    /// When NCCL cannot connect the processes.
    pub fn join(&self, id: UniqueId, rank: usize, size: usize) -> Result<Communicator> {
        let mut handle = null_mut();
        // SAFETY: the function writes to the address.
        self.check(unsafe { (self.0.comm_init_rank)(&raw mut handle, size as c_int, id, rank as c_int) })?;
        Ok(Communicator { nccl: self.clone(), handle })
    }
}

/// A group of processes for collective operations, each on its own GPU.
#[derive(Debug)]
pub struct Communicator {
    nccl: Nccl,
    handle: Handle,
}

// SAFETY: any thread may use a communicator, one at a time.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Replaces a tensor with the sum of all processes' tensors. The operation is queued on the GPU, and not waited
    /// for.
    ///
    /// # Errors
    ///
    /// When NCCL cannot start it; when the tensor is not on a GPU, or not contiguous.
    pub fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        let (address, kind) = on_gpu(tensor)?;
        let Functions { all_reduce, .. } = *self.nccl.0;
        // SAFETY: the tensor has that many values at the address. libtorch reuses its memory only for operations later
        // in the same stream.
        self.nccl
            .check(unsafe { all_reduce(address, address, tensor.numel(), kind, SUM, self.handle, LIBTORCH_STREAM) })
    }

    /// Replaces a tensor with that of process `root`. The operation is queued on the GPU, and not waited for.
    ///
    /// # Errors
    ///
    /// Those of [`Communicator::all_reduce`].
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        let (address, kind) = on_gpu(tensor)?;
        let Functions { broadcast, .. } = *self.nccl.0;
        // SAFETY: as above.
        self.nccl.check(unsafe {
            broadcast(address, address, tensor.numel(), kind, root as c_int, self.handle, LIBTORCH_STREAM)
        })
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: created by `ncclCommInitRank`, and freed once. Aborting does not wait for processes that are gone.
        unsafe { (self.nccl.0.comm_abort)(self.handle) };
    }
}

/// Returns the address of a tensor's values, and NCCL's number for its type.
fn on_gpu(tensor: &Tensor) -> Result<(*mut c_void, c_int)> {
    let kind = match tensor.kind() {
        Kind::Uint8 => 1,
        Kind::Int64 => 4,
        Kind::Float => 7,
        Kind::Double => 8,
        Kind::BFloat16 => 9,
        other => return Err(format!("NCCL does not send a tensor of {other:?}")),
    };
    match tensor.device() {
        Device::Cuda(_) if tensor.is_contiguous() => Ok((tensor.data_ptr(), kind)),
        other => Err(format!("NCCL does not send a tensor on {other:?}, or one in pieces")),
    }
}
