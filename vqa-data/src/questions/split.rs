//! A data split: the questions and annotations of several sources, joined.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::message::{counted, first_few};
use crate::questions::annotations::Annotations;
use crate::questions::image_paths::ImagePaths;
use crate::questions::json::{Question, read_annotations, read_questions};
use crate::random::split_mix_64;

/// One source of a split: `[[data.train.composition]]` in a config file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Questions files.
    pub q_jsons: Vec<PathBuf>,
    /// Annotations files; none for a test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub a_jsons: Vec<PathBuf>,
    /// The feature file, needed only for training and prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<PathBuf>,
    /// Where the images are, for drawing: a path with `{image_id}` or, padded with zeros, `{image_id:012}`; or a JSON
    /// file of ids and paths. See [`ImagePaths`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
}

/// The sources of a split: `[data.train]` in a config file.
///
/// For quick runs, a split can be cut down to some of its questions. Images are drawn in a random but fixed order, each
/// with all of its questions (except perhaps the last), so that a larger part contains every smaller one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// The maximum number of questions to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The fraction of the questions to use, above 0 and at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// The sources, in order.
    pub composition: Vec<SourceConfig>,
}

impl From<Vec<SourceConfig>> for SplitConfig {
    /// A split of all questions of these sources.
    fn from(composition: Vec<SourceConfig>) -> SplitConfig {
        SplitConfig { composition, ..SplitConfig::default() }
    }
}

impl SplitConfig {
    /// The total size of those JSON files that exist, in bytes.
    pub fn json_bytes(&self) -> u64 {
        let paths = self.composition.iter().flat_map(|source| source.q_jsons.iter().chain(&source.a_jsons));
        paths.filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum()
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// When `limit` or `fraction` is out of range, when both are given, or when an `images` cannot be used.
    pub fn validate(&self) -> Result<(), String> {
        match (self.limit, self.fraction) {
            (Some(_), Some(_)) => Err("it has both limit and fraction: give one of them".to_owned()),
            (Some(0), _) => Err("limit = 0, expected at least 1".to_owned()),
            (_, Some(fraction)) if !(fraction > 0.0 && fraction <= 1.0) => {
                Err(format!("fraction = {fraction}, expected a number above 0 and at most 1"))
            }
            _ => Ok(()),
        }?;
        let mut images = self.composition.iter().filter_map(|source| source.images.as_deref());
        images.try_for_each(ImagePaths::check).map_err(|error| error.to_string())
    }

    /// How many of `n` questions to use.
    fn n_used(&self, n: usize) -> usize {
        let part = self.fraction.map_or(n, |fraction| ((n as f64 * fraction).round() as usize).max(1));
        part.min(self.limit.unwrap_or(n)).min(n)
    }

    /// Resolves relative paths against `base`.
    pub fn resolve_paths(&mut self, base: &Path) {
        for source in &mut self.composition {
            for path in source.q_jsons.iter_mut().chain(&mut source.a_jsons).chain(&mut source.features) {
                *path = base.join(&*path);
            }
            if let Some(images) = &mut source.images {
                *images = base.join(&*images).to_string_lossy().into_owned();
            }
        }
    }
}

/// The questions of a split with their annotations.
#[derive(Debug, Clone, Default)]
pub struct Split {
    /// The questions of all sources, in order.
    pub questions: Vec<Question>,
    /// The annotation of each question; empty if the split has no annotations.
    pub annotations: Annotations,
    /// The index of the first question of each source, followed by the number of questions.
    pub source_starts: Vec<usize>,
    /// The number of questions before the split was cut down, if it was.
    pub cut_from: Option<usize>,
}

impl Split {
    /// Reads and joins the JSON files of a split.
    ///
    /// # Errors
    ///
    /// When [`SplitConfig::validate`] fails; when a file cannot be read; when a question lacks its annotation or an
    /// annotation its question, in any source that has annotations; when a question id appears twice in a source; when
    /// some sources have annotations and others do not; when there are no questions.
    pub fn load(config: &SplitConfig) -> Result<Split> {
        Split::load_with(config, &|_| {})
    }

    /// Like [`Split::load`], but calls `on_file` after each file with its size in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Split::load`].
    pub fn load_with(config: &SplitConfig, on_file: &(dyn Fn(u64) + Sync)) -> Result<Split> {
        let mut split = Split::load_whole(config, on_file)?;
        split.cut_down(config);
        Ok(split)
    }

