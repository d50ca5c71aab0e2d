//! Warnings about annotations that affect how an accuracy is to be read.

use crate::questions::annotations::Annotations;

/// Answers that a question needs to reach an accuracy of 1: each annotator is left out in turn, and three others must
/// agree.
const ENOUGH_ANSWERS: usize = 4;

/// Warns if the official accuracy of a split, called `name`, cannot reach 100, or the official script would compute a
/// different one.
pub fn warn_of_accuracy(name: &str, annotations: &Annotations) {
    warn_of_few_answers([(name, annotations)]);
    warn_of_missing_answer_ids(annotations);
}

/// Warns, once for all splits, if any questions have fewer than four answers. Each split is given as its name and its
/// annotations.
pub fn warn_of_few_answers<'a>(splits: impl IntoIterator<Item = (&'a str, &'a Annotations)>) {
    let few: Vec<String> = splits
        .into_iter()
        .map(|(name, annotations)| (name, annotations.n_with_fewer_answers(ENOUGH_ANSWERS), annotations.len()))
        .filter(|&(_, n_few, _)| n_few > 0)
        .map(|(name, n_few, n)| format!("{n_few} of {n} questions of {name}"))
        .collect();
    if !few.is_empty() {
        tracing::warn!(
            "{} have fewer than four answers: their official accuracy cannot reach 100, which takes three other \
             annotators who agree",
            few.join(" and ")
        );
    }
}

/// Warns if the official script would compute a different accuracy from these annotations, and says why.
fn warn_of_missing_answer_ids(annotations: &Annotations) {
    let n = annotations.n_without_answer_ids();
    if n > 0 {
        tracing::warn!(
            "{n} of {} questions have answers without an answer_id of their own: here every answer counts; the \
             official script, which compares whole entries, drops all equal answers at once, and reports a lower \
             accuracy",
            annotations.len()
        );
    }
}
