//! What is shown: results on stdout, progress on stderr.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressDrawTarget, ProgressState, ProgressStyle};

/// Prints a result. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Writes a line to stderr. A stderr that is closed, full or gone ends nothing.
pub fn write_stderr(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// [`write_stderr`] with the arguments of `format!`. Not `eprintln!`, which panics where nobody listens.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::terminal::write_stderr(format_args!($($arguments)*))
    };
}
pub(crate) use say;

/// A progress bar with rate and time left; where stderr is no terminal, a plain line now and then.
pub struct ProgressBar {
    what: Cow<'static, str>,
    unit: &'static str,
    /// Whether rate and time left are shown; without them, what is said of the work has them.
    timed: bool,
    total: u64,
    done: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
    bar: Option<indicatif::ProgressBar>,
}

/// The least and the most from one plain line to the next. In between, a line comes when a tenth more time has passed.
const LINE_EVERY: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(300)];

impl ProgressBar {
    pub fn new(what: &'static str, unit: &'static str, total: u64) -> ProgressBar {
        let template = format!("{what:<10} {{bar:30}} {{pos}}/{{len}} {unit} | {{rate}} | {{eta}} left {{msg}}");
        ProgressBar::with_template(what.into(), unit, true, total, &template)
    }

    /// A bar of batches beside which there is only what [`ProgressBar::reach`] is told.
    #[cfg(feature = "torch")]
    pub fn told(what: String, total: u64) -> ProgressBar {
        let template = format!("{what} {{bar:20}} {{pos}}/{{len}} | {{msg}}");
        ProgressBar::with_template(what.into(), "batches", false, total, &template)
    }

    fn with_template(
        what: Cow<'static, str>,
        unit: &'static str,
        timed: bool,
        total: u64,
        template: &str,
    ) -> ProgressBar {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = indicatif::ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let rate = |state: &ProgressState, f: &mut dyn std::fmt::Write| {
                let _ = write!(f, "{:.0}/s", state.per_sec());
            };
            bar.set_style(ProgressStyle::with_template(template).expect("a valid template").with_key("rate", rate));
            bar
        });
        ProgressBar { what, unit, timed, total, done: AtomicU64::new(0), started: now, last_line: Mutex::new(now), bar }
    }

    /// More is done.
    pub fn add(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        self.show(done, String::new);
    }

    /// So much is done in all, and there is something to say of it.
    #[cfg(feature = "torch")]
    pub fn reach(&self, done: u64, message: impl FnOnce() -> String) {
        self.done.store(done, Ordering::Relaxed);
        self.show(done, message);
    }

    fn show(&self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message());
            bar.set_position(done);
            return;
        }
        // A poisoned or busy lock means that another thread is about to print, or has died: skip the line.
        let Ok(mut last_line) = self.last_line.try_lock() else { return };
        let elapsed = self.started.elapsed();
        if last_line.elapsed() >= (elapsed / 10).clamp(LINE_EVERY[0], LINE_EVERY[1]) {
            *last_line = Instant::now();
            let (what, unit, total) = (&self.what, self.unit, self.total);
            let rate = done as f64 / elapsed.as_secs_f64();
            let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
            let time = if self.timed { format!("{rate:.1}/s | {left:.0} s left ") } else { String::new() };
            say!("{what}: {done}/{total} {unit} | {time}{}", message());
        }
    }

    /// Prints a line above the bar.
    #[cfg(feature = "torch")]
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
