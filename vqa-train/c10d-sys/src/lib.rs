//! Bindings to libtorch's collectives, which `tch` does not expose: [`ProcessGroup`] is c10d's Gloo, for tensors on a
//! CPU, with the [`Store`] through which processes find each other; [`nccl::Communicator`] is NCCL, for tensors on a
//! GPU.
//!
//! All unsafe code for distributed training is here.

#![deny(missing_docs)]
// Unsafe code is what this crate is for.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::IpAddr;
use std::ptr::NonNull;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

pub mod nccl;

/// A result whose error is libtorch's message.
pub type Result<T> = std::result::Result<T, String>;

unsafe extern "C" {
    fn c10d_error() -> *const c_char;
    fn c10d_store_connect(
        host: *const c_char,
        port: u16,
        serve: bool,
        prefix: *const c_char,
        timeout_ms: i64,
    ) -> *mut c_void;
    fn c10d_store_set(store: *mut c_void, key: *const c_char, value: *const u8, len: usize) -> bool;
    fn c10d_store_get(store: *mut c_void, key: *const c_char, value: *mut *const u8, len: *mut usize) -> c_int;
    fn c10d_store_add(store: *mut c_void, key: *const c_char, n: i64, sum: *mut i64) -> bool;
    fn c10d_store_free(store: *mut c_void);
    fn c10d_group_new(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        interface: *const c_char,
        address: *const c_char,
        timeout_ms: i64,
    ) -> *mut c_void;
    fn c10d_group_start_all_reduce(group: *mut c_void, tensor: *mut torch_sys::C_tensor) -> *mut c_void;
    fn c10d_work_wait(work: *mut c_void) -> bool;
    fn c10d_work_free(work: *mut c_void);
    fn c10d_group_broadcast(group: *mut c_void, tensor: *mut torch_sys::C_tensor, root: c_int) -> bool;
    fn c10d_group_free(group: *mut c_void);
}

/// Returns the message of this thread's last failed call: only the first line, without libtorch's call stack and its
/// source location.
fn error() -> String {
    // SAFETY: the string belongs to this thread, and only this thread's next call changes it.
    let words = unsafe { CStr::from_ptr(c10d_error()) }.to_string_lossy();
    let line = words.lines().next().unwrap_or_default();
    let without_place = line.strip_prefix('[').and_then(|rest| Some(rest.split_once("] ")?.1));
    without_place.unwrap_or(line).trim().to_owned()
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| format!("{text:?} has a zero byte"))
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// A key-value store that the processes of a job share, kept by one of them or by their launcher.
#[derive(Debug)]
pub struct Store(NonNull<c_void>);

// SAFETY: c10d's stores serialise calls with a lock of their own.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at an address; with `serve`, this process also keeps the store. All keys are prefixed with
    /// `prefix`.
    ///
    /// # Errors
    ///
    /// When it cannot be reached within the timeout, or the port is taken.
    pub fn connect(host: &str, port: u16, serve: bool, prefix: &str, timeout: Duration) -> Result<Store> {
        let (host, prefix) = (text(host)?, text(prefix)?);
        // SAFETY: both strings live through the call, which copies them.
        let store = unsafe { c10d_store_connect(host.as_ptr(), port, serve, prefix.as_ptr(), milliseconds(timeout)) };
        NonNull::new(store).map(Store).ok_or_else(error)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    ///
    /// When the store is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = text(key)?;
        // SAFETY: key and value live through the call, which copies them.
        let done = unsafe { c10d_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) };
        if done { Ok(()) } else { Err(error()) }
    }

    /// Returns the value of a key, if it has one yet.
    ///
    /// # Errors
    ///
    /// When the store is gone.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let key = text(key)?;
        let (mut value, mut len) = (std::ptr::null(), 0);
        // SAFETY: the key lives through the call; the other two are written to.
        match unsafe { c10d_store_get(self.0.as_ptr(), key.as_ptr(), &raw mut value, &raw mut len) } {
            0 => Ok(None),
            // SAFETY: the call returned that many bytes, which live until this thread's next one. There may be none.
            1 if len > 0 => Ok(Some(unsafe { std::slice::from_raw_parts(value, len) }.to_vec())),
            1 => Ok(Some(Vec::new())),
            _ => Err(error()),
        }
    }

    /// Adds `n` to the number at a key, which is 0 at first, and returns the sum.
    ///
    /// # Errors
    ///
    /// When the store is gone.
    pub fn add(&self, key: &str, n: i64) -> Result<i64> {
        let key = text(key)?;
        let mut sum = 0;
        // SAFETY: the key lives through the call; the sum is written to.
        let done = unsafe { c10d_store_add(self.0.as_ptr(), key.as_ptr(), n, &raw mut sum) };
        if done { Ok(sum) } else { Err(error()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: created by `c10d_store_connect`, and freed once. A group keeps its own reference.
        unsafe { c10d_store_free(self.0.as_ptr()) }
    }
}

/// Where a process listens for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// At a network interface, such as `eth0`.
    Interface(String),
    /// At an address of this machine.
    Address(IpAddr),
}

