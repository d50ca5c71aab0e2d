//! Fills feature files in parallel, image by image, so that a killed run can be resumed where it stopped.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::source::ImageRegions;
use crate::features::writer::FeatureWriter;

/// How many images are computed before their rows count as done: enough that cores seldom wait for each other.
const IMAGES_AT_A_TIME: usize = 128;

/// Time between flushes: a power cut costs at most the work of this time, and the disk has something to do meanwhile.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// An image to compute, and where it goes.
pub(crate) struct Job {
    /// The index of the source image.
    pub(crate) source: usize,
    /// The files that get it, with its row in each. The rows of a file increase from job to job.
    pub(crate) targets: Vec<(usize, usize)>,
}

/// Memory for computing an image, reused for the next.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) regions: ImageRegions,
}

/// Does the jobs that are left, writing their images through the [`Filling`].
pub(crate) type Work<'a> = dyn Fn(&Filling, &[&Job]) -> Result<()> + 'a;

/// Files that are being filled.
pub(crate) struct Filling<'a> {
    writers: &'a [FeatureWriter],
    saver: &'a ScopedJoinHandle<'a, Result<()>>,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Filling<'_> {
    /// Writes an image to the files that want it.
    pub(crate) fn write(&self, job: &Job, regions: &ImageRegions) -> Result<()> {
        for &(file, row) in &job.targets {
            // Two files may have stopped at different images.
            if row >= self.writers[file].n_done() {
                self.writers[file].write(row, &regions.features, &regions.boxes)?;
            }
        }
        (self.progress)(1);
        Ok(())
    }

    /// Writes an image that may have fewer regions than there is room for.
    pub(crate) fn write_first(&self, job: &Job, regions: &ImageRegions) -> Result<()> {
        for &(file, row) in &job.targets {
            self.writers[file].write_first(row, &regions.features, &regions.boxes)?;
        }
        (self.progress)(1);
        Ok(())
    }

    /// Marks these images, and all before them, as written. Returns whether to continue: after a failed flush, writing
    /// more is pointless.
    pub(crate) fn set_done(&self, jobs: &[&Job]) -> bool {
        for &(file, row) in jobs.iter().flat_map(|job| &job.targets) {
            self.writers[file].set_done(self.writers[file].n_done().max(row + 1));
        }
        !self.saver.is_finished()
    }
}

/// Computes all images with `make` on all cores, writes them, and finishes the files. Skips what an earlier run has
/// done. `progress` is called with the number of images just done.
///
/// # Errors
///
/// The first error of `make`, in the order of the jobs, or of writing. Unfinished files are then removed, unless the
/// error is retryable, so that the same command may succeed later.
pub(crate) fn fill(
    writers: Vec<FeatureWriter>,
    jobs: &[Job],
    make: &(dyn Fn(usize, &mut Scratch) -> Result<()> + Sync),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    finish(fill_by(writers, jobs, &|filling, jobs| fill_each(filling, jobs, make), progress)?)
}

