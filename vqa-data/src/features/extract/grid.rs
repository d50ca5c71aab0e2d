//! Images cut into the cells of a grid.

use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::error::Result;
use crate::features::extract::channel_stats::ChannelStats;
use crate::features::source::ImageRegions;

/// How images are cut into regions. Each cell of the grid, row by row, and then the whole image if
/// wanted, is resized to P x P pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Cells from top to bottom.
    pub rows: u32,
    /// Cells from left to right.
    pub columns: u32,
    /// Whether the whole image is a region too, the last one.
    pub whole: bool,
    /// P, the side in pixels that every region is resized to.
    pub patch: u32,
}

impl Grid {
    /// The largest number of rows, and of columns.
    pub const MOST_CELLS: u32 = 256;

    /// The largest [`Grid::patch`].
    pub const MOST_PATCH: u32 = 1024;

    /// Number of regions, K.
    pub fn n_regions(&self) -> usize {
        self.rows as usize * self.columns as usize + usize::from(self.whole)
    }

    /// Length of a feature vector, D = 3 P².
    pub fn feature_dim(&self) -> usize {
        (self.patch as usize).saturating_pow(2).saturating_mul(3)
    }

    /// The smallest width and height of an image, in pixels, that can be cut into its cells.
    pub fn min_size(&self) -> [u32; 2] {
        [self.columns, self.rows]
    }

    /// Cuts an image into its regions. Features are channel by channel, each P rows of P pixels,
    /// (value / 255 - mean) / std.
    ///
    /// # Errors
    ///
    /// When the image has fewer pixels than the grid has cells, in either direction.
    pub fn regions(&self, image: &RgbImage, stats: &ChannelStats) -> Result<ImageRegions, String> {
        let (width, height) = image.dimensions();
        if width < self.columns || height < self.rows {
            return Err(format!("{width} x {height} pixels are too few for {} x {} cells", self.rows, self.columns));
        }
        let edge = |i: u32, n: u32, length: u32| (u64::from(i) * u64::from(length) / u64::from(n)) as u32;
        let mut boxes = Vec::with_capacity(self.n_regions() * 4);
        let mut features = Vec::with_capacity(self.n_regions() * self.feature_dim());
        let mut add = |x1: u32, y1: u32, x2: u32, y2: u32| {
            boxes.extend([x1, y1, x2, y2].map(|corner| corner as f32));
            let region = imageops::crop_imm(image, x1, y1, x2 - x1, y2 - y1);
            let patch = if (x2 - x1, y2 - y1) == (self.patch, self.patch) {
                region.to_image()
            } else {
                imageops::resize(&*region, self.patch, self.patch, FilterType::Triangle)
            };
            for channel in 0..3 {
                let scale = 1.0 / (255.0 * stats.std[channel]);
                let shift = stats.mean[channel] / stats.std[channel];
                features.extend(patch.pixels().map(|pixel| (f64::from(pixel.0[channel]) * scale - shift) as f32));
            }
        };
        for row in 0..self.rows {
            let (y1, y2) = (edge(row, self.rows, height), edge(row + 1, self.rows, height));
            for column in 0..self.columns {
                add(edge(column, self.columns, width), y1, edge(column + 1, self.columns, width), y2);
            }
        }
        if self.whole {
            add(0, 0, width, height);
        }
        Ok(ImageRegions { features, boxes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(rows: u32, columns: u32, whole: bool, patch: u32) -> Grid {
        Grid { rows, columns, whole, patch }
    }

    const PLAIN: ChannelStats = ChannelStats { mean: [0.0; 3], std: [1.0 / 255.0; 3] };

    #[test]
    fn cells_tile_the_image() {
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let regions = grid(2, 3, true, 1).regions(&image, &PLAIN).unwrap();
        let boxes: Vec<&[f32]> = regions.boxes.chunks(4).collect();
        assert_eq!(boxes[0], [0.0, 0.0, 2.0, 2.0]);
        assert_eq!(boxes[5], [4.0, 2.0, 7.0, 5.0]);
        assert_eq!(boxes[6], [0.0, 0.0, 7.0, 5.0]);
        let area: f32 = boxes[..6].iter().map(|b| (b[2] - b[0]) * (b[3] - b[1])).sum();
        assert_eq!(area, 35.0);
        assert!(grid(6, 1, false, 1).regions(&image, &PLAIN).is_err());
    }

    #[test]
    fn a_cell_of_the_patch_size_is_its_pixels() {
        let image = RgbImage::from_fn(4, 4, |x, y| image::Rgb([10 * x as u8, 10 * y as u8, 200]));
        let regions = grid(2, 2, false, 2).regions(&image, &PLAIN).unwrap();
        let second: Vec<f32> = regions.features[12..24].iter().map(|x| x.round()).collect();
        assert_eq!(second, [20.0, 30.0, 20.0, 30.0, 0.0, 0.0, 10.0, 10.0, 200.0, 200.0, 200.0, 200.0]);
    }
}
