use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::features::container::Container;
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::finite::all_finite;
use crate::features::image_ids::ImageIds;
use crate::features::source::RegionSource;
use crate::features::store::Store;
use crate::features::table::{FeatureTable, ImageEntry};
use crate::files::partial::destination_of_unfinished;

/// How the images' regions are laid out in the file.
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
/// The image of each row is given by `image_ids` `[N]`, or by the pickle `NAME_imgid2idx.pkl` beside the file.
/// Contiguous float32 and float16 datasets are memory-mapped, so that opening costs nothing and the operating system's
/// page cache is the only copy; every other layout is read through HDF5, which is slower. The file must not change
/// while it is open.
#[derive(Debug)]
pub struct FeatureFile {
    container: Container,
    image_ids: ImageIds,
    regions: Regions,
    features: Store,
    boxes: Store,
    extractor: Option<ExtractorInfo>,
}

impl FeatureFile {
    /// Opens a file, and checks that its datasets fit each other and lie within the file.
    ///
    /// # Errors
    ///
    /// When the file is missing, not HDF5, truncated, or its datasets are missing or do not fit.
    pub fn open(path: impl AsRef<Path>) -> Result<FeatureFile> {
        let path = path.as_ref();
        if let Some(destination) = destination_of_unfinished(path) {
            return Err(Error::Unfinished { path: path.to_owned(), destination });
        }
        FeatureFile::open_unfinished(path)
    }

    /// Like [`FeatureFile::open`], but also opens unfinished files.
    pub(super) fn open_unfinished(path: &Path) -> Result<FeatureFile> {
        let container = Container::open(path)?;
        let features = Store::open(&container, "image_features")?;
        let boxes = Store::open(&container, "image_bb")?;
        let (f, b) = (features.shape(), boxes.shape());
        if f[..f.len() - 1] != b[..b.len() - 1] || b[b.len() - 1] != 4 {
            return Err(Error::mismatch(
                path,
                format!("image_bb {b:?} does not fit image_features {f:?}: expected 4 coordinates for each region"),
            ));
        }
        let regions = match *f {
            [_, k, _] => Regions::Fixed(k),
            _ => Regions::Adaptive(read_pos_boxes(&container, f[0])?),
        };
        let n_images = match &regions {
            Regions::Fixed(_) => f[0],
            Regions::Adaptive(ranges) => ranges.len(),
        };
        if u32::try_from(n_images).is_err() {
            return Err(Error::damaged(
                path,
                format!("{n_images} images are more than can be numbered: it is damaged"),
            ));
        }
        if n_images > 0 && f.contains(&0) {
            let problem = format!("image_features {f:?} has no values: extract or convert it again");
            return Err(Error::wrong_format(path, problem));
        }
        let image_ids = ImageIds::open(&container, n_images)?;
        if features.is_slow() && first_time(path) {
            tracing::warn!(
                "{}: image_features is {}; that is slower than a contiguous float32 or float16 dataset, \
                 which `vqa features convert` writes",
                path.display(),
                features.describe()
            );
        }
        let extractor = container.text_attribute(ExtractorInfo::KEY).map(|text| ExtractorInfo::parse(&text));
        Ok(FeatureFile { container, image_ids, regions, features, boxes, extractor })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        self.container.path()
    }

    /// The image ids, in order of rows.
    pub fn image_ids(&self) -> &[u64] {
        self.image_ids.ids()
    }

    /// Width and height of each image, if the file has `image_sizes` [N, 2].
    ///
    /// # Errors
    ///
    /// When `image_sizes` is there but cannot be read.
    pub fn image_sizes(&self) -> Result<Option<Vec<[u32; 2]>>> {
        let Some(dataset) = self.container.dataset("image_sizes")? else { return Ok(None) };
        let shape = dataset.hdf5.shape();
        if shape != [self.n_images(), 2] {
            let problem = format!("image_sizes has shape {shape:?}, not [{}, 2]", self.n_images());
            return Err(Error::mismatch(self.path(), problem));
        }
        let size = |(row, size): (usize, &[u64])| match (u32::try_from(size[0]), u32::try_from(size[1])) {
            (Ok(width), Ok(height)) => Ok([width, height]),
            _ => {
                let problem = format!("image_sizes row {row} is {size:?}, not a width and height in pixels");
                Err(Error::damaged(self.path(), problem))
            }
        };
        dataset.read_whole_numbers()?.chunks_exact(2).enumerate().map(size).collect::<Result<_>>().map(Some)
    }