    /// Refuses a split whose sources share question ids, since a results file has one answer for each id.
    ///
    /// # Errors
    ///
    /// When two questions have the same id; the message names the first few such ids.
    pub fn check_for_results(&self) -> Result<()> {
        let mut shared = shared_ids(&self.questions);
        if shared.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "its sources share {} ({}), but a results file has one answer for each id: make a split of each source, and \
             answer one after the other",
            counted(shared.len(), "question id"),
            first_few(&mut shared)
        )))
    }

    /// Like [`Split::load_with`], but keeps all questions, whatever `limit` and `fraction` say.
    ///
    /// # Errors
    ///
    /// Those of [`Split::load`].
    pub fn load_whole(config: &SplitConfig, on_file: &(dyn Fn(u64) + Sync)) -> Result<Split> {
        config.validate().map_err(Error::invalid)?;
        let mut split = Split { source_starts: vec![0], ..Split::default() };
        for source in &config.composition {
            let (questions, annotations) = rayon::join(
                || read_all(&source.q_jsons, read_questions, on_file),
                || read_all(&source.a_jsons, read_annotations, on_file),
            );
            let questions: Vec<Question> = questions?.into_iter().flatten().collect();
            refuse_twins(source, &questions)?;
            let mut annotations = annotations?.into_iter().fold(Annotations::new(), |mut all, of_file| {
                all.append(of_file);
                all
            });
            if !source.a_jsons.is_empty() {
                join(source, &questions, &mut annotations)?;
            }
            let annotated_before = !split.annotations.is_empty();
            if !split.questions.is_empty() && annotated_before == source.a_jsons.is_empty() {
                let message = format!(
                    "the source with {} {} annotations, unlike the ones before it: \
                     give all sources of a split their a_jsons, or none",
                    in_words(&source.q_jsons),
                    if annotated_before { "has no" } else { "has" },
                );
                return Err(Error::Mismatch { paths: source.q_jsons.clone(), message });
            }
            split.questions.extend(questions);
            split.annotations.append(annotations);
            split.source_starts.push(split.questions.len());
        }
        if split.questions.is_empty() {
            return Err(Error::invalid("the split has no questions: give it a [[data.NAME.composition]] with q_jsons"));
        }
        Ok(split)
    }

    /// Keeps as many questions as `limit` or `fraction` allows, in order: those of images drawn by their ids alone.
    pub fn cut_down(&mut self, config: &SplitConfig) {
        let n = config.n_used(self.len());
        if n >= self.len() {
            return;
        }
        self.cut_from = Some(self.len());
        let mut drawn: Vec<u32> = (0..self.len() as u32).collect();
        drawn.sort_by_key(|&question| split_mix_64(self.questions[question as usize].image_id));
        drawn.truncate(n);
        drawn.sort_unstable();
        let n_drawn_before = |start: &usize| drawn.partition_point(|&question| (question as usize) < *start);
        self.source_starts = self.source_starts.iter().map(n_drawn_before).collect();
        if !self.annotations.is_empty() {
            self.annotations.reorder(&drawn);
        }
        let mut kept = drawn.iter().copied().peekable();
        let mut index = 0;
        self.questions.retain(|_| {
            index += 1;
            kept.next_if_eq(&(index - 1)).is_some()
        });
    }

    /// Returns the index of a question's source.
    pub fn source_of(&self, question: usize) -> usize {
        self.source_starts.partition_point(|&start| start <= question) - 1
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}

/// Reads files one after another.
fn read_all<T>(paths: &[PathBuf], read: fn(&Path) -> Result<T>, on_file: &(dyn Fn(u64) + Sync)) -> Result<Vec<T>> {
    let one = |path: &PathBuf| {
        let content = read(path)?;
        on_file(std::fs::metadata(path).map_or(0, |file| file.len()));
        Ok(content)
    };
    paths.iter().map(one).collect()
}

