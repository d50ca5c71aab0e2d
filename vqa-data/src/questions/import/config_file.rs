//! The config to start from. Its values for small data are in `config.toml` beside this file.

use std::path::Path;

use crate::questions::import::split_name::SplitName;
use crate::questions::tokenize::tokenize;

/// The config with `{…}` for values that depend on the data.
const TEMPLATE: &str = include_str!("config.toml");

/// The file of all pictures' features, beside the config.
pub(super) const FEATURES: &str = "features.h5";

/// Questions are cut to a number of words that at least this share of them does not exceed, within the limits below.
const LEN_SHARE: f64 = 0.99;
const MIN_LEN: usize = 14;
const MAX_LEN: usize = 40;

/// The values that depend on the data.
pub(super) struct Choices {
    pub(super) min_answer_count: usize,
    pub(super) max_question_len: usize,
    /// Whether every question has one answer.
    pub(super) has_one_answer: bool,
}

/// Fills in the config for these splits, each given with whether it has answers.
pub(super) fn config_text(out: &Path, splits: &[(SplitName, bool)], choices: &Choices) -> String {
    let of_split = |&(split, has_answers): &(SplitName, bool)| {
        let name = split.name();
        let annotations = match has_answers {
            true => format!("a_jsons = [\"{}\"]\n", annotations_file(split)),
            false => "# a_jsons = []  # this split has no answers: `vqa predict` writes the model's\n".to_owned(),
        };
        format!(
            "[[data.{name}.composition]]\nq_jsons = [\"{}\"]\n{annotations}features = \"{FEATURES}\"\nimages = \
             \"images.json\"\n",
            questions_file(split)
        )
    };
    let data = splits.iter().map(of_split).collect::<Vec<_>>().join("\n");
    let out = out.display().to_string();
    [
        ("{out}", out.as_str()),
        ("{data}", data.trim_end()),
        ("{min_answer_count}", &choices.min_answer_count.to_string()),
        ("{max_question_len}", &choices.max_question_len.to_string()),
        ("{loss}", if choices.has_one_answer { "softmax" } else { "logistic" }),
    ]
    .into_iter()
    .fold(TEMPLATE.to_owned(), |text, (place, value)| text.replace(place, value))
}

/// The file of a split's questions.
pub(super) fn questions_file(split: SplitName) -> String {
    format!("{}_questions.json", split.name())
}

/// The file of a split's annotations.
pub(super) fn annotations_file(split: SplitName) -> String {
    format!("{}_annotations.json", split.name())
}

/// The number of words to cut questions to.
pub(super) fn max_question_len<'a>(questions: impl Iterator<Item = &'a str>) -> usize {
    let mut buffer = String::new();
    let mut counts = [0usize; MAX_LEN + 1];
    for question in questions {
        counts[tokenize(question, &mut buffer).count().min(MAX_LEN)] += 1;
    }
    let n: usize = counts.iter().sum();
    let mut so_far = 0;
    let fits = |&(_, count): &(usize, usize)| {
        so_far += count;
        so_far as f64 >= LEN_SHARE * n as f64
    };
    counts.into_iter().enumerate().find(fits).map_or(MIN_LEN, |(len, _)| len.clamp(MIN_LEN, MAX_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_questions_fit() {
        let of_words = |n: usize| vec!["word"; n].join(" ");
        let max_len = |lens: &[usize]| {
            let questions: Vec<String> = lens.iter().map(|&n| of_words(n)).collect();
            max_question_len(questions.iter().map(String::as_str))
        };
        assert_eq!(max_len(&[]), 14);
        assert_eq!(max_len(&[3; 100]), 14);
        assert_eq!(max_len(&[&[20; 99][..], &[30]].concat()), 20);
        assert_eq!(max_len(&[20, 30]), 30);
        assert_eq!(max_len(&[500; 10]), 40);
    }

    #[test]
    fn everything_is_filled_in() {
        let choices = Choices { min_answer_count: 3, max_question_len: 20, has_one_answer: true };
        let text = config_text("my/out".as_ref(), &[(SplitName::Train, true), (SplitName::Test, false)], &choices);
        assert!(
            !text.contains("{out}")
                && !text.contains("_answer_count}")
                && !text.contains("{data}")
                && text.contains("loss = \"softmax\"")
                && text.contains("[[data.test.composition]]"),
            "{text}"
        );
    }
}
