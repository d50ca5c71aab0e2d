//! Made-up features that take little memory, however many there are.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vqa_data::features::RegionSource;

/// A region source whose features are slices of one long row of values.
pub struct MadeUp {
    n_images: usize,
    n_regions: usize,
    feature_dim: usize,
    numbers: Vec<f32>,
}

impl MadeUp {
    /// Features of `n_images` times `n_regions` regions, which start at `n_places` different positions.
    pub fn new([n_images, n_regions, feature_dim]: [usize; 3], n_places: usize) -> MadeUp {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        // Half of them are zero, as after a ReLU.
        let numbers = (0..n_places + n_regions * feature_dim).map(|_| (rng.random::<f32>() * 4.0 - 2.0).max(0.0));
        MadeUp { n_images, n_regions, feature_dim, numbers: numbers.collect() }
    }
}

impl RegionSource for MadeUp {
    fn name(&self) -> String {
        "made-up features".to_owned()
    }

    fn n_images(&self) -> usize {
        self.n_images
    }

    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn row(&self, image_id: u64) -> Option<usize> {
        (0..self.n_images).contains(&(image_id as usize / 3)).then_some(image_id as usize / 3)
    }

    fn n_regions(&self, _: usize) -> usize {
        self.n_regions
    }

    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> vqa_data::Result<()> {
        let n_places = self.numbers.len() - features.len();
        let start = row.wrapping_mul(0x9e37_79b9) % n_places;
        features.copy_from_slice(&self.numbers[start..start + features.len()]);
        boxes.fill(0.0);
        Ok(())
    }
}