/// Puts annotations into the order of their questions.
fn join(source: &SourceConfig, questions: &[Question], annotations: &mut Annotations) -> Result<()> {
    let mismatch = |message: String| Error::Mismatch {
        paths: source.q_jsons.iter().chain(&source.a_jsons).cloned().collect(),
        message,
    };
    let n_annotations = annotations.len();
    let in_order = n_annotations == questions.len()
        && questions.iter().enumerate().all(|(i, question)| annotations.question_id(i) == question.question_id);
    if !in_order {
        let mut index_of: HashMap<u64, u32, FixedState> =
            (0..n_annotations).map(|index| (annotations.question_id(index), index as u32)).collect();
        if index_of.len() < n_annotations {
            let remedy = match source.a_jsons[..] {
                [_] => "keep one annotation of each",
                _ => "is a file listed twice in a_jsons?",
            };
            let message = format!(
                "{}: {} annotated twice: {remedy}",
                in_words(&source.a_jsons),
                counted(n_annotations - index_of.len(), "question")
            );
            return Err(Error::Duplicate { paths: source.a_jsons.clone(), message });
        }
        let mut order = Vec::with_capacity(questions.len());
        let mut missing = Vec::new();
        for question in questions {
            match index_of.remove(&question.question_id) {
                Some(index) => order.push(index),
                None => missing.push(question.question_id),
            }
        }
        if !missing.is_empty() {
            return Err(mismatch(format!(
                "{} of {} questions in {} have no annotation in {} (question ids {}): do these files belong together?",
                missing.len(),
                questions.len(),
                in_words(&source.q_jsons),
                in_words(&source.a_jsons),
                first_few(&mut missing)
            )));
        }
        if !index_of.is_empty() {
            let mut extra: Vec<u64> = index_of.into_keys().collect();
            return Err(mismatch(format!(
                "{} of {n_annotations} annotations in {} have no question in {} (question ids {}): \
                 do these files belong together?",
                extra.len(),
                in_words(&source.a_jsons),
                in_words(&source.q_jsons),
                first_few(&mut extra)
            )));
        }
        annotations.reorder(&order);
    }
    let pairs = questions.iter().zip(annotations.iter());
    for (question, annotation) in pairs {
        if let Some(image_id) = annotation.image_id.filter(|&image_id| image_id != question.image_id) {
            return Err(mismatch(format!(
                "question {} is about image {} in {}, and about image {image_id} in {}: \
                 these files do not belong together",
                question.question_id,
                question.image_id,
                in_words(&source.q_jsons),
                in_words(&source.a_jsons)
            )));
        }
    }
    Ok(())
}

/// Refuses question ids that appear twice in a source. Across sources they may: those of VQA2.0 and Visual Genome
/// overlap by chance.
fn refuse_twins(source: &SourceConfig, questions: &[Question]) -> Result<()> {
    let mut twins = shared_ids(questions);
    if twins.is_empty() {
        return Ok(());
    }
    let remedy = match source.q_jsons[..] {
        [_] => "give each question an id of its own",
        _ => "is a file listed twice in q_jsons?",
    };
    let message = format!(
        "{}: {} used twice ({}): {remedy}",
        in_words(&source.q_jsons),
        counted(twins.len(), "question id"),
        first_few(&mut twins)
    );
    Err(Error::Duplicate { paths: source.q_jsons.clone(), message })
}

/// The question ids that several questions have, in ascending order.
fn shared_ids(questions: &[Question]) -> Vec<u64> {
    let mut ids: Vec<u64> = questions.iter().map(|question| question.question_id).collect();
    ids.par_sort_unstable();
    let mut shared: Vec<u64> = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    shared.dedup();
    shared
}

