//! Extraction of feature files from images.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::bad_image::BadImage;
use crate::features::element_type::ElementType;
use crate::features::extract::channel_stats::measure;
use crate::features::extract::image_file::ImageFile;
use crate::features::extract::in_order::in_order;
use crate::features::extract::read_image::{read_image_size, with_image};
use crate::features::extractor::{Extractor, Prepared, RegionCount, problem_of};
use crate::features::file::FeatureFile;
use crate::features::fill::{Filling, Job, Scratch, fill, fill_by, finish};
use crate::features::shard::Shard;
use crate::features::source::{ImageRegions, RegionSource};
use crate::features::table::{FeatureTable, ImageEntry};
use crate::features::writer::FeatureWriter;
use crate::files::atomic::IfExists;
use crate::files::fingerprint::Fingerprint;

/// The most bytes that the features of one image may take: more must be a typing error.
const MAX_IMAGE_BYTES: usize = 1 << 28;

/// How to extract a feature file from images.
#[derive(Clone, Copy)]
pub struct Extraction<'a> {
    /// What extracts the regions.
    pub extractor: &'a dyn Extractor,
    /// How the features are stored.
    pub element_type: ElementType,
    /// Which shard of the images to extract; all of them if `None`.
    pub shard: Option<Shard>,
    /// How many images the extractor gets at once; its [`Extractor::batch_size`] if `None`.
    pub batch_size: Option<usize>,
}

/// How long an extraction took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractionTime {
    /// How many images were extracted, without those that an earlier run had done.
    pub n_extracted: usize,
    /// The time from the first image to the last.
    pub total: Duration,
    /// How long [`Extractor::extract`] could not run because the next images were not yet prepared.
    pub waiting: Duration,
}

