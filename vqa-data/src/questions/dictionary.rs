//! Dictionaries that map words and answers to ids and back.

use std::path::Path;

use foldhash::fast::FixedState;
use indexmap::IndexSet;
use indexmap::set::Slice;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::evaluator::normalize::normalize_answer;
use crate::files::atomic::write_atomic;
use crate::files::pickle::is_pickle;
use crate::files::text::open_text;
use crate::questions::annotations::Annotations;
use crate::questions::count_answers::CountAnswers;
use crate::questions::json::from_slice;
use crate::questions::pickled_vocabulary;
use crate::questions::soft_targets::SoftTargets;
use crate::questions::tokenize::tokenize;

/// Strings with ids, counted from 0 in order of first appearance. On disk: a JSON list in that order.
#[derive(Debug, Clone, Default, Eq)]
struct Vocabulary(IndexSet<String, FixedState>);

impl PartialEq for Vocabulary {
    /// Compares the ids too: as sets, they would be equal in any order.
    fn eq(&self, other: &Vocabulary) -> bool {
        self.0.as_slice() == other.0.as_slice()
    }
}

impl Vocabulary {
    /// Returns the id of an entry, adding it if it is new. Only then is it copied: nearly all words are known already.
    fn insert(&mut self, entry: &str) -> usize {
        self.0.get_index_of(entry).unwrap_or_else(|| self.0.insert_full(entry.to_owned()).0)
    }

    fn id(&self, entry: &str) -> Option<u32> {
        self.0.get_index_of(entry).map(|id| id as u32)
    }

    fn load(path: &Path) -> Result<Vocabulary> {
        let text = open_text(path)?;
        let list: Vec<String> = if is_pickle(&text) {
            pickled_vocabulary::entries(&text).map_err(|problem| Error::wrong_format(path, problem))?
        } else {
            from_slice(path, &text)?
        };
        let mut entries = IndexSet::default();
        for entry in list {
            if let (id, false) = entries.insert_full(entry) {
                let problem = format!("\"{}\" appears twice: write the file again with `vqa prepare`", entries[id]);
                return Err(Error::duplicate(path, problem));
            }
        }
        Ok(Vocabulary(entries))
    }

    fn save(&self, path: &Path) -> Result<()> {
        write_atomic(path, &serde_json::to_vec_pretty(&self.0).expect("strings are valid JSON"))
    }
}

/// Questions per task of the thread pool.
const QUESTIONS_AT_A_TIME: usize = 4096;

/// What [`WordDict::encode`] found in a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoded {
    /// Number of words in the question, before cutting.
    pub n_words: usize,
    /// Number of words, within the limit, that the dictionary lacks. They are encoded as padding.
    pub n_unknown: usize,
}

/// The words of the questions. The id after the last word is padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WordDict(Vocabulary);

