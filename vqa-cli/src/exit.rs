//! The end of the program.

/// The exit code of a command that did what it was asked for.
pub const SUCCESS: u8 = 0;
/// The exit code of a command that failed.
pub const FAILURE: u8 = 1;
/// The exit code of a command line that was not understood.
pub const USAGE: u8 = 2;
/// The exit code of a command that was stopped by a signal: what shells report for Ctrl-C.
pub const STOPPED: u8 = 130;

/// Ends the program without running the destructors of its libraries. Those of libtorch take each of its operators
/// back, which takes a quarter of the time of a short command, and would crash while other threads still compute. What
/// the standard output still holds is lost.
#[allow(unsafe_code)]
pub fn at_once(code: u8) -> ! {
    // SAFETY: it takes a number, and nothing of the program runs after it.
    unsafe { libc::_exit(code.into()) }
}
