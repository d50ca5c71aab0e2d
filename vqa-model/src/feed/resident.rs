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
    /// [regions + 1, D], image after image; the last one is zero.
    pub(super) regions: Tensor,
    /// [regions + 1, 4], float32, in the same order.
    pub(super) boxes: Tensor,
    /// The first region of each image, and the region that is zero.
    pub(super) starts: Arc<[i64]>,
}

/// The smallest number type that changes no number of the arithmetic.
fn resident_kind(dataset: &Dataset, kind: Kind) -> Kind {
    match (kind, dataset.element_type()) {
        (Kind::Float, ElementType::F16) => Kind::Half,
        (kind, _) => kind,
    }
}

/// Whether the features fit into the GPU's memory, and leave enough for all else.
pub(super) fn fits(dataset: &Dataset, kind: Kind, cuda: &Cuda) -> bool {
    /// The article's model takes about a gigabyte and a half for a step of 512 questions, and half of one for itself.
    const MARGIN: u64 = 4 << 30;
    let n: usize = (0..dataset.n_images()).map(|image| dataset.n_regions(image)).sum();
    let size = (n + 1) * dataset.feature_dim() * resident_kind(dataset, kind).elt_size_in_bytes();
    let gb = |bytes: u64| bytes as f64 / 1e9;
    match cuda.free_memory() {
        Ok(free) if size as u64 + MARGIN <= free => true,
        Ok(free) => {
            tracing::warn!(
                "the features of {} take {:.1} GB, the GPU has {:.1} GB free, and training wants {:.1}: they go there batch by batch",
                dataset.source_names(),
                gb(size as u64),
                gb(free),
                gb(MARGIN)
            );
            false
        }
        Err(reason) => {
            tracing::warn!("features go to the GPU batch by batch, for its free memory is unknown ({reason})");
            false
        }
    }
}

impl Resident {
    pub(super) fn new(
        dataset: &Dataset,
        device: Device,
        kind: Kind,
        put: &mut dyn FnMut(usize, usize),
    ) -> Result<Resident> {
        /// Numbers that are read at once.
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
            let small = |&end: &usize| n_regions(first, end) as usize * dim <= CHUNK;
            let end = (first + 1..=n_images).take_while(small).last().unwrap_or(first + 1);
            let n = n_regions(first, end);
            let (mut features, mut corners) = (vec![0.0; n as usize * dim], vec![0.0; n as usize * 4]);
            dataset.read_regions(first..end, &mut features, &mut corners)?;
            let put_into = |resident: &Tensor, numbers: &[f32]| {
                let numbers = Tensor::from_slice(numbers).view([n, -1]).to_device(device);
                resident.narrow(0, starts[first], n).copy_(&numbers);
            };
            put_into(&regions, &features);
            put_into(&boxes, &corners);
            first = end;
            put(first, n_images);
        }
        Ok(Resident { regions, boxes, starts: starts.into() })
    }

    /// The first region of each image, and the region that is zero.
    pub(super) fn starts(&self) -> Arc<[i64]> {
        self.starts.clone()
    }

    /// The features [N, K, D] at these places [N, K].
    pub(super) fn features(&self, places: &Tensor) -> Tensor {
        at_places(&self.regions, places)
    }

    /// The boxes [N, K, 4] at these places [N, K].
    pub(super) fn boxes(&self, places: &Tensor) -> Tensor {
        at_places(&self.boxes, places)
    }
}

fn at_places(rows: &Tensor, places: &Tensor) -> Tensor {
    let [n, k] = places.size()[..] else { panic!("a place for each region") };
    rows.index_select(0, &places.view([-1])).view([n, k, -1])
}
