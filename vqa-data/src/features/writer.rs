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
    /// How many regions the images have.
    pub regions: RegionCount,
    /// Length of a feature vector, D.
    pub feature_dim: usize,
    /// How the features are stored.
    pub element_type: ElementType,
}

/// How many regions the images of a file have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionCount {
    /// K each.
    Fixed(usize),
    /// Each its own number.
    Adaptive {
        /// The regions of all images together.
        total: usize,
    },
}

/// Writes a feature file: contiguous `image_features`, `image_bb`, `image_ids`, `image_sizes`, and
/// `pos_boxes` if the images have different numbers of regions. The file appears under its name when [`FeatureWriter::finish`] has succeeded, and not before.
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
    /// First and end region of each image.
    pos_boxes: Vec<u32>,
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
            let dataset = |name: &str, width: usize, element_type: ElementType| {
                let shape = match spec.regions {
                    RegionCount::Fixed(k) => vec![spec.n_images, k, width],
                    RegionCount::Adaptive { total } => vec![total, width],
                };
                match element_type {
                    ElementType::F32 => file.new_dataset::<f32>().shape(shape).create(name),
                    ElementType::F16 => file.new_dataset::<f16>().shape(shape).create(name),
                }
            };
            let features = dataset("image_features", spec.feature_dim, spec.element_type)?;
            let boxes = dataset("image_bb", 4, ElementType::F32)?;
            Ok((file, features, boxes))
        };
        let (file, features, boxes) = create().map_err(|e| Error::hdf5(path, &e))?;
        Ok(FeatureWriter {
            file,
            features,
            boxes,
            target,
            spec,
            image_ids: Vec::new(),
            image_sizes: Vec::new(),
            pos_boxes: Vec::new(),
        })
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
        for image in images {
            self.append_one(image)?;
        }
        Ok(())
    }

    fn append_one(&mut self, image: &ImageRegions) -> Result<()> {
        let FeatureWriterSpec { n_images, regions, feature_dim, element_type } = self.spec;
        let n_regions = image.boxes.len() / 4;
        assert!(self.image_ids.len() < n_images, "more images than announced");
        assert_eq!(image.boxes.len(), n_regions * 4, "boxes are [K, 4]");
        assert_eq!(image.features.len(), n_regions * feature_dim, "features are [K, D]");
        if let RegionCount::Fixed(k) = regions {
            assert_eq!(n_regions, k, "every image has K regions");
        }
        let path = self.target.destination();
        let limit = match element_type {
            ElementType::F32 => f32::MAX,
            ElementType::F16 => f16::MAX.to_f32(),
        };
        if let Some(x) = image.features.iter().find(|x| x.is_nan() || x.abs() > limit) {
            let problem = format!("image {} has the feature {x}, which cannot be stored as a number", image.image_id);
            return Err(Error::file(path, problem));
        }
        let first = self.n_regions();
        let place = Place { regions, image: self.image_ids.len(), first, n_regions };
        let write = || {
            match element_type {
                ElementType::F32 => place.write(&self.features, &image.features, feature_dim)?,
                ElementType::F16 => {
                    let halves: Vec<f16> = image.features.iter().map(|&x| f16::from_f32(x)).collect();
                    place.write(&self.features, &halves, feature_dim)?;
                }
            }
            place.write(&self.boxes, &image.boxes, 4)
        };
        write().map_err(|e: hdf5::Error| Error::hdf5(path, &e))?;
        self.image_ids.push(image.image_id);
        self.image_sizes.extend(image.size);
        self.pos_boxes.extend([first as u32, (first + n_regions) as u32]);
        Ok(())
    }

    /// Regions appended so far.
    fn n_regions(&self) -> usize {
        self.pos_boxes.last().map_or(0, |&end| end as usize)
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
        let FeatureWriter { file, features, boxes, target, spec, image_ids, image_sizes, pos_boxes } = self;
        assert_eq!(image_ids.len(), spec.n_images, "fewer images than announced");
        let write = || {
            let n = spec.n_images;
            let ids = file.new_dataset::<u64>().shape(n).create("image_ids")?;
            ids.write(ArrayView::from(image_ids.as_slice()))?;
            let sizes = file.new_dataset::<u32>().shape((n, 2)).create("image_sizes")?;
            sizes.write(ArrayView2::from_shape((n, 2), &image_sizes).expect("two numbers an image"))?;
            if let RegionCount::Adaptive { .. } = spec.regions {
                let ranges = file.new_dataset::<u32>().shape((n, 2)).create("pos_boxes")?;
                ranges.write(ArrayView2::from_shape((n, 2), &pos_boxes).expect("two numbers an image"))?;
            }
            file.flush()
        };
        write().map_err(|e: hdf5::Error| Error::hdf5(target.destination(), &e))?;
        drop((features, boxes));
        file.close().map_err(|e| Error::hdf5(target.destination(), &e))?;
        target.finish()
    }
}

/// Where an image goes.
struct Place {
    regions: RegionCount,
    image: usize,
    /// First of its regions among those of all images.
    first: usize,
    n_regions: usize,
}

impl Place {
    /// Writes the image's rows of `width` numbers into a dataset.
    fn write<T: hdf5::H5Type>(&self, dataset: &hdf5::Dataset, data: &[T], width: usize) -> hdf5::Result<()> {
        match self.regions {
            RegionCount::Fixed(k) => {
                let view = ArrayView3::from_shape((1, k, width), data).expect("the rows of an image");
                dataset.write_slice(view, s![self.image..=self.image, .., ..])
            }
            RegionCount::Adaptive { .. } => {
                let view = ArrayView2::from_shape((self.n_regions, width), data).expect("the rows of an image");
                dataset.write_slice(view, s![self.first..self.first + self.n_regions, ..])
            }
        }
    }
}
