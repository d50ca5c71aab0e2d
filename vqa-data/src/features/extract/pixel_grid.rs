//! Pixels as features.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::features::extract::channel_stats::ChannelStats;
use crate::features::extract::grid::Grid;
use crate::features::extractor::{Extractor, Prepared, RegionCount};
use crate::features::extractor_info::ExtractorInfo;
use crate::features::source::ImageRegions;

/// The extractor that needs no network: the features of a region are its standardised pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelGrid {
    /// How pictures are cut.
    pub grid: Grid,
    /// How pixels are standardised, which must be the same for all files that a model sees.
    pub stats: ChannelStats,
}

/// A [`PixelGrid`] as feature files and checkpoints store it.
#[derive(Serialize, Deserialize)]
struct Settings {
    kind: String,
    grid: [u32; 2],
    whole: bool,
    patch: u32,
    mean: [f64; 3],
    deviation: [f64; 3],
}

impl PixelGrid {
    /// The [`ExtractorInfo::kind`] of this extractor.
    pub const KIND: &str = "grid";

    /// Builds the extractor that `info` describes.
    ///
    /// # Errors
    ///
    /// When it describes an extractor of another kind, or one that gives no features.
    pub fn from_info(info: &ExtractorInfo) -> Result<PixelGrid, String> {
        let Settings { kind, grid: [rows, columns], whole, patch, mean, deviation } = info.settings()?;
        if kind != PixelGrid::KIND {
            return Err(format!("the features are of kind \"{kind}\", not the pixels of a grid"));
        }
        let grid = Grid { rows, columns, whole, patch };
        let has_cells = (1..=Grid::MOST_CELLS).contains(&rows) && (1..=Grid::MOST_CELLS).contains(&columns);
        let is_usable = has_cells && (1..=Grid::MOST_PATCH).contains(&patch) && deviation.iter().all(|&std| std > 0.0);
        if !is_usable {
            return Err(format!("{info} makes no features"));
        }
        Ok(PixelGrid { grid, stats: ChannelStats { mean, std: deviation } })
    }
}

impl Extractor for PixelGrid {
    fn info(&self) -> ExtractorInfo {
        let PixelGrid { grid: Grid { rows, columns, whole, patch }, stats } = *self;
        ExtractorInfo::of(&Settings {
            kind: PixelGrid::KIND.to_owned(),
            grid: [rows, columns],
            whole,
            patch,
            mean: stats.mean,
            deviation: stats.std,
        })
    }

    fn feature_dim(&self) -> usize {
        self.grid.feature_dim()
    }

    fn n_regions(&self) -> RegionCount {
        RegionCount::Fixed(self.grid.n_regions())
    }

    fn min_size(&self) -> [u32; 2] {
        self.grid.min_size()
    }

    /// Returns 1: each picture is processed alone, so that larger batches gain nothing.
    fn batch_size(&self) -> usize {
        1
    }

    fn prepare(&self, picture: &RgbImage) -> Result<Prepared, String> {
        self.grid.regions(picture, &self.stats).map(Prepared::Regions)
    }

    fn extract(&self, pictures: &[Prepared]) -> Result<Vec<ImageRegions>> {
        let regions = |prepared: &Prepared| match prepared {
            Prepared::Regions(regions) => Ok(regions.clone()),
            Prepared::Pixels { pixels, .. } => self.grid.regions(pixels, &self.stats).map_err(Error::invalid),
        };
        pictures.iter().map(regions).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_description_makes_it_again() {
        let grid = Grid { rows: 2, columns: 3, whole: true, patch: 4 };
        let pixels = PixelGrid { grid, stats: ChannelStats { mean: [0.1, 0.2, 0.3], std: [0.25, 0.1 + 0.2, 1e-3] } };
        let info = ExtractorInfo::parse(&pixels.info().to_string());
        assert_eq!(info.kind(), Some("grid"));
        assert_eq!(PixelGrid::from_info(&info).unwrap(), pixels);
        for (slip, words) in [
            (r#"{"kind": "grid", "grid": [2, 2]}"#, "missing field `whole`"),
            (r#"{"kind":"x","grid":[2,2],"whole":true,"patch":4,"mean":[0,0,0],"deviation":[1,1,1]}"#, "kind \"x\""),
            (r#"{"kind":"grid","grid":[0,2],"whole":true,"patch":4,"mean":[0,0,0],"deviation":[1,1,1]}"#, "makes no"),
            (r#"{"kind":"grid","grid":[1,2],"whole":true,"patch":4,"mean":[0,0,0],"deviation":[1,0,1]}"#, "makes no"),
        ] {
            let error = PixelGrid::from_info(&ExtractorInfo::parse(slip)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let picture = RgbImage::from_fn(8, 6, |x, y| image::Rgb([x as u8, y as u8, 7]));
        assert_eq!(pixels.regions(&picture).unwrap(), grid.regions(&picture, &pixels.stats).unwrap());
        assert!(pixels.regions(&RgbImage::new(1, 1)).unwrap_err().to_string().contains("too few"));
    }
}
