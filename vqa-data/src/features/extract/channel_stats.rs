//! How bright images are.

use rayon::prelude::*;

use crate::error::Result;
use crate::features::extract::images::{ImageFile, read_image};

/// Mean and standard deviation of the red, green and blue values, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStats {
    /// Mean of each channel.
    pub mean: [f64; 3],
    /// Standard deviation of each channel.
    pub std: [f64; 3],
}

impl ChannelStats {
    /// Measures the pixels of all images, in parallel. `progress` is called with the number of images
    /// just done.
    ///
    /// # Errors
    ///
    /// When an image cannot be decoded.
    pub fn measure(images: &[ImageFile], progress: &(dyn Fn(u64) + Sync)) -> Result<ChannelStats> {
        // Integer sums, so that the result does not depend on how the work was split.
        let [n, sums @ ..] = images
            .par_iter()
            .map(|image| {
                let mut totals = [0u128; 7];
                for pixel in read_image(&image.path)?.pixels() {
                    totals[0] += 1;
                    for (channel, &value) in pixel.0.iter().enumerate() {
                        totals[1 + channel] += u128::from(value);
                        totals[4 + channel] += u128::from(value) * u128::from(value);
                    }
                }
                progress(1);
                Ok(totals)
            })
            .try_reduce(|| [0; 7], |a, b| Ok(std::array::from_fn(|i| a[i] + b[i])))?;
        let n = n as f64;
        let mean = std::array::from_fn(|c| sums[c] as f64 / n / 255.0);
        let std = std::array::from_fn(|c| {
            let mean: f64 = sums[c] as f64 / n;
            let variance = sums[3 + c] as f64 / n - mean * mean;
            // A channel that never varies is left as it is.
            let std = variance.max(0.0).sqrt() / 255.0;
            if std > 0.0 { std } else { 1.0 }
        });
        Ok(ChannelStats { mean, std })
    }
}
