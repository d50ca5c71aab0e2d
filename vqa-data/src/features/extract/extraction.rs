//! Images to feature files.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::element_type::ElementType;
use crate::features::extract::channel_stats::{ChannelStats, measure};
use crate::features::extract::grid::Grid;
use crate::features::extract::image_file::ImageFile;
use crate::features::extract::read_image::{read_image_size, with_image};
use crate::features::extractor::ExtractorInfo;
use crate::features::fill::{Job, Scratch, fill};
use crate::features::shard::Shard;
use crate::features::table::{FeatureTable, ImageEntry};
use crate::features::writer::FeatureWriter;
use crate::files::atomic::IfExists;
use crate::files::fingerprint::Fingerprint;

/// The most that the features of one image may be: more is a typing error.
const MAX_IMAGE_BYTES: usize = 1 << 28;

/// How images become a feature file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extraction {
    /// How they are cut.
    pub grid: Grid,
    /// How they are standardised: the same for all files that a model sees.
    pub stats: ChannelStats,
    /// How the features are stored.
    pub element_type: ElementType,
    /// Which of the images; all of them if `None`.
    pub shard: Option<Shard>,
}

impl Extraction {
    /// What feature files and checkpoints say of it: all that two files must have in common to be mixed.
    pub fn info(&self) -> ExtractorInfo {
        let Extraction { grid, stats, .. } = self;
        let info = serde_json::json!({
            "kind": "grid",
            "grid": [grid.rows, grid.columns],
            "whole": grid.whole,
            "patch": grid.patch,
            "mean": stats.mean,
            "deviation": stats.std,
        });
        ExtractorInfo::parse(&info.to_string())
    }

    /// Extracts the regions of images into a feature file, in parallel and in constant memory; or those of a shard, to
    /// [`Shard::path`]. It resumes a run that was killed. `progress` is called with the number of images just done.
    ///
    /// # Errors
    ///
    /// When images cannot be decoded or are too small for the grid, all of which are named, their features would be
    /// over 256 MiB, or the file cannot be written or is there already. What had its name is then as it was. After an
    /// error that [`is_retryable`](Error::is_retryable), the same call resumes.
    pub fn write(
        &self,
        images: &[ImageFile],
        out: &Path,
        if_exists: IfExists,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        if_exists.check(&Shard::output(self.shard, out))?;
        self.write_unless_bad(images, out, if_exists, progress).map_err(|error| match error {
            Error::Damaged { .. } | Error::WrongFormat { .. } => {
                all_bad(Shard::part(self.shard, images), self.grid, error)
            }
            _ => error,
        })
    }

    /// [`Extraction::write`], whose error is about the first bad image.
    fn write_unless_bad(
        &self,
        images: &[ImageFile],
        out: &Path,
        if_exists: IfExists,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let Extraction { grid, stats, element_type, shard } = *self;
        let bytes = grid.n_regions().saturating_mul(grid.feature_dim()).saturating_mul(4);
        if bytes > MAX_IMAGE_BYTES {
            return Err(Error::invalid(format!(
                "{}: {} regions of {} numbers are {:.1} GB for each picture: take fewer cells or a smaller patch",
                out.display(),
                grid.n_regions(),
                grid.feature_dim(),
                bytes as f64 / 1e9
            )));
        }
        let n_images = images.len();
        let images = Shard::part(shard, images);
        let entry = |image: &ImageFile| {
            let size = read_image_size(&image.path)?;
            image.refuse_smaller(size, grid.min_size())?;
            Ok(ImageEntry { image_id: image.image_id, size: Some(size), n_regions: grid.n_regions() })
        };
        let mut attributes = BTreeMap::from([
            ("grid".to_owned(), vec![f64::from(grid.rows), f64::from(grid.columns)]),
            ("whole".to_owned(), vec![f64::from(u8::from(grid.whole))]),
            ("patch".to_owned(), vec![f64::from(grid.patch)]),
            ("mean".to_owned(), stats.mean.to_vec()),
            ("std".to_owned(), stats.std.to_vec()),
        ]);
        attributes.extend(shard.map(|shard| (Shard::ATTRIBUTE.to_owned(), shard.to_attribute(n_images))));
        let table = FeatureTable {
            images: images.par_iter().map(entry).collect::<Result<_>>()?,
            feature_dim: grid.feature_dim(),
            element_type,
            extractor: Some(self.info()),
            attributes,
        };
        let mut made_from = Fingerprint::default();
        images.iter().try_for_each(|image| made_from.add_file(&image.path))?;
        let writer = FeatureWriter::resume(&Shard::output(shard, out), table, &made_from.finish(), if_exists)?;
        let jobs: Vec<Job> = (0..images.len()).map(|i| Job { source: i, targets: vec![(0, i)] }).collect();
        let make = |i: usize, scratch: &mut Scratch| {
            let path = &images[i].path;
            scratch.regions = with_image(path, |pixels| {
                grid.regions(&pixels, &stats).map_err(|problem| Error::wrong_format(path, problem))
            })?;
            Ok(())
        };
        fill(vec![writer], &jobs, &make, progress)
    }
}

/// An error that names all images that cannot be used, or the one that there was if it is about something else.
fn all_bad(images: &[ImageFile], grid: Grid, error: Error) -> Error {
    match measure(images, grid.min_size(), &|_| {}) {
        Ok((_, bad)) if !bad.is_empty() => Error::BadImages(bad),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::features::extract::image_folder::list_images;
    use crate::features::file::FeatureFile;
    use crate::features::source::RegionSource;

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
        let extraction = Extraction { grid, stats, element_type: ElementType::F32, shard: None };
        extraction.write(&images, &out, IfExists::Refuse, &|_| {}).unwrap();
        assert_eq!(Grid::like(&out).unwrap(), (grid, stats));

        let file = FeatureFile::open(&out).unwrap();
        assert_eq!(file.extractor(), Some(&extraction.info()));
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
}
