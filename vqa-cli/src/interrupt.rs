//! Ctrl-C and SIGTERM.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::terminal::say;

/// Set by the first signal while a [`FinishTheStep`] exists.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether a signal only sets the flag, the first time.
static GRACEFUL: AtomicBool = AtomicBool::new(false);

/// From now on a signal ends the program at once, without half-written files.
pub fn handle() {
    let handler = || {
        if GRACEFUL.load(Ordering::Relaxed) && !STOP.swap(true, Ordering::Relaxed) {
            say!("\nfinishing this step and saving; press Ctrl-C again to stop at once");
            return;
        }
        match vqa_data::files::remove_unfinished().first() {
            Some(kept) => say!("\nerror: interrupted; the same command resumes {}", kept.display()),
            None => say!("\nerror: interrupted; what was not finished is removed"),
        }
        exit_at_once();
    };
    let ignores_hangup = is_ignored(libc::SIGHUP);
    // Fails only if there is a handler already, and there is no other in this program.
    let _ = ctrlc::set_handler(handler);
    if ignores_hangup {
        ignore(libc::SIGHUP);
    }
}

/// Whether the program was started with a signal ignored, as `nohup` does.
#[allow(unsafe_code)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a struct of numbers and a pointer, for which zeros are values.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: changes nothing, and writes the action of the signal, whatever its number.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[allow(unsafe_code)]
fn ignore(signal: libc::c_int) {
    // SAFETY: there is no handler that could be called after this.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Ends the program without running destructors: those of libtorch, while other threads compute with it, would crash.
#[allow(unsafe_code)]
fn exit_at_once() -> ! {
    // SAFETY: it takes a number, and nothing of the program runs after it.
    unsafe { libc::_exit(1) }
}

/// While this exists, the first signal sets its flag, and the second ends the program at once.
#[cfg(feature = "torch")]
pub struct FinishTheStep;

#[cfg(feature = "torch")]
impl FinishTheStep {
    pub fn new() -> FinishTheStep {
        STOP.store(false, Ordering::Relaxed);
        GRACEFUL.store(true, Ordering::Relaxed);
        FinishTheStep
    }

    pub fn flag(&self) -> &'static AtomicBool {
        &STOP
    }
}

#[cfg(feature = "torch")]
impl Drop for FinishTheStep {
    fn drop(&mut self) {
        GRACEFUL.store(false, Ordering::Relaxed);
    }
}
