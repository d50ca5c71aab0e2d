//! Starts, waits for, freezes and signals running programs. A state that a test wants to see may be over before it can
//! look, so tests freeze a program, look, and try again if they were too late.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::vqa;

/// Starts a command line, with its stderr in a pipe.
pub fn start(directory: &Path, arguments: &str) -> Child {
    vqa(directory, arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Waits for something that is sure to happen; the limit only ends a test that would hang.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(1800), "half an hour without {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends signals to a process, one after another. A frozen process receives them together, when `CONT` resumes it.
pub fn signal(child: &Child, names: &[&str]) {
    let kills: Vec<String> = names.iter().map(|name| format!("kill -{name} {}", child.id())).collect();
    assert!(Command::new("sh").args(["-c", &kills.join(" && ")]).status().unwrap().success());
}

/// Freezes a process, and returns once none of its threads runs any more. False if the process has ended.
pub fn freeze(child: &mut Child) -> bool {
    signal(child, &["STOP"]);
    let threads = format!("/proc/{}/task", child.id());
    // The state of a thread comes after its name, which is in parentheses.
    let is_stopped = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    let mut has_ended = false;
    wait_for("its threads stopping", || {
        has_ended = child.try_wait().unwrap().is_some();
        has_ended || fs::read_dir(&threads).is_ok_and(|mut entries| entries.all(|entry| is_stopped(entry.unwrap())))
    });
    !has_ended
}
