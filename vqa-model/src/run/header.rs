//! The header of a checkpoint.

use std::path::Path;

use vqa_data::features::ExtractorInfo;

use crate::error::{Error, Result};
use crate::model::DataDims;
use crate::weights::safetensors::{Header, read_header};

/// The information in the header of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointHeader {
    /// The epoch that it was written after, counted from 1.
    pub epoch: u64,
    /// Mean loss per training question in that epoch.
    pub train_loss: f64,
    /// Mean soft score of the training questions in that epoch, in percent.
    pub train_score: f64,
    /// Mean soft score of the validation questions, in percent, if the epoch was validated.
    pub val_score: Option<f64>,
    /// The soft score of a model that is always right, in percent, if the epoch was validated.
    pub val_upper_bound: Option<f64>,
    /// The sizes that the model was built for.
    pub dims: DataDims,
    /// How the regions that it was trained on were extracted, if their files say so.
    pub extractor: Option<ExtractorInfo>,
}

impl CheckpointHeader {
    /// Converts it to the entries of a file's header.
    pub fn to_header(&self) -> Header {
        let sizes = [
            ("n_words", self.dims.n_words),
            ("n_answers", self.dims.n_answers),
            ("feature_dim", self.dims.feature_dim),
        ];
        let scores = [
            ("train_loss", Some(self.train_loss)),
            ("train_score", Some(self.train_score)),
            ("val_score", self.val_score),
            ("val_upper_bound", self.val_upper_bound),
        ];
        let epoch = [("epoch", self.epoch.to_string())];
        let extractor = self.extractor.as_ref().map(|extractor| (ExtractorInfo::KEY, extractor.to_string()));
        let sizes = sizes.into_iter().map(|(key, size)| (key, size.to_string()));
        let scores = scores.into_iter().filter_map(|(key, score)| Some((key, score?.to_string())));
        epoch
            .into_iter()
            .chain(sizes)
            .chain(scores)
            .chain(extractor)
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    /// Reads the header of a checkpoint.
    ///
    /// # Errors
    ///
    /// When the file is missing or damaged, or is not a checkpoint of a run.
    pub fn read(path: &Path) -> Result<CheckpointHeader> {
        let header = read_header(path)?;
        CheckpointHeader::from_header(&header).ok_or_else(|| {
            let problem = "its header does not say how many words, answers and values per region it was trained on: \
                not a checkpoint of `vqa train`";
            Error::weights_mismatch(path, problem)
        })
    }

    fn from_header(header: &Header) -> Option<CheckpointHeader> {
        fn value<T: std::str::FromStr>(header: &Header, key: &str) -> Option<T> {
            header.get(key)?.parse().ok()
        }
        Some(CheckpointHeader {
            epoch: value(header, "epoch")?,
            train_loss: value(header, "train_loss")?,
            train_score: value(header, "train_score")?,
            val_score: value(header, "val_score"),
            val_upper_bound: value(header, "val_upper_bound"),
            dims: DataDims {
                n_words: value(header, "n_words")?,
                n_answers: value(header, "n_answers")?,
                feature_dim: value(header, "feature_dim")?,
            },
            extractor: header.get(ExtractorInfo::KEY).map(|text| ExtractorInfo::parse(text)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_file() {
        let dims = DataDims { n_words: 5, n_answers: 3, feature_dim: 7 };
        for val_score in [None, Some(0.1 + 0.2)] {
            let header = CheckpointHeader {
                epoch: 2,
                train_loss: 1.0 / 3.0,
                train_score: 40.25,
                val_score,
                val_upper_bound: val_score,
                dims,
                extractor: val_score.map(|_| ExtractorInfo::parse(r#"{"kind":"grid","mean":[0.1,0.2,0.3]}"#)),
            };
            assert_eq!(CheckpointHeader::from_header(&header.to_header()), Some(header));
        }
    }
}
