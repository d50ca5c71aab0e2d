//! What a reader of an accuracy must know of the annotations that it was computed with.

use crate::questions::annotations::Annotations;

/// The official accuracy leaves one annotator out, and is 1 where three others agree.
const ENOUGH_ANSWERS: usize = 4;

/// Warns, once for all splits, if questions have fewer than four answers. A split is its name and its annotations.
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

/// Warns if the official script would compute another accuracy with these annotations, and says why.
pub fn warn_of_missing_answer_ids(annotations: &Annotations) {
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
