//! Extraction settings from a feature file, for extracting others like it.

use std::path::Path;

use crate::error::{Error, Result};
use crate::features::extract::channel_stats::ChannelStats;
use crate::features::extract::grid::Grid;
use crate::features::file::FeatureFile;

impl Grid {
    /// The grid and standardisation that a file was extracted with, for extracting others like it.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or was not made by [`Extraction::write`](crate::features::Extraction::write).
    pub fn like(path: &Path) -> Result<(Grid, ChannelStats)> {
        let file = FeatureFile::open(path)?;
        let (grid, mean, std) = (file.attribute("grid"), file.attribute("mean"), file.attribute("std"));
        let (&[rows, columns], &[whole], &[patch], Ok(mean), Ok(std)) =
            (&grid[..], &file.attribute("whole")[..], &file.attribute("patch")[..], mean.try_into(), std.try_into())
        else {
            return Err(Error::wrong_format(
                path,
                "it does not say with which grid, patch, mean and std it was made: \
                 only files from `vqa features extract` do",
            ));
        };
        let grid = Grid { rows: rows as u32, columns: columns as u32, whole: whole != 0.0, patch: patch as u32 };
        let stats = ChannelStats { mean, std };
        if grid.n_regions() == 0 || grid.patch == 0 || stats.std.iter().any(|&std| std.is_nan() || std <= 0.0) {
            return Err(Error::damaged(path, format!("its {grid:?} and {stats:?} make no features: it is damaged")));
        }
        Ok((grid, stats))
    }
}
