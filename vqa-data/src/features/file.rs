use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::RegionSource;
use super::image_ids::ImageIds;
use super::store::Store;
use crate::json::map_file;
use crate::{Error, Result};

/// How the regions of an image lie in the file.
#[derive(Debug)]
enum Regions {
    /// The same number for every image.
    Fixed(usize),
    /// First and end row of each image in the list of all regions (`pos_boxes`).
    Adaptive(Vec<[u32; 2]>),
}

/// An HDF5 file of region features, in one of two layouts:
///
/// | layout | datasets |
/// | --- | --- |
/// | fixed K | `image_features` [N, K, D], `image_bb` [N, K, 4] |
/// | adaptive | `image_features` [total, D], `image_bb` [total, 4], `pos_boxes` [N, 2] (first, end) |
///
/// The image of each row is named by `image_ids` `[N]`, or by the pickle `NAME_imgid2idx.pkl` beside the file.
/// Contiguous float32 and float16 are memory-mapped, so that opening costs nothing and the operating system's page
/// cache is the only copy; every other layout is read through HDF5, slower. The file must not change while it
/// is open.
#[derive(Debug)]
pub struct FeatureFile {
    path: PathBuf,
    file: hdf5::File,
    image_ids: ImageIds,
    regions: Regions,
    features: Store,
    boxes: Store,
}

impl FeatureFile {
    /// Opens a file, and checks that its datasets fit each other and lie within the file.
    ///
    /// # Errors
    ///
    /// When the file is missing, not HDF5, truncated, or its datasets are missing or do not fit.
    pub fn open(path: impl AsRef<Path>) -> Result<FeatureFile> {
        let path = path.as_ref();
        let map = Arc::new(map_file(path)?);
        let file = hdf5::File::open(path).map_err(|e| Error::hdf5(path, &e))?;
        let features = Store::open(path, &file, &map, "image_features")?;
        let boxes = Store::open(path, &file, &map, "image_bb")?;
        let (f, b) = (features.shape(), boxes.shape());
        if f[..f.len() - 1] != b[..b.len() - 1] || b[b.len() - 1] != 4 {
            return Err(Error::file(
                path,
                format!("image_bb {b:?} does not fit image_features {f:?}: 4 coordinates for each region are wanted"),
            ));
        }
        let regions = match *f {
            [_, k, _] => Regions::Fixed(k),
            _ => Regions::Adaptive(read_pos_boxes(path, &file, f[0])?),
        };
        let n_images = match &regions {
            Regions::Fixed(_) => f[0],
            Regions::Adaptive(ranges) => ranges.len(),
        };
        let image_ids = ImageIds::open(path, &file, n_images)?;
        if features.is_slow() {
            tracing::warn!(
                "{}: image_features is {}; that is slower than a contiguous float32 or float16 dataset",
                path.display(),
                features.describe()
            );
        }
        Ok(FeatureFile { path: path.to_owned(), file, image_ids, regions, features, boxes })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image ids, in order of rows.
    pub fn image_ids(&self) -> &[u64] {
        self.image_ids.ids()
    }

    /// Width and height of each image, where the file has `image_sizes` [N, 2].
    ///
    /// # Errors
    ///
    /// When `image_sizes` is there but cannot be read.
    pub fn image_sizes(&self) -> Result<Option<Vec<[u32; 2]>>> {
        let Ok(dataset) = self.file.dataset("image_sizes") else { return Ok(None) };
        let sizes = dataset.read_raw::<u32>().map_err(|e| Error::hdf5(&self.path, &e))?;
        Ok(Some(sizes.chunks_exact(2).map(|size| [size[0], size[1]]).collect()))
    }

    /// A numeric attribute of the file, as doubles; empty if it is not there.
    pub fn attribute(&self, name: &str) -> Vec<f64> {
        self.file.attr(name).and_then(|attribute| attribute.read_raw::<f64>()).unwrap_or_default()
    }

    /// Shape of `image_features`.
    pub fn shape(&self) -> &[usize] {
        self.features.shape()
    }

    /// Element type, layout and way of reading of `image_features`, in words.
    pub fn layout(&self) -> String {
        self.features.describe()
    }

    /// First row of the image's regions in the list of all regions.
    fn first_region(&self, row: usize) -> usize {
        match &self.regions {
            Regions::Fixed(k) => row * k,
            Regions::Adaptive(ranges) => ranges[row][0] as usize,
        }
    }

    /// Reads the features of one image, [n_regions, D], without looking for NaN.
    pub(super) fn read_features(&self, row: usize, features: &mut [f32]) -> Result<()> {
        self.features.read(&self.path, self.first_region(row), features)
    }

    /// The error for a file that was found to hold a NaN: counts the images that do.
    fn not_finite(&self) -> Error {
        let bad: Vec<usize> = (0..self.n_images())
            .into_par_iter()
            .filter(|&row| {
                let mut features = vec![0.0; self.n_regions(row) * self.feature_dim()];
                self.read_features(row, &mut features).is_ok() && !all_finite(&features)
            })
            .collect();
        let row = bad.first().copied().unwrap_or_default();
        Error::NotFinite { path: self.path.clone(), n_images: bad.len(), image_id: self.image_ids()[row], row }
    }
}

impl RegionSource for FeatureFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn n_images(&self) -> usize {
        self.image_ids().len()
    }

    fn feature_dim(&self) -> usize {
        self.features.shape()[self.features.shape().len() - 1]
    }

    fn row(&self, image_id: u64) -> Option<usize> {
        self.image_ids.row(image_id)
    }

    fn n_regions(&self, row: usize) -> usize {
        match &self.regions {
            Regions::Fixed(k) => *k,
            Regions::Adaptive(ranges) => (ranges[row][1] - ranges[row][0]) as usize,
        }
    }

    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> Result<()> {
        self.read_features(row, features)?;
        self.boxes.read(&self.path, self.first_region(row), boxes)?;
        if all_finite(features) { Ok(()) } else { Err(self.not_finite()) }
    }
}

/// Whether no number is NaN or infinite: a loop without branches, which the compiler turns into vector code.
pub(super) fn all_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !numbers.iter().fold(false, |found, x| found | (x.to_bits() & EXPONENT == EXPONENT))
}

/// Reads `pos_boxes` [N, 2] and checks that each image's rows lie in order within the `total` regions.
fn read_pos_boxes(path: &Path, file: &hdf5::File, total: usize) -> Result<Vec<[u32; 2]>> {
    let dataset = file.dataset("pos_boxes").map_err(|_| {
        Error::file(
            path,
            "image_features has two axes, and there is no \"pos_boxes\" [N, 2] to say which regions are whose",
        )
    })?;
    if dataset.ndim() != 2 || dataset.shape()[1] != 2 {
        return Err(Error::file(path, format!("pos_boxes has shape {:?}, and [images, 2] is wanted", dataset.shape())));
    }
    let numbers = dataset.read_raw::<i64>().map_err(|e| Error::hdf5(path, &e))?;
    numbers
        .chunks_exact(2)
        .enumerate()
        .map(|(row, range)| match (u32::try_from(range[0]), u32::try_from(range[1])) {
            (Ok(first), Ok(end)) if first <= end && end as usize <= total => Ok([first, end]),
            _ => Err(Error::file(
                path,
                format!("pos_boxes row {row} is {range:?}, and [first, end) within the {total} regions is wanted"),
            )),
        })
        .collect()
}