impl WordDict {
    /// Builds the dictionary of all words in `questions`, in order of first appearance.
    pub fn from_questions<'a>(questions: impl IntoIterator<Item = &'a str>) -> WordDict {
        let questions: Vec<&str> = questions.into_iter().collect();
        // Few pieces, since frequent words are inserted once for each piece.
        let n_pieces = 2 * rayon::current_num_threads();
        let pieces: Vec<Vocabulary> = questions
            .par_chunks(questions.len().div_ceil(n_pieces).max(QUESTIONS_AT_A_TIME))
            .map(|questions| {
                let mut vocabulary = Vocabulary::default();
                let mut buffer = String::new();
                for question in questions {
                    for word in tokenize(question, &mut buffer) {
                        vocabulary.insert(word);
                    }
                }
                vocabulary
            })
            .collect();
        // Merged in order, the pieces' words are in order of first appearance.
        let mut vocabulary = Vocabulary::default();
        vocabulary.0.extend(pieces.into_iter().flat_map(|piece| piece.0));
        WordDict(vocabulary)
    }

    /// Reads a JSON list of words, or the `dictionary.pkl` of bottom-up-attention-vqa, whichever it is.
    ///
    /// # Errors
    ///
    /// When the file is missing, is not a list of strings, or contains a word twice.
    pub fn load(path: &Path) -> Result<WordDict> {
        Vocabulary::load(path).map(WordDict)
    }

    /// Writes the words as a JSON list. The file appears complete or not at all.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.0.save(path)
    }

    /// Number of words, not counting padding; this is also the id of padding.
    pub fn len(&self) -> usize {
        self.0.0.len()
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// The id of padding, which stands for "no word": one after the last word's.
    pub fn padding(&self) -> i64 {
        self.len() as i64
    }

    /// The words in order of their ids.
    pub fn words(&self) -> &Slice<String> {
        self.0.0.as_slice()
    }

    /// The id of a word (lower-case, as [`tokenize`] gives it).
    pub fn id(&self, word: &str) -> Option<u32> {
        self.0.id(word)
    }

    /// Encodes a question into `tokens`: its first `tokens.len()` words, padded in front.
    ///
    /// A word that the dictionary lacks becomes padding, and is counted.
    pub fn encode(&self, question: &str, tokens: &mut [i64]) -> Encoded {
        self.encode_with(question, tokens, &mut String::new())
    }

    /// Like [`WordDict::encode`], with a buffer to reuse.
    pub(crate) fn encode_with(&self, question: &str, tokens: &mut [i64], buffer: &mut String) -> Encoded {
        let (mut n_words, mut n_unknown) = (0, 0);
        for word in tokenize(question, buffer) {
            if n_words < tokens.len() {
                tokens[n_words] = match self.id(word) {
                    Some(id) => i64::from(id),
                    None => {
                        n_unknown += 1;
                        self.padding()
                    }
                };
            }
            n_words += 1;
        }
        let n_kept = n_words.min(tokens.len());
        tokens[n_kept..].fill(self.padding());
        tokens.rotate_right(tokens.len() - n_kept);
        Encoded { n_words, n_unknown }
    }
}

/// The candidate answers, the model's classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerDict {
    candidates: Vocabulary,
    count_answers: CountAnswers,
}

impl AnswerDict {
    /// Builds the dictionary of the normalised answers that appear at least `min_count` times, in order of first
    /// appearance. In VQA2.0's train and val, 3,129 distinct `multiple_choice_answer`s appear at least 9 times.
    pub fn from_answers<'a>(answers: impl IntoIterator<Item = &'a str>, min_count: usize) -> AnswerDict {
        let mut counts = AnswerCounts::default();
        answers.into_iter().for_each(|answer| counts.add(&normalize_answer(answer), 1));
        AnswerDict { candidates: counts.frequent(min_count), count_answers: CountAnswers::Normalized }
    }

    /// Builds the dictionary of the candidates that at least `min_count` annotations have as their
    /// `multiple_choice_answer`, in order of first appearance. `count_answers` says which candidate an answer stands
    /// for.
    pub fn from_annotations<'a>(
        all: impl IntoIterator<Item = &'a Annotations>,
        min_count: usize,
        count_answers: CountAnswers,
    ) -> AnswerDict {
        let mut counts = AnswerCounts::default();
        for annotations in all {
            // Symbols in order of first appearance, and their counts.
            let mut n_seen = vec![0; annotations.strings().len()];
            let mut order = Vec::new();
            for symbol in (0..annotations.len()).map(|i| annotations.multiple_choice_symbol(i)) {
                if n_seen[symbol as usize] == 0 {
                    order.push(symbol);
                }
                n_seen[symbol as usize] += 1;
            }
            for symbol in order {
                counts.add(&count_answers.candidate(annotations.strings().get(symbol)), n_seen[symbol as usize]);
            }
        }
        AnswerDict { candidates: counts.frequent(min_count), count_answers }
    }

    /// Reads a JSON list of answers, or the `trainval_label2ans.pkl` of bottom-up-attention-vqa, whichever it is.
    ///
    /// # Errors
    ///
    /// When the file is missing, is not a list of strings, or contains an answer twice.
    pub fn load(path: &Path, count_answers: CountAnswers) -> Result<AnswerDict> {
        Ok(AnswerDict { candidates: Vocabulary::load(path)?, count_answers })
    }

    /// Writes the answers as a JSON list. The file appears complete or not at all.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.candidates.save(path)
    }

    /// Number of candidate answers.
    pub fn len(&self) -> usize {
        self.candidates.0.len()
    }

    /// Whether there are no answers.
    pub fn is_empty(&self) -> bool {
        self.candidates.0.is_empty()
    }

    /// The answers in order of their ids.
    pub fn answers(&self) -> &Slice<String> {
        self.candidates.0.as_slice()
    }

    /// The id of a candidate.
    pub fn id(&self, answer: &str) -> Option<u32> {
        self.candidates.id(answer)
    }

    /// The soft target of a question: each candidate that an annotator gave, with its score
    /// min(1, 0.3 x number of annotators who gave it), in order of the candidates' ids. Annotators' answers are
    /// normalised first, unless raw ones are counted.
    pub fn soft_target<S: AsRef<str>>(&self, annotators: &[S]) -> Vec<(u32, f32)> {
        let ids = annotators.iter().map(|answer| self.id(&self.count_answers.given(answer.as_ref())));
        soft_target(ids.flatten().collect())
    }

    /// The soft targets of annotations, in order, each distinct answer looked up once.
    pub fn soft_targets(&self, annotations: &Annotations) -> SoftTargets {
        let strings: Vec<&str> = annotations.strings().iter().collect();
        let ids: Vec<Option<u32>> =
            strings.par_iter().map(|answer| self.id(&self.count_answers.given(answer))).collect();
        let starts: Vec<usize> = (0..annotations.len()).step_by(QUESTIONS_AT_A_TIME).collect();
        let pieces: Vec<SoftTargets> = starts
            .par_iter()
            .map(|&start| {
                let mut targets = SoftTargets::default();
                for i in start..(start + QUESTIONS_AT_A_TIME).min(annotations.len()) {
                    let given = annotations.symbols(i).iter().filter_map(|&symbol| ids[symbol as usize]);
                    targets.push(soft_target(given.collect()));
                }
                targets
            })
            .collect();
        let mut targets = SoftTargets::default();
        pieces.iter().for_each(|piece| targets.append(piece));
        targets
    }
}

