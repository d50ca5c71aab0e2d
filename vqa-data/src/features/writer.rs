use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;
use hdf5::dataset::{AllocTime, FillTime};
use hdf5::types::VarLenUnicode;
use ndarray::{ArrayView, ArrayView2};

use crate::error::{Error, Result};
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::file::FeatureFile;
use crate::features::hdf5_error::cannot_write;
use crate::features::table::FeatureTable;
use crate::files::atomic::IfExists;
use crate::files::partial::{Partial, Progress, partial_path, try_destination};
use crate::files::unfinished::lock_creation;

/// Writes a feature file: contiguous `image_features` and `image_bb`, `image_ids`, `image_sizes` if all sizes are
/// known, and `pos_boxes` if the images have different numbers of regions.
///
/// The file gets its complete structure at the start, as `NAME.partial`; images can then be written in any order and
/// from several threads. It appears under its final name only when [`FeatureWriter::finish`] has succeeded.
///
/// ```
/// use vqa_data::features::{FeatureFile, FeatureTable, FeatureWriter, ImageEntry, RegionSource};
/// use vqa_data::files::IfExists;
///
/// let path = tempfile::tempdir().unwrap().path().join("features.h5");
/// let images = vec![ImageEntry { image_id: 42, size: Some([640, 480]), n_regions: 2 }];
/// let table = FeatureTable { images, feature_dim: 3, ..FeatureTable::default() };
/// let writer = FeatureWriter::create(&path, table, IfExists::Refuse)?;
/// writer.write(0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.0, 0.0, 320.0, 480.0, 320.0, 0.0, 640.0, 480.0])?;
/// writer.finish()?;
/// assert_eq!(FeatureFile::open(&path)?.row(42), Some(0));
/// # Ok::<(), vqa_data::Error>(())
/// ```
#[derive(Debug)]
pub struct FeatureWriter {
    partial: Partial,
    table: FeatureTable,
    made_from: Option<String>,
    /// The index of each image's first region among those of all images.
    first_regions: Vec<u64>,
    /// The offsets of the two datasets in the file.
    features_at: u64,
    boxes_at: u64,
    n_written: AtomicUsize,
    /// How many images, counted from the first, are certainly written.
    n_done: AtomicUsize,
}

impl FeatureWriter {
    /// Checks that a file can be written at `path`, for a command that does long work first: that its name is not that
    /// of an unfinished file, and that its directory is, or can be created, and can be written. Nothing is left behind.
    ///
    /// # Errors
    ///
    /// When it cannot, or something other than a file has that name.
    pub fn try_path(path: &Path) -> Result<()> {
        try_destination(path)
    }

    /// Starts a file at `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be created or exists and is not to be replaced, or another process is writing it.
    pub fn create(path: &Path, table: FeatureTable, if_exists: IfExists) -> Result<FeatureWriter> {
        let partial = Partial::open(path, if_exists)?;
        FeatureWriter::start(partial, table, None)
    }

    /// Resumes the file that a killed process left for `path`, if that was to have the same table and was made from the
    /// same inputs; otherwise starts a new one. [`FeatureWriter::n_done`] says how many images it has already.
    ///
    /// `made_from` is a text that differs whenever the images would, such as a digest of the inputs.
    ///
    /// # Errors
    ///
    /// When the file cannot be created or exists and is not to be replaced, or another process is writing it.
    pub fn resume(path: &Path, table: FeatureTable, made_from: &str, if_exists: IfExists) -> Result<FeatureWriter> {
        let partial = Partial::open(path, if_exists)?;
        let Some(Progress { made_from: earlier, n_done }) = partial.progress() else {
            return FeatureWriter::start(partial, table, Some(made_from));
        };
        let there =
            FeatureFile::open_unfinished(partial.path()).and_then(|file| Ok((file.table()?, file.data_offsets())));
        match there {
            Ok((there, offsets)) if earlier == made_from && there == table && n_done <= table.images.len() => {
                let writer = FeatureWriter::new(partial, table, Some(made_from), offsets);
                writer.n_written.store(n_done, Ordering::Relaxed);
                writer.n_done.store(n_done, Ordering::Relaxed);
                Ok(writer)
            }
            // The file may be sound, so it is kept.
            Err(error) if error.is_retryable() => Err(error),
            _ => {
                tracing::warn!(
                    "{}: starting over: {n_done} images of an earlier run cannot be used, because its input or options \
                     differed",
                    partial.destination().display()
                );
                FeatureWriter::start(partial, table, Some(made_from))
            }
        }
    }

