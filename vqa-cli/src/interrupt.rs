//! Handles Ctrl-C and SIGTERM.

use std::fmt;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::exit;
use crate::terminal::{remove_bar, say};

/// Set by the first signal while a [`Graceful`] exists.
static STOP: AtomicBool = AtomicBool::new(false);

/// The message at the first signal, while a signal only sets the flag.
static GRACEFUL: Mutex<Option<&'static str>> = Mutex::new(None);

fn graceful() -> MutexGuard<'static, Option<&'static str>> {
    GRACEFUL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the handler: a signal ends the program at once, and removes half-written files.
pub fn handle() {
    let handler = || {
        let said = *graceful();
        if let Some(said) = said.filter(|_| !STOP.swap(true, Ordering::Relaxed)) {
            say_after_echo(said);
            return;
        }
        let unfinished = vqa_data::files::remove_unfinished();
        remove_bar();
        match unfinished.first() {
            Some(kept) => say_after_echo(&format!("stopped; the same command resumes {}", kept.display())),
            None => say_after_echo("stopped; unfinished files are removed"),
        }
        exit::at_once(exit::STOPPED);
    };
    let ignores_hangup = is_ignored(libc::SIGHUP);
    // Fails only if there is a handler already, and this program installs no other.
    let _ = ctrlc::set_handler(handler);
    if ignores_hangup {
        ignore(libc::SIGHUP);
    }
    // Writing beyond `ulimit -f` is then an ordinary error, like a full disk.
    ignore(libc::SIGXFSZ);
}

/// Prints a message below the line in which the terminal echoes `^C`.
fn say_after_echo(text: &str) {
    let new_line = if std::io::stderr().is_terminal() { "\n" } else { "" };
    say!("{new_line}{text}");
}

/// A command has stopped on a signal, with everything saved; the message says how to resume it. It is an error only in
/// that it ends the command.
#[derive(Debug)]
pub struct Stopped(pub String);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stopped {}

/// Whether the program was started with a signal ignored, as `nohup` does.
#[allow(unsafe_code)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: the struct holds numbers and a pointer, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with a null pointer nothing is changed; the call writes the current action of the signal, whatever its
    // number.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[allow(unsafe_code)]
fn ignore(signal: libc::c_int) {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// While this exists, the first signal only sets its flag, and the second ends the program at once.
#[cfg(feature = "torch")]
pub struct Graceful(());

#[cfg(feature = "torch")]
impl Graceful {
    /// Starts graceful stopping. `said` is the message to print at the first signal.
    pub fn new(said: &'static str) -> Graceful {
        STOP.store(false, Ordering::Relaxed);
        *graceful() = Some(said);
        Graceful(())
    }

    pub fn flag(&self) -> &'static AtomicBool {
        &STOP
    }
}

#[cfg(feature = "torch")]
impl Drop for Graceful {
    fn drop(&mut self) {
        *graceful() = None;
    }
}
