//! What a dataset is made of, in a few digests.

use serde::{Deserialize, Serialize};

use crate::batches::dataset::Dataset;
use crate::error::Result;
use crate::files::fingerprint::Fingerprint;
use crate::questions::fingerprint::DictFingerprint;

/// Digests of what a model learns from: equal ones mean that training can be resumed with a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetFingerprint {
    /// Of the dictionaries that the questions are encoded with.
    #[serde(flatten)]
    pub dictionaries: DictFingerprint,
    /// Of the questions: ids, images, tokens and soft targets, in order.
    pub questions: String,
    /// Of the features: how many, of which size and by which extractor, and the values of a few images. Where the files
    /// are does not matter.
    pub features: String,
}

impl Dataset {
    /// Digests of what is in it.
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
        /// Enough to notice that a file was made anew in another way.
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
