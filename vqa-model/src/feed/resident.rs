//! The features of all images on a device.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use vqa_data::batches::Dataset;
use vqa_data::features::ElementType;

use crate::error::Result;
use crate::feed::cuda::Cuda;

/// The features of all images of a dataset, on a device.
#[derive(Debug)]
pub(super) struct Resident {
    /// [regions + 1, D], image after image; the last row is zeros.
    pub(super) regions: Tensor,
    /// [regions + 1, 4] float32, in the same order.
    pub(super) boxes: Tensor,
    /// The row of each image's first region, followed by the row of zeros, which stands for padding.
    pub(super) starts: Arc<[i64]>,
}

/// The smallest number type that doesn't change the results of the arithmetic.
fn resident_kind(dataset: &Dataset, kind: Kind) -> Kind {
    match (kind, dataset.element_type()) {
        (Kind::Float, ElementType::F16) => Kind::Half,
        (kind, _) => kind,
    }
}

/// Whether the features fit into the GPU's memory and leave enough for everything else.
pub(super) fn fits(dataset: &Dataset, kind: Kind, cuda: &Cuda) -> bool {
    /// The article's model takes half a gigabyte, and a step of 512 questions about 1.5 GB more.
    const MARGIN: u64 = 4 << 30;
    let n: usize = (0..dataset.n_images()).map(|image| dataset.n_regions(image)).sum();
    let size = (n + 1) * dataset.feature_dim() * resident_kind(dataset, kind).elt_size_in_bytes();
    let gb = |bytes: u64| bytes as f64 / 1e9;
    match cuda.free_memory() {
        Ok(free) if size as u64 + MARGIN <= free => true,
        Ok(free) => {
            tracing::warn!(
                "the features of {} take {:.1} GB, the GPU has {:.1} GB free, and training needs {:.1}: \
                 they are copied batch by batch",
                dataset.source_names(),
                gb(size as u64),
                gb(free),
                gb(MARGIN)
            );
            false
        }
        Err(reason) => {
            tracing::warn!(
                "features are copied to the GPU batch by batch, since its free memory is unknown ({reason})"
            );
            false
        }
    }
}

impl Resident {
    /// Reads the features of all images and copies them. `on_copied` is called with the number of images on the device
    /// so far, and the total.
    pub(super) fn new(
        dataset: &Dataset,
        device: Device,
        kind: Kind,
        on_copied: &mut dyn FnMut(usize, usize),
    ) -> Result<Resident> {
        /// Values that are read at a time, 128 MB.
        const CHUNK: usize = 1 << 25;
        let (n_images, dim) = (dataset.n_images(), dataset.feature_dim());
        let mut starts = vec![0];
        starts.extend((0..n_images).scan(0, |end, image| {
            *end += dataset.n_regions(image) as i64;
            Some(*end)
        }));
        let n_regions = |first: usize, end: usize| starts[end] - starts[first];
        let regions = Tensor::zeros([starts[n_images] + 1, dim as i64], (resident_kind(dataset, kind), device));
        let boxes = Tensor::zeros([starts[n_images] + 1, 4], (Kind::Float, device));
        let mut first = 0;
        while first < n_images {
            let is_small = |&end: &usize| n_regions(first, end) as usize * dim <= CHUNK;
            let end = (first + 1..=n_images).take_while(is_small).last().unwrap_or(first + 1);
            let n = n_regions(first, end);
            let (mut features, mut corners) = (vec![0.0; n as usize * dim], vec![0.0; n as usize * 4]);
            dataset.read_regions(first..end, &mut features, &mut corners)?;
            let copy_to = |resident: &Tensor, values: &[f32]| {
                let rows = Tensor::from_slice(values).view([n, resident.size()[1]]).to_device(device);
                resident.narrow(0, starts[first], n).copy_(&rows);
            };
            copy_to(&regions, &features);
            copy_to(&boxes, &corners);
            first = end;
            on_copied(first, n_images);
        }
        Ok(Resident { regions, boxes, starts: starts.into() })
    }

    /// Returns the row of each image's first region, followed by the row of zeros.
    pub(super) fn starts(&self) -> Arc<[i64]> {
        self.starts.clone()
    }

    /// The features [N, K, D] of the regions in these rows [N, K].
    pub(super) fn features(&self, rows: &Tensor) -> Tensor {
        select_rows(&self.regions, rows)
    }

    /// The boxes [N, K, 4] of the regions in these rows [N, K].
    pub(super) fn boxes(&self, rows: &Tensor) -> Tensor {
        select_rows(&self.boxes, rows)
    }
}

/// Maps [regions + 1, dim] and rows [N, K] to [N, K, dim].
fn select_rows(regions: &Tensor, rows: &Tensor) -> Tensor {
    let [n, k] = rows.size()[..] else { panic!("rows are [N, K]") };
    regions.index_select(0, &rows.view([-1])).view([n, k, regions.size()[1]])
}