/// Does `work` for all images that an earlier run has not done. The files are then complete, and [`finish`] gives them
/// their final names. Errors are those of [`fill`].
pub(crate) fn fill_by(
    writers: Vec<FeatureWriter>,
    jobs: &[Job],
    work: &Work,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<FeatureWriter>> {
    let save = |writers: &[FeatureWriter]| writers.iter().try_for_each(FeatureWriter::save_progress);
    fill_and_save(writers, jobs, work, progress, SAVE_EVERY, &save)
}

/// Gives complete files their final names.
pub(crate) fn finish(writers: Vec<FeatureWriter>) -> Result<()> {
    let mut writers = writers.into_iter();
    while let Some(writer) = writers.next() {
        // The remaining files are complete too, and need only their names.
        if let Err(error) = writer.finish() {
            writers.for_each(FeatureWriter::keep);
            return Err(error);
        }
    }
    Ok(())
}

/// Computes images on all cores, and writes them.
fn fill_each(
    filling: &Filling,
    jobs: &[&Job],
    make: &(dyn Fn(usize, &mut Scratch) -> Result<()> + Sync),
) -> Result<()> {
    let run = |scratch: &mut Scratch, job: &Job| {
        make(job.source, scratch)?;
        filling.write(job, &scratch.regions)
    };
    for jobs in jobs.chunks(IMAGES_AT_A_TIME) {
        let results = jobs.par_iter().with_min_len(4).map_init(Scratch::default, |scratch, job| run(scratch, job));
        results.find_map_first(Result::err).map_or(Ok(()), Err)?;
        if !filling.set_done(jobs) {
            break;
        }
    }
    Ok(())
}

/// [`fill_by`], which calls `save` every `save_every` to flush the files and note what is done.
fn fill_and_save(
    writers: Vec<FeatureWriter>,
    jobs: &[Job],
    work: &Work,
    progress: &(dyn Fn(u64) + Sync),
    save_every: Duration,
    save: &(dyn Fn(&[FeatureWriter]) -> Result<()> + Sync),
) -> Result<Vec<FeatureWriter>> {
    let is_left = |job: &&Job| job.targets.iter().any(|&(file, row)| row >= writers[file].n_done());
    let left: Vec<&Job> = jobs.iter().filter(is_left).collect();
    let n_skipped = jobs.len() - left.len();
    if n_skipped > 0 {
        tracing::info!("resuming after {n_skipped} of {} images, done by an earlier run", jobs.len());
        progress(n_skipped as u64);
    }
    if let Err((error, is_synced)) = fill_rest(&writers, &left, work, progress, save_every, save) {
        if error.is_retryable() {
            if is_synced {
                // The disk may have room for a few bytes. What is not noted is done again.
                writers.iter().for_each(|writer| drop(writer.save_progress()));
            }
            writers.into_iter().for_each(FeatureWriter::keep);
        }
        return Err(error);
    }
    Ok(writers)
}

/// Does `work`. An error comes with whether every flush has succeeded so far: the system reports a failed flush only
/// once, and a later one that succeeds does not mean that the earlier data is on the disk.
fn fill_rest(
    writers: &[FeatureWriter],
    jobs: &[&Job],
    work: &Work,
    progress: &(dyn Fn(u64) + Sync),
    save_every: Duration,
    save: &(dyn Fn(&[FeatureWriter]) -> Result<()> + Sync),
) -> Result<(), (Error, bool)> {
    std::thread::scope(|scope| {
        let (finished, is_finished) = channel::<()>();
        // It ends before the work does only if it fails.
        let saver = scope.spawn(move || {
            while is_finished.recv_timeout(save_every) == Err(RecvTimeoutError::Timeout) {
                save(writers)?;
            }
            Ok(())
        });
        let result = work(&Filling { writers, saver: &saver, progress }, jobs);
        drop(finished);
        let saved = saver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let is_synced = saved.is_ok();
        saved.and(result).map_err(|error| (error, is_synced))
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::features::table::{FeatureTable, ImageEntry};
    use crate::files::atomic::IfExists;

    const N: usize = 3 * IMAGES_AT_A_TIME + 10;

    fn table() -> FeatureTable {
        let entry = |i| ImageEntry { image_id: i as u64, size: None, n_regions: 1 + i % 3 };
        let attributes = [("scale".to_owned(), vec![f64::NAN])].into();
        FeatureTable { images: (0..N).map(entry).collect(), feature_dim: 2, attributes, ..FeatureTable::default() }
    }

    /// Fills two files, the second with every other image, and fails at image `fails_at`. Returns which images were
    /// computed.
    fn run(directory: &Path, made_from: &str, fails_at: usize, error: fn() -> Error) -> (Result<()>, Vec<usize>) {
        let mut halved = table();
        halved.images = halved.images.into_iter().step_by(2).collect();
        let writers = [("a.h5", table()), ("b.h5", halved)];
        let writers = writers.map(|(name, table)| {
            FeatureWriter::resume(&directory.join(name), table, made_from, IfExists::Replace).unwrap()
        });
        let targets = |i: usize| if i.is_multiple_of(2) { vec![(0, i), (1, i / 2)] } else { vec![(0, i)] };
        let jobs: Vec<Job> = (0..N).map(|i| Job { source: i, targets: targets(i) }).collect();
        let made = Mutex::new(Vec::new());
        let make = |i: usize, scratch: &mut Scratch| {
            if i == fails_at {
                return Err(error());
            }
            made.lock().unwrap().push(i);
            scratch.regions.features = vec![i as f32; 2 * (1 + i % 3)];
            scratch.regions.boxes = vec![-(i as f32); 4 * (1 + i % 3)];
            Ok(())
        };
        let result = fill(writers.into(), &jobs, &make, &|_| {});
        let mut made = made.into_inner().unwrap();
        made.sort_unstable();
        (result, made)
    }

    fn no_error() -> Error {
        unreachable!()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let (whole, broken) = (directory.path().join("whole"), directory.path().join("broken"));
        run(&whole, "x", N, no_error).0.unwrap();
        assert_eq!(names(&whole), ["a.h5", "b.h5"]);

        let full = || Error::io("write", Path::new("a.h5"))(io::ErrorKind::StorageFull.into());
        let (result, made) = run(&broken, "x", 2 * IMAGES_AT_A_TIME + 5, full);
        assert!(result.unwrap_err().to_string().contains("no space left"));
        assert!(made.len() >= 2 * IMAGES_AT_A_TIME);
        assert_eq!(names(&broken), ["a.h5.partial", "a.h5.partial.json", "b.h5.partial", "b.h5.partial.json"]);
        let (result, made) = run(&broken, "x", N, no_error);
        result.unwrap();
        assert_eq!(made, (2 * IMAGES_AT_A_TIME..N).collect::<Vec<_>>());
        for name in ["a.h5", "b.h5"] {
            assert!(std::fs::read(whole.join(name)).unwrap() == std::fs::read(broken.join(name)).unwrap(), "{name}");
        }
        assert_eq!(names(&broken), ["a.h5", "b.h5"]);
    }

    /// The system may report only once that written data is lost. The first image waits for that report, however fast
    /// the machine is.
    #[test]
    fn a_failed_flush_ends_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = FeatureWriter::resume(&directory.path().join("a.h5"), table(), "x", IfExists::Refuse).unwrap();
        writer.fail_writes();
        let jobs: Vec<Job> = (0..N).map(|i| Job { source: i, targets: vec![(0, i)] }).collect();
        let (failed, has_failed) = channel();
        let has_failed = Mutex::new(has_failed);
        let save = |writers: &[FeatureWriter]| {
            let saved = writers[0].save_progress();
            failed.send(saved.is_err()).unwrap();
            saved
        };
        let make = |i: usize, scratch: &mut Scratch| {
            if i == 0 {
                // So that images are left to compute when saving fails.
                assert!(has_failed.lock().unwrap().recv().unwrap());
            }
            scratch.regions.features = vec![0.0; 2 * (1 + i % 3)];
            scratch.regions.boxes = vec![0.0; 4 * (1 + i % 3)];
            Ok(())
        };
        let work = |filling: &Filling, jobs: &[&Job]| fill_each(filling, jobs, &make);
        let error = fill_and_save(vec![writer], &jobs, &work, &|_| {}, Duration::ZERO, &save).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }

    #[test]
    fn what_was_made_from_something_else_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let full = || Error::io("write", Path::new("a.h5"))(io::ErrorKind::StorageFull.into());
        run(at, "x", 2 * IMAGES_AT_A_TIME, full).0.unwrap_err();
        let (result, made) = run(at, "y", N, no_error);
        result.unwrap();
        assert_eq!(made.len(), N);
        // Bad data stays bad: nothing is kept for it.
        let bad = || Error::damaged(Path::new("in.tsv"), "line 300 is malformed");
        run(at, "x", 2 * IMAGES_AT_A_TIME, bad).0.unwrap_err();
        assert_eq!(names(at), ["a.h5", "b.h5"]);
    }
}
