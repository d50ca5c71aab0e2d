use std::path::Path;

use half::f16;
use ndarray::{ArrayView, ArrayView2, ArrayView3, s};

use crate::atomic::AtomicFile;
use crate::{Error, Result};

/// The element type that `image_features` is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ElementType {
    /// Four bytes a number.
    #[default]
    F32,
    /// Two bytes a number: half the disk and half the reading, 11 bits of precision.
    F16,
}

/// What a [`FeatureWriter`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureWriterSpec {
    /// Number of images N.
    pub n_images: usize,
    /// Regions of each image, K.
    pub n_regions: usize,
    /// Length of a feature vector, D.
    pub feature_dim: usize,
    /// How the features are stored.
    pub element_type: ElementType,
}

/// Writes a feature file of fixed K: contiguous `image_features`, `image_bb`, `image_ids`, `image_sizes`.
/// The file appears under its name when [`FeatureWriter::finish`] has succeeded, and not before.
#[derive(Debug)]
pub struct FeatureWriter {
    // Declared before `target`: HDF5 closes its file first, then the temporary file may be removed.
    file: hdf5::File,
    features: hdf5::Dataset,
    boxes: hdf5::Dataset,
    target: AtomicFile,
    spec: FeatureWriterSpec,
    image_ids: Vec<u64>,
    image_sizes: Vec<u32>,
}

/// One image for [`FeatureWriter::append`].
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRegions {
    /// The image.
    pub image_id: u64,
    /// Its width and height in pixels.
    pub size: [u32; 2],
    /// [K, D].
    pub features: Vec<f32>,
    /// [K, 4]: x1 y1 x2 y2 in pixels.
    pub boxes: Vec<f32>,
}

impl FeatureWriter {
    /// Starts a file at `path`, replacing what is there when it is finished.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn create(path: &Path, spec: FeatureWriterSpec) -> Result<FeatureWriter> {
        let target = AtomicFile::create(path)?;
        let create = || {
            let file = hdf5::File::create(target.path())?;
            let shape = (spec.n_images, spec.n_regions, spec.feature_dim);
            let features = match spec.element_type {
                ElementType::F32 => file.new_dataset::<f32>().shape(shape).create("image_features")?,
                ElementType::F16 => file.new_dataset::<f16>().shape(shape).create("image_features")?,
            };
            let boxes = file.new_dataset::<f32>().shape((spec.n_images, spec.n_regions, 4)).create("image_bb")?;
            Ok((file, features, boxes))
        };
        let (file, features, boxes) = create().map_err(|e| Error::hdf5(path, &e))?;
        Ok(FeatureWriter { file, features, boxes, target, spec, image_ids: Vec::new(), image_sizes: Vec::new() })
    }

    /// Stores numbers about the source as an attribute of the file.
    ///
    /// # Errors
    ///
    /// When HDF5 cannot write, on a full disk say.
    pub fn set_attribute(&mut self, name: &str, values: &[f64]) -> Result<()> {
        let set = || {
            let attribute = self.file.new_attr::<f64>().shape(values.len()).create(name)?;
            attribute.write(ArrayView::from(values))
        };
        set().map_err(|e: hdf5::Error| Error::hdf5(self.target.destination(), &e))
    }

    /// Appends images.
    ///
    /// # Errors
    ///
    /// When HDF5 cannot write, on a full disk say; or a feature is NaN, infinite, or (for float16) above 65504.
    ///
    /// # Panics
    ///
    /// When an image's lengths are not those of the [`FeatureWriterSpec`], or there are more images than it says.
    pub fn append(&mut self, images: &[ImageRegions]) -> Result<()> {
        let FeatureWriterSpec { n_regions, feature_dim, element_type, .. } = self.spec;
        let first = self.image_ids.len();
        let end = first + images.len();
        assert!(end <= self.spec.n_images, "more images than announced");
        let mut features = Vec::with_capacity(images.len() * n_regions * feature_dim);
        let mut boxes = Vec::with_capacity(images.len() * n_regions * 4);
        for image in images {
            assert_eq!(image.features.len(), n_regions * feature_dim, "features are [K, D]");
            assert_eq!(image.boxes.len(), n_regions * 4, "boxes are [K, 4]");
            let limit = match element_type {
                ElementType::F32 => f32::MAX,
                ElementType::F16 => f16::MAX.to_f32(),
            };
            if let Some(x) = image.features.iter().find(|x| x.is_nan() || x.abs() > limit) {
                let problem =
                    format!("image {} has the feature {x}, which cannot be stored as a number", image.image_id);
                return Err(Error::file(self.target.destination(), problem));
            }
            features.extend_from_slice(&image.features);
            boxes.extend_from_slice(&image.boxes);
            self.image_ids.push(image.image_id);
            self.image_sizes.extend(image.size);
        }
        let write = || {
            let shape = (images.len(), n_regions, feature_dim);
            match element_type {
                ElementType::F32 => self.features.write_slice(view3(shape, &features), s![first..end, .., ..])?,
                ElementType::F16 => {
                    let halves: Vec<f16> = features.iter().map(|&x| f16::from_f32(x)).collect();
                    self.features.write_slice(view3(shape, &halves), s![first..end, .., ..])?;
                }
            }
            self.boxes.write_slice(view3((images.len(), n_regions, 4), &boxes), s![first..end, .., ..])
        };
        write().map_err(|e: hdf5::Error| Error::hdf5(self.target.destination(), &e))
    }

    /// Writes the image ids and sizes, and gives the file its name.
    ///
    /// # Errors
    ///
    /// When the disk is full or the rename fails.
    ///
    /// # Panics
    ///
    /// When fewer images were appended than announced.
    pub fn finish(self) -> Result<()> {
        let FeatureWriter { file, features, boxes, target, spec, image_ids, image_sizes } = self;
        assert_eq!(image_ids.len(), spec.n_images, "fewer images than announced");
        let write = || {
            let n = spec.n_images;
            let ids = file.new_dataset::<u64>().shape(n).create("image_ids")?;
            ids.write(ArrayView::from(image_ids.as_slice()))?;
            let sizes = file.new_dataset::<u32>().shape((n, 2)).create("image_sizes")?;
            sizes.write(ArrayView2::from_shape((n, 2), &image_sizes).expect("two numbers an image"))?;
            file.flush()
        };
        write().map_err(|e: hdf5::Error| Error::hdf5(target.destination(), &e))?;
        drop((features, boxes));
        file.close().map_err(|e| Error::hdf5(target.destination(), &e))?;
        target.finish()
    }
}

fn view3<T>(shape: (usize, usize, usize), data: &[T]) -> ArrayView3<'_, T> {
    ArrayView3::from_shape(shape, data).expect("the caller built `data` in this shape")
}
