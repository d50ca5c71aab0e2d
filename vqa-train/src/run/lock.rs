//! Ensures that only one process at a time trains in the directory of a run.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vqa_data::files::create_directory;
use vqa_model::run::RunDir;

use crate::error::{Error, Result};
use crate::metrics::tensorboard::is_event_file;

/// A lock on a run's directory: while it exists, no other process trains there. The operating system releases it when
/// the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: Option<File>,
    path: PathBuf,
    /// The directories that were created for it, innermost first, so that a run that never begins leaves nothing
    /// behind.
    made: Vec<PathBuf>,
}

impl RunLock {
    /// Makes this process the only one that trains in the directory, and removes half-written files that a killed
    /// process has left.
    ///
    /// # Errors
    ///
    /// When another process is training in the directory, or it cannot be created.
    pub fn acquire(run: &RunDir) -> Result<RunLock> {
        let state_dir = run.state_dir();
        let made = state_dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let made: Vec<PathBuf> = made.map(Path::to_owned).collect();
        create_directory(&state_dir)?;
        let path = run.lock();
        let file = loop {
            let file = File::create(&path).map_err(vqa_data::Error::io("write", &path))?;
            match file.try_lock() {
                // Between opening and locking, another process whose run never began may have removed the file.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => break Some(file),
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { out_dir: run.path().to_owned() }),
                // A file system without locks: other processes cannot be detected.
                Err(TryLockError::Error(_)) => break None,
            }
        };
        if file.is_some() {
            for directory in [run.path(), &state_dir, &run.tensorboard()] {
                remove_half_written(directory)?;
            }
        }
        Ok(RunLock { _file: file, path, made })
    }

    /// Keeps the directory from now on, since the run has begun.
    pub(super) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        if !self.made.is_empty() {
            // The file is removed while it is still locked; directories are removed only if they are empty.
            let _ = fs::remove_file(&self.path);
            let _ = self.made.iter().map(fs::remove_dir).take_while(std::io::Result::is_ok).count();
        }
    }
}

/// Whether an open file is the one that is now at this path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Removes the temporary files that a killed training process has left. Those of other commands that write into the
/// directory stay.
fn remove_half_written(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(directory).map_err(vqa_data::Error::io("read the directory", directory))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_half_written(&name) && path.is_file() {
            fs::remove_file(&path).map_err(vqa_data::Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Whether a name is that of a temporary file that training was writing: `.NAME.RANDOM.tmp`, as `AtomicFile` names it,
/// where RANDOM is six random letters and digits.
fn is_half_written(name: &str) -> bool {
    const WRITTEN: [&str; 6] =
        ["config.toml", "words.json", "answers.json", "state.safetensors", "metrics.jsonl", "curves.svg"];
    let written = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")?.rsplit_once('.'));
    written.is_some_and(|(written, random)| {
        let is_random = random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let epoch = written.strip_prefix("model_").and_then(|name| name.strip_suffix(".safetensors"));
        let is_ours = WRITTEN.contains(&written)
            || epoch.is_some_and(|epoch| epoch.parse::<u64>().is_ok())
            || is_event_file(written);
        is_random && is_ours
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_training_was_writing_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::new(directory.path());
        let names = [
            ".model_3.safetensors.Ab12cd.tmp",
            ".metrics.jsonl.xxxxxx.tmp",
            "state/.state.safetensors.012345.tmp",
            "tensorboard/.events.out.tfevents.1.2.vqa.Ab12cd.tmp",
        ];
        let others = [
            ".results.json.Ab12cd.tmp",
            ".tmp",
            "model_3.safetensors",
            ".model_x.safetensors.Ab12cd.tmp",
            ".words.json.old.tmp",
            ".words.json.my-own.tmp",
            "words.json.Ab12cd.tmp",
            "tensorboard/.events.out.tfevents.1.2.other.Ab12cd.tmp",
        ];
        [run.state_dir(), run.tensorboard()].iter().for_each(|directory| fs::create_dir(directory).unwrap());
        names.iter().chain(&others).for_each(|name| fs::write(directory.path().join(name), "x").unwrap());
        drop(RunLock::acquire(&run).unwrap());
        assert!(run.lock().exists());
        assert!(names.iter().all(|name| !directory.path().join(name).exists()));
        assert!(others.iter().all(|name| directory.path().join(name).exists()));
    }

    #[test]
    fn a_run_that_does_not_begin_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::new(directory.path().join("runs/x"));
        let lock = RunLock::acquire(&run).unwrap();
        assert!(matches!(RunLock::acquire(&run), Err(Error::Locked { .. })));
        drop(lock);
        assert!(!directory.path().join("runs").exists());
        let mut lock = RunLock::acquire(&run).unwrap();
        lock.keep();
        drop(lock);
        assert!(run.lock().exists());
    }
}
