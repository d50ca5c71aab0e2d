//! Ctrl-C and SIGTERM.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first signal while [`finish_the_step`] is in force.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether a signal only sets the flag, the first time.
static GRACEFUL: AtomicBool = AtomicBool::new(false);

/// From now on a signal ends the program at once, without half-written files.
pub fn handle() {
    let handler = || {
        if GRACEFUL.load(Ordering::Relaxed) && !STOP.swap(true, Ordering::Relaxed) {
            eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
            return;
        }
        vqa_data::remove_unfinished();
        eprintln!("\nerror: interrupted; no unfinished file was left");
        std::process::exit(1);
    };
    // Fails only if there is a handler already, and there is no other in this program.
    let _ = ctrlc::set_handler(handler);
}

/// From now on the first signal sets the flag that this returns; the second ends the program at once.
#[cfg(feature = "torch")]
pub fn finish_the_step() -> &'static AtomicBool {
    GRACEFUL.store(true, Ordering::Relaxed);
    &STOP
}