impl Extraction<'_> {
    /// Extracts the regions of images into a feature file, in parallel and in constant memory; or those of a shard, to
    /// [`Shard::path`]. It resumes a run that was killed. `progress` is called with the number of images just done.
    ///
    /// The number of a detector's regions is known only once they are extracted, but a feature file states it first. So
    /// the regions first go to an unfinished file beside the other, `NAME.regions.partial`, which has room for the most
    /// regions of every image (but takes disk space only for those that there are), and are copied from there.
    ///
    /// # Errors
    ///
    /// When images cannot be decoded or are too small for the extractor, all of which are named, their features would
    /// be over 256 MiB, the extractor fails or gives NaN for one, or the file cannot be written or exists and is not to
    /// be replaced. The destination is then unchanged. After an error that [`is_retryable`](Error::is_retryable), the
    /// same call resumes.
    pub fn write(
        &self,
        images: &[ImageFile],
        out: &Path,
        if_exists: IfExists,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<ExtractionTime> {
        if_exists.check(&Shard::output(self.shard, out))?;
        self.write_unless_bad(images, out, if_exists, progress).map_err(|error| match error {
            Error::Damaged { .. } | Error::WrongFormat { .. } => {
                all_bad(Shard::part(self.shard, images), self.extractor.min_size(), error)
            }
            _ => error,
        })
    }

    /// The paths of the unfinished files for `out`, from which [`Extraction::write`] resumes.
    pub fn partial_paths(&self, out: &Path) -> [PathBuf; 2] {
        let path = Shard::output(self.shard, out);
        [roomy_path(&path), path].map(|path| FeatureWriter::partial_path(&path))
    }

    /// Like [`Extraction::write`], but the error is about the first bad image only.
    fn write_unless_bad(
        &self,
        images: &[ImageFile],
        out: &Path,
        if_exists: IfExists,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<ExtractionTime> {
        let Extraction { extractor, element_type, shard, .. } = *self;
        let (n_regions, feature_dim) = (extractor.n_regions().most(), extractor.feature_dim());
        let bytes = n_regions.saturating_mul(feature_dim).saturating_mul(4);
        if bytes > MAX_IMAGE_BYTES {
            return Err(Error::invalid(format!(
                "{}: {n_regions} regions of {feature_dim} values are {:.1} GB per picture: use fewer cells, or a \
                 smaller patch",
                out.display(),
                bytes as f64 / 1e9
            )));
        }
        let n_images = images.len();
        let images = Shard::part(shard, images);
        let min_size = extractor.min_size();
        let entry = |image: &ImageFile| {
            let size = read_image_size(&image.path)?;
            image.refuse_smaller(size, min_size)?;
            Ok(ImageEntry { image_id: image.image_id, size: Some(size), n_regions })
        };
        let table = FeatureTable {
            images: images.par_iter().map(entry).collect::<Result<_>>()?,
            feature_dim,
            element_type,
            extractor: Some(extractor.info()),
            attributes: shard
                .map(|shard| (Shard::ATTRIBUTE.to_owned(), shard.to_attribute(n_images)))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        };
        let mut made_from = Fingerprint::default();
        images.iter().try_for_each(|image| made_from.add_file(&image.path))?;
        let made_from = made_from.finish();
        let path = Shard::output(shard, out);
        match extractor.n_regions() {
            RegionCount::Fixed(_) => {
                let writer = FeatureWriter::resume(&path, table, &made_from, if_exists)?;
                let write = |writer: &Filling, job: &Job, regions: &ImageRegions| writer.write(job, regions);
                let (writers, time) = self.extract(images, writer, &write, progress)?;
                finish(writers)?;
                Ok(time)
            }
            RegionCount::AtMost(_) => {
                let roomy = FeatureWriter::resume(&roomy_path(&path), table.clone(), &made_from, IfExists::Refuse)?;
                let write = |writer: &Filling, job: &Job, regions: &ImageRegions| writer.write_first(job, regions);
                let (roomy, time) = self.extract(images, roomy, &write, progress)?;
                roomy[0].save_progress()?;
                copy_counted(&roomy[0], table, &made_from, &path, if_exists)?;
                roomy.into_iter().for_each(FeatureWriter::remove);
                Ok(time)
            }
        }
    }

    /// Extracts all images that `writer` does not have yet, and passes their regions to `write`.
    fn extract(
        &self,
        images: &[ImageFile],
        writer: FeatureWriter,
        write: &dyn Fn(&Filling, &Job, &ImageRegions) -> Result<()>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<FeatureWriter>, ExtractionTime)> {
        let extractor = self.extractor;
        let batch_size = self.batch_size.unwrap_or(extractor.batch_size()).max(1);
        // A batch being extracted, one that is waiting, and an image on every thread.
        let ahead = 2 * batch_size + rayon::current_num_threads();
        let prepare = |job: &&Job| {
            let path = &images[job.source].path;
            with_image(path, |pixels| extractor.prepare(&pixels).map_err(|problem| Error::wrong_format(path, problem)))
        };
        let time = Cell::new(ExtractionTime::default());
        let work = |filling: &Filling, jobs: &[&Job]| {
            let started = Instant::now();
            let (mut n_done, mut batch) = (0, Vec::new());
            let mut use_prepared = |prepared: Result<Prepared>| {
                batch.push(prepared?);
                let end = n_done + batch.len();
                if batch.len() < batch_size && end < jobs.len() {
                    return Ok(true);
                }
                let jobs = &jobs[n_done..end];
                let bad = |job: &Job, problem: String| {
                    Error::BadImage(BadImage { path: images[job.source].path.clone(), line: None, problem })
                };
                let regions = extractor.extract(&batch).map_err(|error| {
                    // Usually a single picture is the cause.
                    let alone = |(job, picture): (&&Job, &Prepared)| {
                        let error = extractor.extract(std::slice::from_ref(picture)).err()?;
                        Some(bad(job, error.to_string()))
                    };
                    if error.is_retryable() { None } else { jobs.iter().zip(&batch).find_map(alone) }.unwrap_or(error)
                })?;
                assert_eq!(regions.len(), jobs.len(), "an extractor gives regions for every picture");
                for (job, regions) in jobs.iter().zip(&regions) {
                    match problem_of(regions) {
                        Some(problem) => return Err(bad(job, problem)),
                        None => write(filling, job, regions)?,
                    }
                }
                batch.clear();
                n_done = end;
                Ok(filling.set_done(jobs))
            };
            let waiting = in_order(jobs, ahead, &prepare, &mut use_prepared)?;
            time.set(ExtractionTime { n_extracted: jobs.len(), total: started.elapsed(), waiting });
            Ok(())
        };
        let jobs: Vec<Job> = (0..images.len()).map(|i| Job { source: i, targets: vec![(0, i)] }).collect();
        let writers = fill_by(vec![writer], &jobs, &work, progress)?;
        Ok((writers, time.get()))
    }
}

/// The path of the file that has room for the most regions of every image.
fn roomy_path(out: &Path) -> PathBuf {
    out.with_added_extension("regions")
}

/// Copies the regions that were found from a file that has room for more.
fn copy_counted(
    roomy: &FeatureWriter,
    mut table: FeatureTable,
    made_from: &str,
    out: &Path,
    if_exists: IfExists,
) -> Result<()> {
    let source = FeatureFile::open_unfinished(roomy.unfinished())?;
    let dim = table.feature_dim;
    let mut boxes = Vec::new();
    for (row, image) in table.images.iter_mut().enumerate() {
        boxes.resize(source.n_regions(row) * 4, 0.0);
        source.read_boxes(row, &mut boxes)?;
        // Boxes that were not written are all zero, and real ones have an area.
        image.n_regions = boxes.iter().rposition(|&corner| corner != 0.0).map_or(0, |last| last / 4 + 1);
    }
    let counts: Vec<usize> = table.images.iter().map(|image| image.n_regions).collect();
    let writer = FeatureWriter::resume(out, table, made_from, if_exists)?;
    let copy = |row: usize, scratch: &mut Scratch| {
        let most = source.n_regions(row);
        let ImageRegions { features, boxes } = &mut scratch.regions;
        features.resize(most * dim, 0.0);
        boxes.resize(most * 4, 0.0);
        source.read(row, features, boxes)?;
        features.truncate(counts[row] * dim);
        boxes.truncate(counts[row] * 4);
        Ok(())
    };
    let jobs: Vec<Job> = (0..counts.len()).map(|i| Job { source: i, targets: vec![(0, i)] }).collect();
    fill(vec![writer], &jobs, &copy, &|_| {})
}

/// Returns an error that names all unusable images, or the given one if it is about something else.
fn all_bad(images: &[ImageFile], min_size: [u32; 2], error: Error) -> Error {
    match measure(images, min_size, &|_| {}) {
        Ok((_, bad)) if !bad.is_empty() => Error::BadImages(bad),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use image::RgbImage;

    use super::*;
    use crate::features::extract::channel_stats::ChannelStats;
    use crate::features::extract::grid::Grid;
    use crate::features::extract::image_folder::list_images;
    use crate::features::extract::pixel_grid::PixelGrid;
    use crate::features::extractor_info::ExtractorInfo;

    #[test]
    fn extracted_features_are_standardised_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let images = directory.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for id in [3u32, 1] {
            let image =
                RgbImage::from_fn(8, 8, |x, y| image::Rgb([(x * 30) as u8, (y * 20 + id) as u8, (x * y) as u8]));
            image.save(images.join(format!("x_{id:05}.png"))).unwrap();
        }
        std::fs::write(images.join("notes.txt"), "not a picture").unwrap();
        let images = list_images(&images).unwrap();
        let stats = ChannelStats::measure(&images, &|_| {}).unwrap();
        let grid = Grid { rows: 2, columns: 2, whole: false, patch: 4 };
        let out = directory.path().join("f.h5");
        let extractor = &PixelGrid { grid, stats };
        let extraction = Extraction { extractor, element_type: ElementType::F32, shard: None, batch_size: None };
        extraction.write(&images, &out, IfExists::Refuse, &|_| {}).unwrap();

        let file = FeatureFile::open(&out).unwrap();
        assert_eq!(file.extractor(), Some(&extractor.info()));
        assert_eq!(file.image_ids(), [1, 3]);
        assert_eq!(file.image_sizes().unwrap().unwrap(), [[8, 8], [8, 8]]);
        // No pixel was resized, so the standardised values have mean 0 and deviation 1 over the file.
        let mut all = vec![0.0; 2 * 4 * 48];
        for (row, features) in all.chunks_mut(4 * 48).enumerate() {
            file.read(row, features, &mut [0.0; 16]).unwrap();
        }
        let n = all.len() as f32;
        let mean = all.iter().sum::<f32>() / n;
        let variance = all.iter().map(|x| x * x).sum::<f32>() / n;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
    }

    /// Finds as many regions as a picture is wide in pixels, and fails where it is told to.
    struct Detector {
        /// The width of the picture to fail at, and the error.
        fails_at: Option<(u32, fn() -> Error)>,
        value: f32,
        n_extracted: AtomicUsize,
    }

    impl Extractor for Detector {
        fn info(&self) -> ExtractorInfo {
            ExtractorInfo::parse(r#"{"kind": "test"}"#)
        }

        fn feature_dim(&self) -> usize {
            2
        }

        fn n_regions(&self) -> RegionCount {
            RegionCount::AtMost(20)
        }

        fn batch_size(&self) -> usize {
            3
        }

        fn prepare(&self, picture: &RgbImage) -> Result<Prepared, String> {
            Ok(Prepared::Pixels { pixels: picture.clone(), size: picture.dimensions().into() })
        }

        fn extract(&self, pictures: &[Prepared]) -> Result<Vec<ImageRegions>> {
            let regions = |picture: &Prepared| {
                let Prepared::Pixels { size: [width, _], .. } = *picture else { unreachable!() };
                if let Some((_, error)) = self.fails_at.filter(|&(at, _)| at == width) {
                    return Err(error());
                }
                self.n_extracted.fetch_add(1, Ordering::Relaxed);
                let boxes = (0..width).flat_map(|x| [x as f32, 0.0, x as f32 + 1.0, 1.0]).collect();
                let features = (0..width).flat_map(|x| [self.value, x as f32]).collect();
                Ok(ImageRegions { features, boxes })
            };
            pictures.iter().map(regions).collect()
        }
    }

    fn detector(fails_at: Option<(u32, fn() -> Error)>) -> Detector {
        Detector { fails_at, value: 7.0, n_extracted: AtomicUsize::new(0) }
    }

    /// Pictures that are 1 to 10 pixels wide, with the width as their id.
    fn strips(directory: &Path) -> Vec<ImageFile> {
        for width in 1..=10 {
            RgbImage::new(width, 1).save(directory.join(format!("{width}.png"))).unwrap();
        }
        list_images(directory).unwrap()
    }

    fn write(extractor: &dyn Extractor, images: &[ImageFile], out: &Path) -> Result<ExtractionTime> {
        let extraction = Extraction { extractor, element_type: ElementType::F16, shard: None, batch_size: None };
        extraction.write(images, out, IfExists::Refuse, &|_| {})
    }

    #[test]
    fn a_detectors_regions_are_counted_and_not_found_twice() {
        let directory = tempfile::tempdir().unwrap();
        let images = strips(directory.path());
        let whole = directory.path().join("whole/f.h5");
        assert_eq!(write(&detector(None), &images, &whole).unwrap().n_extracted, 10);
        let file = FeatureFile::open(&whole).unwrap();
        assert_eq!((0..10).map(|row| file.n_regions(row)).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        let (mut features, mut boxes) = ([0.0; 6], [0.0; 12]);
        file.read(2, &mut features, &mut boxes).unwrap();
        assert_eq!(features, [7.0, 0.0, 7.0, 1.0, 7.0, 2.0]);
        assert_eq!(boxes[8..], [2.0, 0.0, 3.0, 1.0]);

        // The disk is full when the third batch begins.
        let broken = directory.path().join("broken/f.h5");
        let full = || Error::io("write", Path::new("f.h5"))(std::io::ErrorKind::StorageFull.into());
        let failing = &detector(Some((7, full)));
        write(failing, &images, &broken).unwrap_err();
        let extraction =
            Extraction { extractor: failing, element_type: ElementType::F16, shard: None, batch_size: None };
        assert_eq!(extraction.partial_paths(&broken).map(|path| path.exists()), [true, false]);
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&broken), ["f.h5.regions.partial", "f.h5.regions.partial.json"]);
        let detector = detector(None);
        assert_eq!(write(&detector, &images, &broken).unwrap().n_extracted, 4);
        assert_eq!(detector.n_extracted.into_inner(), 4);
        for path in [&broken, &whole] {
            assert_eq!(names(path), ["f.h5"]);
        }
        assert!(std::fs::read(&broken).unwrap() == std::fs::read(&whole).unwrap());
    }

    #[test]
    fn the_picture_that_an_extractor_fails_on_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let images = strips(directory.path());
        let out = directory.path().join("f.h5");
        let odd = || Error::other("an odd map");
        let error = write(&detector(Some((8, odd))), &images, &out).unwrap_err().to_string();
        assert!(error.ends_with("/8.png: an odd map"), "{error}");
        let nan = Detector { value: f32::NAN, ..detector(None) };
        let error = write(&nan, &images, &out).unwrap_err().to_string();
        assert!(error.contains("/1.png: its features are NaN or infinite"), "{error}");
        assert!(!out.exists() && !roomy_path(&out).with_added_extension("partial").exists());
    }

    #[test]
    fn shards_are_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        let images = strips(directory.path());
        let out = directory.path().join("f.h5");
        write(&detector(None), &images, &out).unwrap();
        let whole = FeatureFile::open(&out).unwrap();
        let mut row = 0;
        for shard in ["1/3", "2/3", "3/3"].map(|shard| shard.parse::<Shard>().unwrap()) {
            let extractor = &detector(None);
            let extraction =
                Extraction { extractor, element_type: ElementType::F16, shard: Some(shard), batch_size: Some(2) };
            extraction.write(&images, &out, IfExists::Refuse, &|_| {}).unwrap();
            let part = FeatureFile::open(shard.path(&out)).unwrap();
            for (i, &id) in part.image_ids().iter().enumerate() {
                assert_eq!(id, whole.image_ids()[row]);
                let read = |file: &FeatureFile, row: usize| {
                    let k = file.n_regions(row);
                    let (mut features, mut boxes) = (vec![0.0; k * 2], vec![0.0; k * 4]);
                    file.read(row, &mut features, &mut boxes).unwrap();
                    (features, boxes)
                };
                assert_eq!(read(&part, i), read(&whole, row));
                row += 1;
            }
        }
        assert_eq!(row, 10);
    }
}
