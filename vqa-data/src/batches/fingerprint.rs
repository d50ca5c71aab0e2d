//! Digests that identify what a dataset is made of.

use serde::{Deserialize, Serialize};

use crate::batches::dataset::Dataset;
use crate::error::Result;
use crate::files::fingerprint::Fingerprint;
use crate::questions::fingerprint::DictFingerprint;

/// Digests of what a model learns from: if they are equal, training can be resumed with the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetFingerprint {
    /// Digests of the dictionaries that the questions are encoded with.
    #[serde(flatten)]
    pub dictionaries: DictFingerprint,
    /// Digest of the questions: ids, images, tokens and soft targets, in order.
    pub questions: String,
    /// Digest of the features: how many, of which dimension and by which extractor, and the values of a few images.
    /// Where the files are stored does not matter.
    pub features: String,
}

impl Dataset {
    /// Computes the digests of the dataset's content.
    ///
    /// # Errors
    ///
    /// When features cannot be read.
    pub fn fingerprint(&self) -> Result<DatasetFingerprint> {
        let questions = self.questions_digest.get_or_init(|| self.digest_questions()).clone();
        let features = self.digest_features()?;
        Ok(DatasetFingerprint { dictionaries: self.dictionaries().clone(), questions, features })
    }

    fn digest_questions(&self) -> String {
        let mut digest = Fingerprint::default();
        let ids = self.split().questions.iter().flat_map(|question| [question.question_id, question.image_id]);
        digest.add(&ids.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        let encoded = self.encoded();
        digest.add(&encoded.tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>());
        let mut targets = Vec::new();
        for question in 0..self.len() {
            for (answer, score) in encoded.targets.of(question) {
                targets.extend((question as u64).to_le_bytes());
                targets.extend(answer.to_le_bytes());
                targets.extend(score.to_le_bytes());
            }
        }
        digest.add(&targets);
        digest.finish()
    }

    fn digest_features(&self) -> Result<String> {
        /// The most images to sample: enough to notice that a file was rebuilt with other settings.
        const SAMPLE: usize = 8;
        let mut digest = Fingerprint::default();
        digest.add(self.extractor().map(ToString::to_string).unwrap_or_default().as_bytes());
        digest.add(&(self.feature_dim() as u64).to_le_bytes());
        let n_regions = (0..self.n_images()).map(|image| self.n_regions(image) as u64);
        digest.add(&n_regions.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        for image in (0..self.n_images()).step_by(self.n_images().div_ceil(SAMPLE).max(1)) {
            let n_regions = self.n_regions(image);
            let mut features = vec![0.0; n_regions * self.feature_dim()];
            let mut boxes = vec![0.0; n_regions * 4];
            self.read_regions(image..image + 1, &mut features, &mut boxes)?;
            for values in [features, boxes] {
                digest.add(&values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
            }
        }
        Ok(digest.finish())
    }
}
