//! Output: results on stdout, everything else on stderr.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The progress bar on the screen.
static BAR: Mutex<Option<indicatif::ProgressBar>> = Mutex::new(None);

/// The number of this process among several that were started together; 0 if it is alone.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of this process among several. All but the first then print only errors.
#[cfg(feature = "torch")]
pub fn be_process(number: usize) {
    PROCESS.store(number, Ordering::Relaxed);
}

/// Whether this process prints only errors.
pub fn is_silent() -> bool {
    PROCESS.load(Ordering::Relaxed) > 0
}

/// Prints a result. A closed pipe (`| head`) is not an error.
pub fn print(text: &str) -> Result<()> {
    if is_silent() {
        return Ok(());
    }
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Writes a line to stderr, above the progress bar if there is one. Failing to write is not an error.
pub fn write_stderr(line: std::fmt::Arguments) {
    if !is_silent() {
        write_error(line);
    }
}

/// Like [`write_stderr`], for an error: each of several processes prints its own, with its number.
pub fn write_error(line: std::fmt::Arguments) {
    let line = match PROCESS.load(Ordering::Relaxed) {
        0 => printable(&line.to_string()),
        process => printable(&format!("process {process}: {line}")),
    };
    above_the_bar(|| drop(writeln!(std::io::stderr().lock(), "{line}")));
}

/// Joins the lines of a message, since those of libraries may have several.
pub fn on_one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Makes a text that may quote a hostile file safe to print: bounds its length, and escapes control characters.
fn printable(text: &str) -> String {
    let is_obeyed = |char: char| char.is_control() && char != '\n';
    let escaped = cut(text).chars().fold(String::new(), |mut escaped, char| {
        match is_obeyed(char) {
            true => escaped.extend(char.escape_default()),
            false => escaped.push(char),
        }
        escaped
    });
    cut(&escaped)
}

/// Cuts the middle out of a long text.
fn cut(text: &str) -> String {
    const MAX_CHARS: usize = 2000;
    let start = |n: usize| text.char_indices().nth(n).map(|(at, _)| at);
    match start(MAX_CHARS) {
        None => text.to_owned(),
        Some(_) => {
            let (head, tail) = (start(MAX_CHARS / 2).unwrap_or(0), text.char_indices().nth_back(MAX_CHARS / 2 - 2));
            format!("{}…{}", &text[..head], tail.map_or("", |(at, _)| &text[at..]))
        }
    }
}

/// [`write_stderr`] with the arguments of `format!`, instead of `eprintln!`, which panics if stderr cannot be written.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::terminal::write_stderr(format_args!($($arguments)*))
    };
}
pub(crate) use say;

/// [`write_error`] with the arguments of `format!`.
macro_rules! say_error {
    ($($arguments:tt)*) => {
        $crate::terminal::write_error(format_args!($($arguments)*))
    };
}
pub(crate) use say_error;

/// Writes log lines to stderr, above the progress bar if there is one.
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if is_silent() {
            return Ok(line.len());
        }
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

/// Shows a picture on stdout, if that is a terminal known to support it.
#[cfg(feature = "torch")]
pub fn show(picture: image::RgbImage) {
    /// The maximum side in pixels: more than the rows below have on most screens.
    const MAX_SIDE: u32 = 1024;
    const ROWS: u32 = 20;
    // Any other terminal would have to be queried, with a wait if it does not answer.
    let is_kitty = std::env::var("TERM").is_ok_and(|name| name.contains("kitty") || name.contains("ghostty"));
    if !std::io::stdout().is_terminal() || !(is_kitty || viuer::is_iterm_supported()) {
        return;
    }
    let mut picture = image::DynamicImage::from(picture);
    if picture.width().max(picture.height()) > MAX_SIDE {
        picture = picture.thumbnail(MAX_SIDE, MAX_SIDE);
    }
    let config =
        viuer::Config { absolute_offset: false, height: Some(ROWS), use_kitty: is_kitty, ..viuer::Config::default() };
    // Ignored: the picture is in its file in any case.
    let _ = viuer::print(&picture, &config);
}

/// Registers the progress bar on the screen.
pub fn set_bar(bar: indicatif::ProgressBar) {
    *lock_bar() = Some(bar);
}

/// Removes the progress bar from the screen for good: the program is about to end, while other threads still work.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_harmless() {
        for n in [0, 1, 1999, 2000] {
            assert_eq!(printable(&"ä".repeat(n)), "ä".repeat(n));
        }
        for n in [2001, 2002, 1_000_000] {
            let shown = printable(&format!("a{}z", "語".repeat(n - 2)));
            assert_eq!(shown.chars().count(), 2000, "{n}");
            assert!(shown.starts_with("a語") && shown.ends_with("語z") && shown.contains("語…語"), "{shown}");
        }
        assert_eq!(printable("\na\x1b[31mb\u{9b}c\rd"), "\na\\u{1b}[31mb\\u{9b}c\\rd");
        assert_eq!(printable(&"\0".repeat(5000)).chars().count(), 2000);
    }
}
