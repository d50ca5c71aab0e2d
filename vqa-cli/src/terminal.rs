//! What is shown: results on stdout, everything else on stderr.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The progress bar on the screen.
static BAR: Mutex<Option<indicatif::ProgressBar>> = Mutex::new(None);

/// Prints a result. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Writes a line to stderr, above the progress bar if there is one. A stderr that is closed, full or gone ends nothing.
pub fn write_stderr(line: std::fmt::Arguments) {
    above_the_bar(|| drop(writeln!(std::io::stderr().lock(), "{line}")));
}

/// [`write_stderr`] with the arguments of `format!`. Not `eprintln!`, which panics where nobody listens.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::terminal::write_stderr(format_args!($($arguments)*))
    };
}
pub(crate) use say;

/// Writes log lines to stderr, above the progress bar if there is one.
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        above_the_bar(|| std::io::stderr().lock().write(line))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether stderr may have colours: on a terminal, unless `NO_COLOR` (no-color.org) is set.
pub fn has_colours() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_unwanted
}

/// Names the progress bar that is on the screen from now on, until it is finished.
pub fn set_bar(bar: indicatif::ProgressBar) {
    *lock_bar() = Some(bar);
}

/// Takes the progress bar from the screen for good: the program is about to end, while other threads still work.
pub fn remove_bar() {
    let bar = lock_bar();
    if let Some(bar) = &*bar {
        bar.finish_and_clear();
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
}

fn above_the_bar<R>(write: impl FnOnce() -> R) -> R {
    match &*lock_bar() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn lock_bar() -> std::sync::MutexGuard<'static, Option<indicatif::ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}