/// "a.json + b.json".
fn in_words(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path, name: &str, questions: &[u64], annotations: Option<&[u64]>) -> SourceConfig {
        let q = directory.join(format!("{name}_q.json"));
        let a = directory.join(format!("{name}_a.json"));
        let list: Vec<_> = questions
            .iter()
            .map(|id| serde_json::json!({"image_id": id / 10, "question": "why?", "question_id": id}))
            .collect();
        std::fs::write(&q, serde_json::json!({ "questions": list }).to_string()).unwrap();
        if let Some(annotations) = annotations {
            let list: Vec<_> = annotations
                .iter()
                .map(|id| {
                    serde_json::json!({"image_id": id / 10, "question_id": id,
                        "question_type": "why", "answer_type": "other", "multiple_choice_answer": "so",
                        "answers": [{"answer": format!("so{id}")}]})
                })
                .collect();
            std::fs::write(&a, serde_json::json!({ "annotations": list }).to_string()).unwrap();
        }
        SourceConfig {
            q_jsons: vec![q],
            a_jsons: if annotations.is_some() { vec![a] } else { vec![] },
            ..SourceConfig::default()
        }
    }

    fn load(composition: &[SourceConfig]) -> Result<Split, String> {
        Split::load(&composition.to_vec().into()).map_err(|e| e.to_string())
    }

    #[test]
    fn sources_are_joined_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let a = files(directory.path(), "a", &[11, 12, 20], Some(&[20, 11, 12]));
        let b = files(directory.path(), "b", &[5, 3], Some(&[3, 5]));
        let split = load(&[a, b]).unwrap();
        assert_eq!(split.source_starts, [0, 3, 5]);
        let ids: Vec<u64> = split.questions.iter().map(|q| q.question_id).collect();
        assert_eq!(ids, [11, 12, 20, 5, 3]);
        assert_eq!([0, 2, 3, 4].map(|question| split.source_of(question)), [0, 0, 1, 1]);
        assert!(split.questions.iter().zip(split.annotations.iter()).all(|(q, a)| q.question_id == a.question_id));
    }

    #[test]
    fn what_does_not_belong_together_is_counted_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let annotated = files(at, "a", &[10, 11], Some(&[10, 11]));
        let bare = files(at, "b", &[20], None);
        let missing = load(&[files(at, "c", &[1, 2, 3, 4, 5, 6, 7], Some(&[4]))]).unwrap_err();
        assert!(missing.contains("6 of 7 questions") && missing.contains("1, 2, 3, 5, 6, …"), "{missing}");
        let extra = load(&[files(at, "d", &[1], Some(&[1, 8, 7]))]).unwrap_err();
        assert!(extra.contains("2 of 3 annotations") && extra.contains("7, 8"), "{extra}");
        let mut twice = annotated.clone();
        twice.q_jsons.extend(annotated.q_jsons.clone());
        assert!(load(&[twice]).unwrap_err().contains("2 question ids used twice (10, 11): is a file listed twice"));
        let twins = load(&[files(at, "e", &[4, 5, 4], None)]).unwrap_err();
        assert!(twins.contains("e_q.json: 1 question id used twice (4): give each question"), "{twins}");
        let twins = load(&[files(at, "f", &[4, 5], Some(&[4, 4, 5]))]).unwrap_err();
        assert!(twins.contains("f_a.json: 1 question annotated twice: keep one"), "{twins}");
        assert_eq!(load(&[annotated.clone(), annotated.clone()]).unwrap().len(), 4, "Visual Genome's ids overlap");
        assert!(load(&[annotated.clone(), bare.clone()]).unwrap_err().contains("has no annotations"));
        assert!(load(&[bare.clone(), annotated]).unwrap_err().contains("has annotations"));
        assert!(load(&[]).unwrap_err().contains("no questions"));
        assert!(load(&[bare]).unwrap().annotations.is_empty());
    }

    #[test]
    fn a_part_is_of_whole_images_and_within_a_larger_one() {
        let directory = tempfile::tempdir().unwrap();
        // Images 10 to 29 and 25 to 34, five questions each.
        let ids = |images: std::ops::Range<u64>| -> Vec<u64> {
            images.flat_map(|i| (0..5).map(move |q| 10 * i + q)).collect()
        };
        let a = files(directory.path(), "a", &ids(10..30), Some(&ids(10..30)));
        let b = files(directory.path(), "b", &ids(25..35), Some(&ids(25..35)));
        let part = |limit, fraction| {
            Split::load(&SplitConfig { limit, fraction, composition: vec![a.clone(), b.clone()] })
                .map_err(|e| e.to_string())
        };
        let whole = part(None, None).unwrap();
        let mut smaller: Vec<(usize, u64)> = Vec::new();
        for n in [1, 7, 30, 75, 149, 150, 1000] {
            let split = part(Some(n), None).unwrap();
            assert_eq!((split.len(), split.cut_from), (n.min(150), (n < 150).then_some(150)));
            assert_eq!(split.source_starts.last(), Some(&split.len()));
            assert!(split.questions.iter().zip(split.annotations.iter()).all(|(q, a)| q.question_id == a.question_id));
            let keys: Vec<(usize, u64)> =
                (0..split.len()).map(|i| (split.source_of(i), split.questions[i].question_id)).collect();
            assert!(smaller.iter().all(|key| keys.contains(key)), "{n}");
            let order = |key: &(usize, u64)| {
                (0..whole.len()).position(|i| (whole.source_of(i), whole.questions[i].question_id) == *key)
            };
            assert!(keys.is_sorted_by_key(order), "in the order of the files");
            let mut per_image: HashMap<u64, usize> = HashMap::new();
            split.questions.iter().for_each(|question| *per_image.entry(question.image_id).or_default() += 1);
            let n_cut = per_image.iter().filter(|&(&id, &n)| n < if (25..30).contains(&id) { 10 } else { 5 }).count();
            assert!(n_cut <= 1, "{per_image:?}");
            smaller = keys;
        }
        assert_eq!(part(None, Some(0.2)).unwrap().questions, part(Some(30), None).unwrap().questions);
        assert_eq!(part(None, Some(1e-9)).unwrap().len(), 1);
        for (limit, fraction, words) in [
            (Some(1), Some(0.5), "give one of them"),
            (Some(0), None, "limit = 0"),
            (None, Some(0.0), "fraction = 0"),
            (None, Some(1.5), "fraction = 1.5"),
            (None, Some(f64::NAN), "fraction = NaN"),
        ] {
            assert!(part(limit, fraction).unwrap_err().contains(words));
        }
        let test = Split::load(&SplitConfig {
            limit: Some(3),
            composition: vec![files(directory.path(), "t", &[1, 2, 3, 4], None)],
            fraction: None,
        });
        assert_eq!(test.unwrap().len(), 3, "also without annotations");
    }
}