/// A group of processes for collective operations: c10d's Gloo, which works on tensors on the CPU.
#[derive(Debug)]
pub struct ProcessGroup {
    group: NonNull<c_void>,
    rank: usize,
    size: usize,
}

// SAFETY: nothing in it belongs to a particular thread.
unsafe impl Send for ProcessGroup {}

impl ProcessGroup {
    /// Joins the group of `size` processes as number `rank`, and waits for the others. No collective takes longer than
    /// `timeout`.
    ///
    /// # Errors
    ///
    /// When the others do not join in time, or cannot be reached.
    pub fn join(store: &Store, rank: usize, size: usize, listen: &Listen, timeout: Duration) -> Result<ProcessGroup> {
        let (interface, address) = match listen {
            Listen::Interface(name) => (name.clone(), String::new()),
            Listen::Address(address) => (String::new(), address.to_string()),
        };
        let (interface, address) = (text(&interface)?, text(&address)?);
        let number = |n: usize| c_int::try_from(n).map_err(|_| format!("{n} processes are too many"));
        // SAFETY: the store is alive, and the group takes a reference to it; the strings live through the call.
        let group = unsafe {
            c10d_group_new(
                store.0.as_ptr(),
                number(rank)?,
                number(size)?,
                interface.as_ptr(),
                address.as_ptr(),
                milliseconds(timeout),
            )
        };
        NonNull::new(group).map(|group| ProcessGroup { group, rank, size }).ok_or_else(error)
    }

    /// Returns the number of this process.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Starts to replace a tensor with the sum of all processes' tensors, identical in every process. Until
    /// [`Work::wait`] has returned, the tensor's values are meaningless and its memory must not be written to.
    ///
    /// # Errors
    ///
    /// When the tensor is not on the CPU, or not contiguous.
    pub fn start_all_reduce(&self, mut tensor: Tensor) -> Result<Work> {
        check_on_cpu(&tensor)?;
        // SAFETY: the group is alive; the pointer is to a live `at::Tensor`, to which the work keeps a reference. If
        // the caller writes to its memory meanwhile, the sum is wrong, as with any two tensors that share memory.
        let work = unsafe { c10d_group_start_all_reduce(self.group.as_ptr(), tensor.as_mut_ptr()) };
        NonNull::new(work).map(Work).ok_or_else(error)
    }

    /// [`ProcessGroup::start_all_reduce`], waiting for the result.
    ///
    /// # Errors
    ///
    /// When a process is gone, or does not make the call in time; when the tensor is not on the CPU, or not contiguous.
    pub fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        self.start_all_reduce(tensor.shallow_clone())?.wait()
    }

    /// Replaces a tensor with that of process `root`.
    ///
    /// # Errors
    ///
    /// Those of [`ProcessGroup::all_reduce`].
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        check_on_cpu(tensor)?;
        assert!(root < self.size, "a process of the group");
        // SAFETY: as above.
        let done = unsafe { c10d_group_broadcast(self.group.as_ptr(), tensor.as_mut_ptr(), root as c_int) };
        if done { Ok(()) } else { Err(error()) }
    }
}

/// A collective in progress.
#[derive(Debug)]
pub struct Work(NonNull<c_void>);

impl Work {
    /// Waits for it to finish.
    ///
    /// # Errors
    ///
    /// When a process is gone, or does not make the call in time.
    pub fn wait(self) -> Result<()> {
        // SAFETY: the work is alive.
        let done = unsafe { c10d_work_wait(self.0.as_ptr()) };
        if done { Ok(()) } else { Err(error()) }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: created by `c10d_group_start_all_reduce`, and freed once. An operation in progress has references of
        // its own.
        unsafe { c10d_work_free(self.0.as_ptr()) }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: created by `c10d_group_new`, and freed once.
        unsafe { c10d_group_free(self.group.as_ptr()) }
    }
}

fn check_on_cpu(tensor: &Tensor) -> Result<()> {
    match (tensor.device(), tensor.is_contiguous(), tensor.kind()) {
        (Device::Cpu, true, Kind::Float | Kind::Double | Kind::Int64 | Kind::BFloat16 | Kind::Uint8) => Ok(()),
        (device, _, kind) => Err(format!("Gloo does not send a tensor of {kind:?} on {device:?}")),
    }
}
