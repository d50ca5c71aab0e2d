//! Digests that tell whether dictionaries are the same.

use serde::{Deserialize, Serialize};

use crate::files::fingerprint::Fingerprint;
use crate::questions::dictionary::{AnswerDict, WordDict};

/// Digests of the dictionaries' entries, in order. With other dictionaries, the same question has different tokens, and
/// the same answer a different id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DictFingerprint {
    /// Of the words.
    pub words: String,
    /// Of the answers.
    pub answers: String,
}

impl DictFingerprint {
    /// The digests of two dictionaries.
    pub fn of(words: &WordDict, answers: &AnswerDict) -> DictFingerprint {
        let [mut of_words, mut of_answers] = [Fingerprint::default(), Fingerprint::default()];
        words.words().iter().for_each(|word| of_words.add(word.as_bytes()));
        answers.answers().iter().for_each(|answer| of_answers.add(answer.as_bytes()));
        DictFingerprint { words: of_words.finish(), answers: of_answers.finish() }
    }
}
