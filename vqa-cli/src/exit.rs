//! Exit codes, and ending the program.

/// The exit code of a command that succeeded.
pub const SUCCESS: u8 = 0;
/// The exit code of a command that failed.
pub const FAILURE: u8 = 1;
/// The exit code for an invalid command line.
pub const USAGE: u8 = 2;
/// The exit code of a command that was stopped by a signal, as shells report it for Ctrl-C.
pub const STOPPED: u8 = 130;

/// Ends the program without running the destructors of its libraries. Those of libtorch unregister each of its
/// operators, which takes a quarter of the time of a short command and would crash while other threads still compute.
/// Output that is still buffered is lost.
#[allow(unsafe_code)]
pub fn at_once(code: u8) -> ! {
    // SAFETY: the call takes a number, and none of the program's code runs after it.
    unsafe { libc::_exit(code.into()) }
}
