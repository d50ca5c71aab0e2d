//! Messages about problems with images and files.

use std::path::PathBuf;

use vqa_data::Error;
use vqa_data::features::BadImage;
use vqa_data::message::counted;

use crate::terminal::say;

/// Adds to an error that interrupted writing whether the same command can resume from there, because one of these
/// unfinished files is left.
pub fn what_is_kept(error: Error, unfinished: impl IntoIterator<Item = PathBuf>) -> anyhow::Error {
    // Retrying does not help with bad data, but does once a full disk has room again.
    if error.is_retryable() && unfinished.into_iter().any(|path| path.exists()) {
        return anyhow::anyhow!("{error}; the work so far is kept, and the same command resumes from there");
    }
    error.into()
}

/// Prints which images are skipped.
pub fn report_bad(bad: &[BadImage]) {
    if bad.is_empty() {
        return;
    }
    for bad in bad {
        say!("skipped: {bad}");
    }
    say!("skipped: {} in all", counted(bad.len(), "image"));
}
