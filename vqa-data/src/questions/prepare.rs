//! Dictionaries from the questions and annotations, and what a training run will see of them.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::evaluator::caveats::warn_of_few_answers;
use crate::files::mmap::map_file;
use crate::files::pickle::is_pickle;
use crate::questions::count_answers::CountAnswers;
use crate::questions::dictionary::{AnswerDict, WordDict};
use crate::questions::encode::{EncodedQuestions, SplitReport};
use crate::questions::split::{Split, SplitConfig};

/// `[dict]` in a config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DictConfig {
    /// The word dictionary: a JSON list, or the original repository's `dictionary.pkl`, which is used as it is.
    pub words: PathBuf,
    /// The answer dictionary: a JSON list, or the original repository's `trainval_label2ans.pkl`, which is used as it
    /// is.
    pub answers: PathBuf,
    /// How often an answer must appear to become a candidate.
    pub min_answer_count: usize,
    /// The form of an answer by which candidates and annotators' answers are counted.
    pub count_answers: CountAnswers,
    /// The maximum number of words in a question; longer ones are cut.
    pub max_question_len: usize,
}

impl Default for DictConfig {
    fn default() -> DictConfig {
        DictConfig {
            words: "words.json".into(),
            answers: "answers.json".into(),
            min_answer_count: 9,
            count_answers: CountAnswers::Normalized,
            max_question_len: 14,
        }
    }
}

impl DictConfig {
    /// Resolves relative paths against `base`.
    pub fn resolve_paths(&mut self, base: &Path) {
        self.words = base.join(&self.words);
        self.answers = base.join(&self.answers);
    }
}

/// Builds both dictionaries from splits in order: words from the questions of all of them, answers from the
/// `multiple_choice_answer` of all annotations.
pub fn build_dictionaries<'a>(
    splits: impl IntoIterator<Item = &'a Split> + Clone,
    config: &DictConfig,
) -> (WordDict, AnswerDict) {
    let questions = splits.clone().into_iter().flat_map(|split| &split.questions);
    let words = WordDict::from_questions(questions.map(|question| &*question.question));
    let annotations = splits.into_iter().map(|split| &split.annotations);
    (words, AnswerDict::from_annotations(annotations, config.min_answer_count, config.count_answers))
}

/// Like [`build_dictionaries`], but fails if there would be nothing to learn.
///
/// # Errors
///
/// When no split has annotations, or no answer is frequent enough.
pub fn make_dictionaries<'a>(
    splits: impl IntoIterator<Item = &'a Split> + Clone,
    config: &DictConfig,
) -> Result<(WordDict, AnswerDict)> {
    if splits.clone().into_iter().all(|split| split.annotations.is_empty()) {
        let problem = "no split has annotations, so there are no answers: give the training split its a_jsons";
        return Err(Error::invalid(problem));
    }
    let (words, answers) = build_dictionaries(splits, config);
    if answers.is_empty() {
        return Err(Error::invalid(format!(
            "no answer is given at least {} times, so there is nothing to learn: lower dict.min_answer_count",
            config.min_answer_count
        )));
    }
    Ok((words, answers))
}

/// Builds the dictionaries from full splits, writes them to the paths in `config`, and encodes the part of each split
/// that `data` keeps. A quick run on some of the questions thus has the same words and answers as a full one.
///
/// # Errors
///
/// When no split has annotations, no answer is frequent enough, or a dictionary cannot be written or would replace a
/// pickle or a file that is not a dictionary.
pub fn prepare(
    mut splits: IndexMap<String, Split>,
    data: &IndexMap<String, SplitConfig>,
    config: &DictConfig,
) -> Result<(WordDict, AnswerDict, IndexMap<String, SplitReport>)> {
    for path in [&config.words, &config.answers] {
        refuse_to_replace(path)?;
    }
    let (words, answers) = make_dictionaries(splits.values(), config)?;
    warn_of_few_answers(splits.iter().map(|(name, split)| (name.as_str(), &split.annotations)));
    let reports = splits
        .iter_mut()
        .map(|(name, split)| {
            data.get(name).into_iter().for_each(|of_split| split.cut_down(of_split));
            let encoded = EncodedQuestions::new(split, &words, &answers, config.max_question_len);
            (name.clone(), encoded.report(split))
        })
        .collect();
    words.save(&config.words)?;
    answers.save(&config.answers)?;
    Ok((words, answers, reports))
}

/// Refuses to replace anything but a dictionary in JSON. A pickled one is the original repository's, and there are
/// weights that depend on it.
fn refuse_to_replace(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    if is_pickle(&map_file(path)?) {
        let problem = "a pickled dictionary, which is used as it is and not rebuilt: to build new ones, name other \
            files in dict.words and dict.answers";
        return Err(Error::exists(path, problem));
    }
    if WordDict::load(path).is_err() {
        let problem = "exists and is not a dictionary, so it is not replaced: name other files in dict.words and \
            dict.answers, or remove it";
        return Err(Error::exists(path, problem));
    }
    Ok(())
}
