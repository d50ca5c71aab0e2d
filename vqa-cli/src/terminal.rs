//! What is shown: results on stdout, progress on stderr.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Prints a result. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// A progress bar with rate and time left; where stderr is no terminal, a plain line now and then.
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    total: u64,
    done: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
    bar: Option<ProgressBar>,
}

/// From one plain line to the next.
const LINE_EVERY: Duration = Duration::from_secs(15);

impl Progress {
    pub fn new(what: &'static str, unit: &'static str, total: u64) -> Progress {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let template = format!("{what:<10} {{bar:30}} {{pos}}/{{len}} {unit} | {{rate}} | {{eta}} left {{msg}}");
            let rate = |state: &ProgressState, f: &mut dyn std::fmt::Write| {
                let _ = write!(f, "{:.0}/s", state.per_sec());
            };
            bar.set_style(ProgressStyle::with_template(&template).expect("a valid template").with_key("rate", rate));
            bar
        });
        Progress { what, unit, total, done: AtomicU64::new(0), started: now, last_line: Mutex::new(now), bar }
    }

    /// More is done.
    pub fn add(&self, n: u64) {
        self.advance(n, String::new);
    }

    /// More is done, and there is something to say of it.
    pub fn advance(&self, n: u64, message: impl FnOnce() -> String) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        if let Some(bar) = &self.bar {
            bar.set_message(message());
            bar.set_position(done);
            return;
        }
        // A poisoned or busy lock means that another thread is about to print, or has died: skip the line.
        let Ok(mut last_line) = self.last_line.try_lock() else { return };
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            let rate = done as f64 / self.started.elapsed().as_secs_f64();
            let left = self.total.saturating_sub(done) as f64 / rate.max(1e-9);
            let (what, unit, total) = (self.what, self.unit, self.total);
            eprintln!("{what}: {done}/{total} {unit} | {rate:.1}/s | {left:.0} s left {}", message());
        }
    }

    /// Prints a line above the bar.
    #[cfg(feature = "torch")]
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
