//! Mean and deviation of the pixels of images.

use image::RgbImage;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::bad_image::BadImage;
use crate::features::extract::image_file::ImageFile;
use crate::features::extract::read_image::with_image;

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
    /// When images cannot be decoded, all of which are named; or when there are none.
    pub fn measure(images: &[ImageFile], progress: &(dyn Fn(u64) + Sync)) -> Result<ChannelStats> {
        match measure(images, [1, 1], progress)? {
            (Some(stats), bad) if bad.is_empty() => Ok(stats),
            (_, bad) => Err(Error::BadImages(bad)),
        }
    }
}

/// Measures the images that can be decoded and are at least as large as `min_size`, and says what is wrong with the
/// others. The statistics are `None` if there are only others.
pub(super) fn measure(
    images: &[ImageFile],
    min_size: [u32; 2],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Option<ChannelStats>, Vec<BadImage>)> {
    let sums = |image: &ImageFile| {
        let sums = with_image(&image.path, |pixels| {
            image.refuse_smaller(pixels.dimensions().into(), min_size)?;
            Ok(Sums::of(&pixels))
        });
        progress(1);
        sums.map_or_else(|error| error.into_bad_image().map(Err), |sums| Ok(Ok(sums)))
    };
    let results = images.par_iter().map(sums).collect::<Result<Vec<Result<Sums, BadImage>>>>()?;
    let (mut total, mut bad) = (Sums::default(), Vec::new());
    for result in results {
        match result {
            Ok(sums) => total.add(&sums),
            Err(problem) => bad.push(problem),
        }
    }
    Ok((total.stats(), bad))
}

/// Sums over pixels. They are integers, so that they do not depend on how the work was split.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    n_pixels: u128,
    /// Sums of the values of each channel, and of their squares.
    values: [u128; 3],
    squares: [u128; 3],
}

impl Sums {
    fn of(image: &RgbImage) -> Sums {
        let (mut values, mut squares) = ([0u64; 3], [0u64; 3]);
        for pixel in image.pixels() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                values[channel] += u64::from(value);
                squares[channel] += u64::from(value) * u64::from(value);
            }
        }
        let n_pixels = u128::from(image.width()) * u128::from(image.height());
        Sums { n_pixels, values: values.map(u128::from), squares: squares.map(u128::from) }
    }

    fn add(&mut self, other: &Sums) {
        self.n_pixels += other.n_pixels;
        for channel in 0..3 {
            self.values[channel] += other.values[channel];
            self.squares[channel] += other.squares[channel];
        }
    }

    fn stats(&self) -> Option<ChannelStats> {
        if self.n_pixels == 0 {
            return None;
        }
        let n = self.n_pixels as f64;
        let mean = self.values.map(|sum| sum as f64 / n / 255.0);
        let std = std::array::from_fn(|c| {
            let mean: f64 = self.values[c] as f64 / n;
            let variance = self.squares[c] as f64 / n - mean * mean;
            // A channel that never varies is not scaled.
            let std = variance.max(0.0).sqrt() / 255.0;
            if std > 0.0 { std } else { 1.0 }
        });
        Some(ChannelStats { mean, std })
    }
}