    fn start(mut partial: Partial, table: FeatureTable, made_from: Option<&str>) -> Result<FeatureWriter> {
        if let Some(image) = table.images.iter().find(|image| i64::try_from(image.image_id).is_err()) {
            let path = partial.destination().display();
            return Err(Error::invalid(format!(
                "{path}: the image id {} is larger than image_ids can store",
                image.image_id
            )));
        }
        let has_values = table.feature_dim > 0 && table.images.iter().any(|image| image.n_regions > 0);
        if !table.images.is_empty() && !has_values {
            let path = partial.destination().display();
            return Err(Error::invalid(format!("{path}: its features would have no values, and could not be used")));
        }
        // HDF5 would create the file again if a signal handler had removed it.
        let _lock = lock_creation();
        partial.clear()?;
        let offsets = create_hdf5(partial.path(), &table).map_err(cannot_write(partial.destination()))?;
        Ok(FeatureWriter::new(partial, table, made_from, offsets))
    }

    fn new(partial: Partial, table: FeatureTable, made_from: Option<&str>, offsets: [u64; 2]) -> FeatureWriter {
        let first_regions = table.region_ranges().map(|[first, _]| first).collect();
        let [features_at, boxes_at] = offsets;
        let (n_written, n_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let made_from = made_from.map(str::to_owned);
        FeatureWriter { partial, table, made_from, first_regions, features_at, boxes_at, n_written, n_done }
    }

    /// The path of a destination's unfinished file.
    pub fn partial_path(destination: &Path) -> PathBuf {
        partial_path(destination)
    }

    /// The table that the file was started with.
    pub fn table(&self) -> &FeatureTable {
        &self.table
    }

    /// How many images, counted from the first, are certainly written.
    pub fn n_done(&self) -> usize {
        self.n_done.load(Ordering::Acquire)
    }

    /// Writes the image in row `row`: `features` is [K, D], `boxes` is [K, 4] as x1 y1 x2 y2 in pixels.
    ///
    /// # Errors
    ///
    /// When the disk is full; or a feature is NaN, infinite, or (for float16) above 65504.
    ///
    /// # Panics
    ///
    /// When there is no such row, or the lengths are not those of the table.
    pub fn write(&self, row: usize, features: &[f32], boxes: &[f32]) -> Result<()> {
        let image = self.table.images[row];
        let dim = self.table.feature_dim;
        assert_eq!(features.len(), image.n_regions * dim, "features are [K, D]");
        assert_eq!(boxes.len(), image.n_regions * 4, "boxes are [K, 4]");
        self.write_regions(row, features, boxes)
    }

    fn write_regions(&self, row: usize, features: &[f32], boxes: &[f32]) -> Result<()> {
        let image = self.table.images[row];
        let dim = self.table.feature_dim;
        let limit = match self.table.element_type {
            ElementType::F32 => f32::MAX,
            ElementType::F16 => f16::MAX.to_f32(),
        };
        // Without an early exit, so that it becomes vector code.
        if !features.iter().fold(true, |fit, x| fit & (x.abs() <= limit)) {
            let x = features.iter().find(|x| x.is_nan() || x.abs() > limit).copied().unwrap_or(f32::NAN);
            let remedy = if x.is_finite() { " as float16: store float32" } else { "" };
            let path = self.partial.destination().display();
            return Err(Error::invalid(format!(
                "{path}: image {} has the feature {x}, which cannot be stored{remedy}",
                image.image_id
            )));
        }
        let first = self.first_regions[row];
        let write = || {
            let file = self.partial.file();
            let offset = |start: u64, width: usize, of: ElementType| start + first * (width * of.size()) as u64;
            let features_at = offset(self.features_at, dim, self.table.element_type);
            match self.table.element_type {
                ElementType::F32 => file.write_all_at(bytemuck::must_cast_slice(features), features_at)?,
                ElementType::F16 => {
                    let mut halves = vec![f16::ZERO; features.len()];
                    halves.convert_from_f32_slice(features);
                    let bits: &[u16] = halves.reinterpret_cast();
                    file.write_all_at(bytemuck::must_cast_slice(bits), features_at)?;
                }
            }
            file.write_all_at(bytemuck::must_cast_slice(boxes), offset(self.boxes_at, 4, ElementType::F32))
        };
        write().map_err(Error::io("write", self.partial.destination()))?;
        self.n_written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Marks the first `n_done` images as written.
    pub(crate) fn set_done(&self, n_done: usize) {
        self.n_done.store(n_done, Ordering::Release);
    }

    /// Notes on the disk how many images are done, for [`FeatureWriter::resume`].
    pub(crate) fn save_progress(&self) -> Result<()> {
        let n_done = self.n_done();
        match &self.made_from {
            Some(made_from) => self.partial.save_progress(made_from, n_done),
            None => Ok(()),
        }
    }

    /// Makes [`FeatureWriter::save_progress`] fail, as a full disk would.
    #[cfg(test)]
    pub(super) fn fail_writes(&mut self) {
        self.partial.fail_writes();
    }

    /// Writes only the first regions of the image in row `row`, at most K, and leaves the others zero.
    pub(crate) fn write_first(&self, row: usize, features: &[f32], boxes: &[f32]) -> Result<()> {
        assert!(boxes.len() <= self.table.images[row].n_regions * 4, "an image has at most K regions");
        self.write_regions(row, features, boxes)
    }

    /// The path of the unfinished file.
    pub(crate) fn unfinished(&self) -> &Path {
        self.partial.path()
    }

    /// Removes the unfinished file.
    pub(crate) fn remove(self) {
        self.partial.remove();
    }

    /// Leaves the unfinished file for [`FeatureWriter::resume`].
    pub(crate) fn keep(mut self) {
        self.partial.keep();
    }

    /// Flushes the file to the disk and gives it its final name.
    ///
    /// # Errors
    ///
    /// When the disk is full or the rename fails.
    ///
    /// # Panics
    ///
    /// When the number of images written is not that of the table.
    pub fn finish(self) -> Result<()> {
        let n_written = self.n_written.into_inner();
        assert_eq!(n_written, self.table.images.len(), "every image is written once");
        self.partial.finish()
    }
}

/// Writes everything in a file except the features and boxes, for which it reserves room. Returns the offsets of the
/// two.
fn create_hdf5(path: &Path, table: &FeatureTable) -> hdf5::Result<[u64; 2]> {
    /// Large datasets are aligned to pages of memory.
    const PAGE: u64 = 4096;
    let mut options = hdf5::File::with_options();
    options.with_fapl(|p| p.alignment(16 * PAGE, PAGE));
    // The same content gives the same bytes, whenever it is written.
    options.with_fcpl(|p| p.obj_track_times(false));
    let file = options.create(path)?;
    // Attributes come at the head of the file, before the large datasets: HDF5 does not recover if a full disk refuses
    // metadata.
    for (name, values) in &table.attributes {
        let attribute = file.new_attr::<f64>().shape(values.len()).create(name.as_str())?;
        attribute.write(ArrayView::from(values.as_slice()))?;
    }
    if let Some(extractor) = &table.extractor {
        // JSON has no NUL byte, the only thing that such a text must not have.
        let text = extractor.to_string().parse::<VarLenUnicode>().map_err(|error| error.to_string())?;
        file.new_attr::<VarLenUnicode>().create(ExtractorInfo::KEY)?.write_scalar(&text)?;
    }
    let fixed = table.fixed_regions();
    let total = table.region_ranges().last().map_or(0, |[_, end]| end as usize);
    let n = table.images.len();
    let builder = || file.new_dataset_builder().no_chunk().obj_track_times(false);
    let reserve = |name: &str, width: usize, element_type: ElementType| -> hdf5::Result<u64> {
        let shape = match fixed {
            Some(k) => vec![n, k, width],
            None => vec![total, width],
        };
        // The space is allocated, but nothing is written to it yet.
        let builder = builder().alloc_time(Some(AllocTime::Early)).fill_time(FillTime::Never);
        let dataset = match element_type {
            ElementType::F32 => builder.empty::<f32>().shape(shape).create(name)?,
            ElementType::F16 => builder.empty::<f16>().shape(shape).create(name)?,
        };
        // A dataset without elements has no offset.
        Ok(dataset.offset().unwrap_or(0))
    };
    let features_at = reserve("image_features", table.feature_dim, table.element_type)?;
    let boxes_at = reserve("image_bb", 4, ElementType::F32)?;

    // Signed: NumPy turns unsigned 64-bit integers into floats when it mixes them with its own.
    let ids: Vec<i64> = table.images.iter().map(|image| image.image_id as i64).collect();
    builder().with_data(&ids).create("image_ids")?;
    let pairs = |name: &str, values: &[i64]| {
        let pairs = ArrayView2::from_shape((n, 2), values).expect("two values an image");
        builder().with_data(pairs).create(name)
    };
    let sizes: Option<Vec<[i64; 2]>> =
        table.images.iter().map(|image| image.size.map(|size| size.map(i64::from))).collect();
    if let Some(sizes) = sizes {
        pairs("image_sizes", sizes.as_flattened())?;
    }
    if fixed.is_none() {
        let ranges = table.region_ranges().flatten().map(|region| region as i64);
        pairs("pos_boxes", &ranges.collect::<Vec<i64>>())?;
    }
    file.close()?;
    Ok([features_at, boxes_at])
}