    /// Everything in the file except the features and boxes.
    ///
    /// # Errors
    ///
    /// When `image_sizes` is there but cannot be read.
    pub fn table(&self) -> Result<FeatureTable> {
        let sizes = self.image_sizes()?;
        let images = self.image_ids().iter().enumerate().map(|(row, &image_id)| ImageEntry {
            image_id,
            size: sizes.as_ref().map(|sizes| sizes[row]),
            n_regions: self.n_regions(row),
        });
        let names = self.container.attribute_names();
        let attributes: BTreeMap<String, Vec<f64>> = names
            .into_iter()
            .map(|name| (name.clone(), self.attribute(&name)))
            .filter(|(_, x)| !x.is_empty())
            .collect();
        Ok(FeatureTable {
            images: images.collect(),
            feature_dim: self.feature_dim(),
            element_type: self.features.element_type(),
            extractor: self.extractor.clone(),
            attributes,
        })
    }

    /// The offsets of features and boxes in the file; 0 if they are empty or not mapped.
    pub(super) fn data_offsets(&self) -> [u64; 2] {
        [&self.features, &self.boxes].map(|store| store.offset().unwrap_or(0))
    }

    /// A numeric attribute of the file, as doubles; empty if it is not there.
    pub fn attribute(&self, name: &str) -> Vec<f64> {
        /// Our own attributes have a few values; more would be a dataset in the wrong place.
        const MOST: usize = 1 << 16;
        let Some(attribute) = self.container.attribute(name) else { return Vec::new() };
        let few =
            attribute.shape().iter().try_fold(1, |n: usize, &axis| n.checked_mul(axis)).is_some_and(|n| n <= MOST);
        if few { attribute.read_raw::<f64>().unwrap_or_default() } else { Vec::new() }
    }

    /// Shape of `image_features`.
    pub fn shape(&self) -> &[usize] {
        self.features.shape()
    }

    /// The element type of `image_features`: "float32", "float16" …
    pub fn dtype(&self) -> String {
        self.features.dtype()
    }

    /// Bytes per value in `image_features`.
    pub(super) fn element_size(&self) -> usize {
        self.features.element_size()
    }

    /// Describes the element type and layout of `image_features`, and how it is read.
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

    /// Reads the boxes of one image, [n_regions, 4].
    pub(crate) fn read_boxes(&self, row: usize, boxes: &mut [f32]) -> Result<()> {
        self.boxes.read(self.path(), self.first_region(row), boxes)
    }

    /// Reads the features of one image, [n_regions, D], without looking for NaN.
    pub(crate) fn read_features(&self, row: usize, features: &mut [f32]) -> Result<()> {
        self.features.read(self.path(), self.first_region(row), features)
    }
}

impl RegionSource for FeatureFile {
    fn name(&self) -> String {
        self.path().display().to_string()
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

    fn element_type(&self) -> ElementType {
        self.features.element_type()
    }

    fn extractor(&self) -> Option<&ExtractorInfo> {
        self.extractor.as_ref()
    }

    fn prefetch(&self, row: usize) {
        self.features.prefetch(self.first_region(row), self.n_regions(row));
    }

    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> Result<()> {
        self.read_features(row, features)?;
        self.read_boxes(row, boxes)?;
        if !all_finite(features) {
            return Err(Error::NotFinite { path: self.path().to_owned(), image_id: self.image_ids()[row], row });
        }
        Ok(())
    }
}

/// Whether this is the first call for a path in this process, for warnings that are given only once.
fn first_time(path: &Path) -> bool {
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
}

/// Reads `pos_boxes` [N, 2] and checks that each image's rows lie in order within the `total` regions.
fn read_pos_boxes(container: &Container, total: usize) -> Result<Vec<[u32; 2]>> {
    let path = container.path();
    let dataset = container.dataset("pos_boxes")?.ok_or_else(|| {
        Error::wrong_format(
            path,
            "image_features has two axes, but there is no \"pos_boxes\" [N, 2] to say which regions belong to which \
             image",
        )
    })?;
    let shape = dataset.hdf5.shape();
    if !matches!(*shape, [_, 2]) {
        return Err(Error::wrong_format(path, format!("pos_boxes has shape {shape:?}, not [images, 2]")));
    }
    let range = |(row, range): (usize, &[u64])| match (u32::try_from(range[0]), u32::try_from(range[1])) {
        (Ok(first), Ok(end)) if first <= end && end as usize <= total => Ok([first, end]),
        _ => Err(Error::damaged(
            path,
            format!("pos_boxes row {row} is {range:?}, not a range [first, end) within the {total} regions"),
        )),
    };
    dataset.read_whole_numbers()?.chunks_exact(2).enumerate().map(range).collect()
}