/// How often candidates appear, in order of first appearance.
#[derive(Default)]
struct AnswerCounts {
    answers: Vocabulary,
    counts: Vec<usize>,
}

impl AnswerCounts {
    fn add(&mut self, answer: &str, n: usize) {
        let id = self.answers.insert(answer);
        self.counts.resize(self.answers.0.len(), 0);
        self.counts[id] += n;
    }

    fn frequent(self, min_count: usize) -> Vocabulary {
        let counted = self.answers.0.into_iter().zip(self.counts);
        Vocabulary(counted.filter(|&(_, n)| n >= min_count).map(|(answer, _)| answer).collect())
    }
}

/// Scores the candidates whose ids the annotators gave.
fn soft_target(mut ids: Vec<u32>) -> Vec<(u32, f32)> {
    ids.sort_unstable();
    ids.chunk_by(|a, b| a == b).map(|same| (same[0], soft_score(same.len()))).collect()
}

/// The soft score of an answer that `n` of ten annotators gave: 0, 0.3, 0.6, 0.9, 1.
pub fn soft_score(n: usize) -> f32 {
    match n {
        0 => 0.0,
        1 => 0.3,
        2 => 0.6,
        3 => 0.9,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::pickle::tests::pickles;
    use crate::questions::annotations::NewAnnotation;

    #[test]
    fn encodes_as_the_design_says() {
        let words = WordDict::from_questions(["What is red?", "is the cat red"]);
        assert_eq!(words.words(), &["what", "is", "red", "the", "cat"]);
        let mut tokens = [0; 4];
        assert_eq!(words.encode("The cat?", &mut tokens), Encoded { n_words: 2, n_unknown: 0 });
        assert_eq!(tokens, [5, 5, 3, 4]);
        assert_eq!(words.encode("what dog is red the cat", &mut tokens), Encoded { n_words: 6, n_unknown: 1 });
        assert_eq!(tokens, [0, 5, 1, 2]);
        assert_eq!(words.encode("", &mut tokens), Encoded { n_words: 0, n_unknown: 0 });
        assert_eq!(tokens, [5; 4]);
    }

    #[test]
    fn soft_targets_count_annotators() {
        let answers = AnswerDict::from_answers(["yes", "2", "Two", "no"], 1);
        assert_eq!(answers.answers(), &["yes", "2", "no"]);
        let target = answers.soft_target(&["two", "2", "2.", "maybe", "yes", "2"]);
        assert_eq!(target, [(0, 0.3), (1, 1.0)]);
    }

    /// Expected values are those that tools/compute_softscore.py of bottom-up-attention-vqa computes, under Python 3,
    /// from these annotations with a minimum of 2.
    #[test]
    fn raw_answers_are_counted_as_the_original_counts_them() {
        let questions: [(&str, &[&str]); 6] = [
            ("Two.", &["two", "2", "2", "Two."]),
            ("2", &["2", "2", "2", "2"]),
            ("t-shirt", &["t-shirt", "t shirt", "t shirt", "T-shirt"]),
            ("t shirt ", &["t shirt "]),
            ("a-b- ", &["ab", "a b"]),
            ("ab", &["ab", "ab", "Ab", "ab "]),
        ];
        let mut annotations = Annotations::new();
        for (question_id, (answer, given)) in (0..).zip(questions) {
            let new = NewAnnotation {
                question_id,
                image_id: None,
                question_type: None,
                answer_type: None,
                multiple_choice_answer: Some(answer),
            };
            annotations.push(new, given.iter().copied());
        }
        let targets = |count_answers| {
            let answers = AnswerDict::from_annotations([&annotations], 2, count_answers);
            let targets = answers.soft_targets(&annotations);
            let of = |i| targets.of(i).collect::<Vec<_>>();
            for (i, (_, given)) in questions.iter().enumerate() {
                assert_eq!(answers.soft_target(given), of(i));
            }
            (answers.answers().iter().cloned().collect::<Vec<_>>(), (0..questions.len()).map(of).collect::<Vec<_>>())
        };
        let (answers, scores) = targets(CountAnswers::Raw);
        assert_eq!(answers, ["2", "t shirt", "ab"]);
        assert_eq!(scores, [vec![(0, 0.6)], vec![(0, 1.0)], vec![(1, 0.6)], vec![], vec![(2, 0.3)], vec![(2, 0.6)]]);
        let (answers, scores) = targets(CountAnswers::Normalized);
        assert_eq!(answers, ["2", "t shirt"]);
        assert_eq!((&*scores[0], &*scores[2], &*scores[5]), (&[(0, 1.0)][..], &[(1, 1.0)][..], &[][..]));
    }

    #[test]
    fn a_dictionary_survives_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("words.json");
        let words = WordDict::from_questions(["what's \"that\" ☃"]);
        words.save(&path).unwrap();
        assert_eq!(WordDict::load(&path).unwrap(), words);
        assert_ne!(WordDict::from_questions(["a b"]), WordDict::from_questions(["b a"]), "other ids");
        std::fs::write(&path, r#"["a", "b", "a"]"#).unwrap();
        assert!(WordDict::load(&path).unwrap_err().to_string().contains("\"a\" appears twice"));
    }

    /// With the ids of the original repository, whatever the pickle's protocol and the file's name.
    #[test]
    fn dictionaries_of_the_original_repository() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dictionary");
        let words = ["what", "'s", "café", "☃ 😀", "a\\u0041\\", "q\"'\n", ""];
        for name in ["label2ans", "dictionary", "ans2label"] {
            for pickle in pickles(name) {
                std::fs::write(&path, pickle).unwrap();
                assert_eq!(WordDict::load(&path).unwrap().words(), &words, "{name}");
                assert_eq!(AnswerDict::load(&path, CountAnswers::Normalized).unwrap().answers(), &words, "{name}");
            }
        }
        let problem = |pickle: &[u8]| {
            std::fs::write(&path, pickle).unwrap();
            AnswerDict::load(&path, CountAnswers::Normalized).unwrap_err().to_string()
        };
        for name in ["dict", "numbers"] {
            for pickle in pickles(name) {
                let problem = problem(&pickle);
                assert!(problem.contains("trainval_label2ans.pkl"), "{problem}");
            }
        }
        assert!(problem(b"\x80\x02}(U\x01aK\x00U\x01bK\x02u.").contains("\"b\" has the id 2, but 1 comes next"));
        assert!(problem(b"\x80\x02]}U\x01aK\x00sa]U\x01bae.").contains("not a readable pickle"));
        assert!(problem(b"\x80\x02](}U\x01aK\x00s]U\x01bae.").contains("ids of its dict"));
        assert!(problem(b"\x80\x02](U\x01aU\x01ae.").contains("\"a\" appears twice"));
    }
}
