//! Progress bars.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::terminal::{is_silent, say, set_bar};

/// A progress bar with rate and time left; if stderr is not a terminal, it prints a plain line now and then instead.
/// There is one at a time.
pub struct ProgressBar {
    what: Cow<'static, str>,
    unit: &'static str,
    /// Whether rate and time left are shown.
    timed: bool,
    total: u64,
    done: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
    on_screen: Option<OnScreen>,
}

/// A bar on a terminal, with the details to show beside it.
struct OnScreen {
    bar: indicatif::ProgressBar,
    said: Arc<Mutex<Vec<String>>>,
}

/// The shortest and the longest time between plain lines. Within these bounds, a line is printed whenever the elapsed
/// time has grown by a tenth.
const LINE_EVERY: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(300)];

impl ProgressBar {
    pub fn new(what: &'static str, unit: &'static str, total: u64) -> ProgressBar {
        ProgressBar::start(what.into(), unit, true, total)
    }

    /// A bar that counts batches and shows only the details given to [`ProgressBar::set_done`], with no rate of its own.
    #[cfg(feature = "torch")]
    pub fn with_details(what: String, total: u64) -> ProgressBar {
        ProgressBar::start(what.into(), "batches", false, total)
    }

    fn start(what: Cow<'static, str>, unit: &'static str, timed: bool, total: u64) -> ProgressBar {
        let now = Instant::now();
        let on_screen = (std::io::stderr().is_terminal() && !is_silent())
            .then(|| OnScreen::start(what.clone(), unit, timed, total));
        ProgressBar {
            what,
            unit,
            timed,
            total,
            done: AtomicU64::new(0),
            started: now,
            last_line: Mutex::new(now),
            on_screen,
        }
    }

    /// Advances by `n`.
    pub fn add(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        self.show(done, Vec::new);
    }

    /// Sets the total done so far, and details to show beside the bar, most important first.
    #[cfg(feature = "torch")]
    pub fn set_done(&self, done: u64, said: impl FnOnce() -> Vec<String>) {
        self.done.store(done, Ordering::Relaxed);
        self.show(done, said);
    }

    fn show(&self, done: u64, said: impl FnOnce() -> Vec<String>) {
        if let Some(OnScreen { bar, said: shown }) = &self.on_screen {
            let said = said();
            if !said.is_empty() {
                *shown.lock().unwrap_or_else(PoisonError::into_inner) = said;
            }
            bar.set_position(done);
            return;
        }
        // If the lock is busy or poisoned, another thread is about to print or has panicked: skip the line.
        let Ok(mut last_line) = self.last_line.try_lock() else { return };
        let elapsed = self.started.elapsed();
        if last_line.elapsed() >= (elapsed / 10).clamp(LINE_EVERY[0], LINE_EVERY[1]) {
            *last_line = Instant::now();
            let mut parts = vec![amount(done, self.total, self.unit)];
            if self.timed {
                let per_second = done as f64 / elapsed.as_secs_f64();
                let left = self.total.saturating_sub(done) as f64 / per_second.max(1e-9);
                parts.extend(speed(per_second, Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX), self.unit));
            }
            parts.extend(said());
            say!("{}: {}", self.what, parts.join(" | "));
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Some(OnScreen { bar, .. }) = &self.on_screen {
            bar.finish_and_clear();
        }
    }
}

impl OnScreen {
    fn start(what: Cow<'static, str>, unit: &'static str, timed: bool, total: u64) -> OnScreen {
        let bar = indicatif::ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        let said = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&said);
        // A template cannot adapt to the width of the terminal, so its only key is the full line.
        let line = move |state: &ProgressState, f: &mut dyn std::fmt::Write| {
            let mut parts = vec![amount(state.pos(), total, unit)];
            if timed {
                parts.extend(speed(state.per_sec(), state.eta(), unit));
            }
            parts.extend(shown.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
            let _ = f.write_str(&fit(columns(), &what, state.fraction(), &parts));
        };
        bar.set_style(ProgressStyle::with_template("{line}").expect("a valid template").with_key("line", line));
        set_bar(bar.clone());
        OnScreen { bar, said }
    }
}

/// Formats how much of the total is done.
fn amount(done: u64, total: u64, unit: &str) -> String {
    match unit {
        "bytes" if total >= 100_000_000 => format!("{}/{} MB", done / 1_000_000, total / 1_000_000),
        "bytes" => format!("{:.1}/{:.1} MB", done as f64 / 1e6, total as f64 / 1e6),
        unit => format!("{done}/{total} {unit}"),
    }
}

/// Formats the time left and the rate.
fn speed(per_second: f64, left: Duration, unit: &str) -> [String; 2] {
    let rate = if unit == "bytes" { format!("{:.1} MB/s", per_second / 1e6) } else { format!("{per_second:.1}/s") };
    [format!("{:#} left", HumanDuration(left)), rate]
}

/// The width of the terminal, without the last column: some terminals wrap a line that fills it.
fn columns() -> usize {
    let size = console::Term::stderr().size_checked();
    size.map_or(80, |(_, columns)| usize::from(columns)).saturating_sub(1).max(1)
}

/// A line with a bar in at most this many columns. The last parts are dropped first, then the bar.
fn fit(columns: usize, what: &str, share: f32, parts: &[String]) -> String {
    const BAR: std::ops::RangeInclusive<usize> = 8..=30;
    let line = |n: usize| format!("{what} {}", parts[..n].join(" | "));
    // The number of columns left beside the first `n` parts.
    let left = |n: usize| columns.checked_sub(console::measure_text_width(&line(n)));
    let bar = |n: usize| left(n)?.checked_sub(1).filter(|left| left >= BAR.start());
    let with_bar = (1..=parts.len()).rev().find_map(|n| Some((n, bar(n)?.min(*BAR.end()))));
    if let Some((n, bar)) = with_bar {
        let done = ((bar as f32 * share.clamp(0.0, 1.0)) as usize).min(bar);
        return format!("{what} {}{} {}", "█".repeat(done), "░".repeat(bar - done), parts[..n].join(" | "));
    }
    let n = (1..=parts.len()).rev().find(|&n| left(n).is_some()).unwrap_or(1);
    console::truncate_str(&line(n), columns, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_wider_than_the_terminal() {
        let parts =
            ["4711/12345 batches", "loss 3.141, score 12.3", "5m left, 2h in all", "1234 questions/s, data 12 %"];
        let parts = parts.map(str::to_owned);
        for columns in 1..200 {
            for n in 1..=parts.len() {
                let line = fit(columns, "epoch 12/13", 0.4, &parts[..n]);
                assert!(console::measure_text_width(&line) <= columns, "{columns}: {line}");
                // The most important part is shown as soon as there is room for it.
                assert!(columns < 30 || line.contains("4711/12345 batches"), "{columns}: {line}");
            }
        }
        let line = fit(79, "read", 0.5, &["1.0/2.0 MB".to_owned(), "2s left".to_owned(), "0.5 MB/s".to_owned()]);
        assert_eq!(line, format!("read {}{} 1.0/2.0 MB | 2s left | 0.5 MB/s", "█".repeat(15), "░".repeat(15)));
    }

    #[test]
    fn bytes_are_megabytes() {
        assert_eq!(amount(250_000, 1_500_000, "bytes"), "0.2/1.5 MB");
        assert_eq!(amount(123_456_789, 590_000_000, "bytes"), "123/590 MB");
        assert_eq!(amount(3, 7, "images"), "3/7 images");
        assert_eq!(speed(2.5e6, Duration::from_secs(120), "bytes"), ["2m left", "2.5 MB/s"]);
    }
}
