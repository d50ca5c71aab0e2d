//! Handles SIGBUS, the signal for reading a missing part of a memory-mapped file that was truncated, or whose disk
//! failed.
//!
//! There is no value to continue with, so the program ends with a message that names the file, after removing
//! half-written files. A signal handler may do next to nothing, as the thread that got the signal may hold any lock,
//! even the allocator's. So the handler only passes the address to a waiting thread, which does the rest. The unsafe
//! code here is the handler, and system calls that the standard library lacks.

use std::io::{PipeReader, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use vqa_data::files::{mapped_file_at, remove_unfinished};

use crate::exit;
use crate::terminal::{remove_bar, say};

/// The pipe that the handler writes the address to.
static ADDRESSES: AtomicI32 = AtomicI32::new(-1);

/// Makes SIGBUS end the program with a message from now on.
pub fn handle() {
    let Ok((reader, writer)) = std::io::pipe() else { return };
    // Never closed.
    ADDRESSES.store(writer.into_raw_fd(), Ordering::Relaxed);
    if std::thread::Builder::new().name("sigbus".to_owned()).spawn(|| wait(reader)).is_ok() {
        install();
    }
}

/// Waits for an address, which in most runs never comes.
fn wait(mut addresses: PipeReader) {
    let mut address = [0; size_of::<usize>()];
    if addresses.read_exact(&mut address).is_err() {
        return;
    }
    let file = mapped_file_at(usize::from_ne_bytes(address));
    remove_unfinished();
    remove_bar();
    let file = file.map_or_else(|| "a file".to_owned(), |path| path.display().to_string());
    say!(
        "error: {file}: it was truncated while it was being read, or its disk failed: restore it, and do not change it \
         while a command runs"
    );
    exit::at_once(exit::FAILURE);
}

#[allow(unsafe_code)]
fn install() {
    // SAFETY: the struct holds numbers and a pointer, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler has the signature that SA_SIGINFO requires, and calls only async-signal-safe functions.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
}

#[allow(unsafe_code)]
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system passes a valid pointer, and for this signal the info has an address.
    let address = unsafe { (*info).si_addr() }.addr().to_ne_bytes();
    // SAFETY: `write` reads the bytes of the array, and is async-signal-safe.
    unsafe { libc::write(ADDRESSES.load(Ordering::Relaxed), address.as_ptr().cast(), address.len()) };
    // The faulting instruction cannot continue. If the other thread does not end the program, this one does. SAFETY:
    // both are async-signal-safe.
    unsafe {
        libc::sleep(10);
        libc::_exit(exit::FAILURE.into())
    }
}
