//! Datasets whose regions are in feature files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::batches::dataset::Dataset;
use crate::error::{Error, Result};
use crate::features::file::FeatureFile;
use crate::features::source::RegionSource;
use crate::questions::dictionary::{AnswerDict, WordDict};
use crate::questions::split::{SourceConfig, Split, SplitConfig};

/// Opens the feature files that a split's config names, if it names any, and closes them again, so that problems with
/// them are found before a dataset is built.
///
/// # Errors
///
/// Those of [`FeatureFile::open`].
pub fn check_features(config: &SplitConfig) -> Result<()> {
    config.composition.iter().filter_map(|source| source.features.as_deref()).try_for_each(|path| {
        FeatureFile::open(path)?;
        Ok(())
    })
}

/// Opens the feature file of each source. Sources with the same file share it.
///
/// # Errors
///
/// Those of [`FeatureFile::open`]; and when a source names no feature file.
pub fn open_sources(composition: &[SourceConfig]) -> Result<Vec<Arc<dyn RegionSource>>> {
    let mut open: HashMap<&Path, Arc<dyn RegionSource>> = HashMap::new();
    let mut sources = Vec::new();
    for source in composition {
        let Some(path) = source.features.as_deref() else {
            return Err(Error::invalid(
                "a source of the split names no feature file: add features = \"…\" to its composition",
            ));
        };
        if !open.contains_key(path) {
            open.insert(path, Arc::new(FeatureFile::open(path)?));
        }
        sources.push(open[path].clone());
    }
    Ok(sources)
}

impl Dataset {
    /// Opens the feature files that a split's config names, and joins them with the split. Sources with the same file
    /// share it.
    ///
    /// # Errors
    ///
    /// Those of [`FeatureFile::open`] and [`Dataset::new`]; and when a source names no feature file.
    pub fn open(
        split: Split,
        config: &SplitConfig,
        words: &WordDict,
        answers: &AnswerDict,
        max_len: usize,
    ) -> Result<Dataset> {
        Dataset::new(split, words, answers, max_len, open_sources(&config.composition)?)
    }
}
