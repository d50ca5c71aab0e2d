//! Annotators' answers, in the form of VQA2.0's files.
//!
//! VQA2.0 has ten answers per question. The soft score and the official accuracy are equal if there are ten answers and
//! the official normalisation leaves them as they are, so the import writes exactly such answers.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::evaluator::normalize::normalize_answer;
use crate::questions::annotations::{Interner, Symbol};

/// Annotators per question.
pub(super) const ANNOTATORS: usize = 10;

/// Distinct answers in the form in which they are written, and the texts in the data that they stand for.
#[derive(Debug, Default)]
pub(super) struct Answers {
    written: Interner,
    /// By the text in the data; `None` if normalisation leaves nothing of it.
    of_text: HashMap<Box<str>, Option<Symbol>, FixedState>,
    /// Texts that normalisation leaves nothing of, in order of appearance.
    vanished: Vec<String>,
}

impl Answers {
    /// The answer that a text stands for; `None` if it is empty, or normalisation leaves nothing of it.
    pub(super) fn insert(&mut self, text: &str) -> Option<Symbol> {
        if let Some(&known) = self.of_text.get(text) {
            return known;
        }
        let normalized = normalized(text);
        let symbol = (!normalized.is_empty()).then(|| self.written.insert(&normalized));
        if symbol.is_none() && !text.trim().is_empty() {
            self.vanished.push(text.to_owned());
        }
        self.of_text.insert(text.into(), symbol);
        symbol
    }

    pub(super) fn get(&self, symbol: Symbol) -> &str {
        self.written.get(symbol)
    }

    pub(super) fn len(&self) -> usize {
        self.written.len()
    }

    /// Texts that the official normalisation reduces to nothing, such as "a" and "the".
    pub(super) fn vanished(&self) -> &[String] {
        &self.vanished
    }
}

/// Normalises a text until the official normalisation leaves it as it is.
fn normalized(text: &str) -> String {
    /// Normalising twice is enough for anything that people write.
    const MAX_TIMES: usize = 8;
    let mut text = text.to_owned();
    for _ in 0..MAX_TIMES {
        let next = normalize_answer(&text).into_owned();
        if next == text {
            break;
        }
        text = next;
    }
    text
}

/// The ten answers to write for those that annotators gave: repeated in turn until there are ten, or the first ten if
/// there are more.
pub(super) fn ten(given: &[Symbol]) -> impl Iterator<Item = Symbol> {
    given.iter().copied().cycle().take(ANNOTATORS)
}

/// The most frequent of the ten answers that are written; among ties, the one that was given first.
pub(super) fn most_frequent(given: &[Symbol]) -> Symbol {
    let count = |symbol: Symbol| ten(given).filter(|&other| other == symbol).count();
    let mut best = (given[0], count(given[0]));
    for &symbol in &given[1..] {
        let n = if symbol == best.0 { 0 } else { count(symbol) };
        if n > best.1 {
            best = (symbol, n);
        }
    }
    best.0
}

/// Derives the type of an answer, as in VQA2.0, for data that has none.
pub(super) fn answer_type(answer: &str) -> &'static str {
    let is_digit_or_mark = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b',' | b':' | b'%');
    match answer {
        "yes" | "no" => "yes/no",
        number if number.as_bytes()[0].is_ascii_digit() && number.bytes().all(is_digit_or_mark) => "number",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evaluator::accuracy::official_accuracy;
    use crate::questions::dictionary::soft_score;

    #[test]
    fn the_forms_of_answers() {
        let mut answers = Answers::default();
        let mut of = |text: &str| answers.insert(text).map(|symbol| answers.get(symbol).to_owned());
        for (text, written) in [
            ("night_stand", Some("night stand")),
            ("The Two dogs.", Some("2 dogs")),
            (" Yes\n", Some("yes")),
            ("dont", Some("don't")),
            ("1,000", Some("1000")),
            ("", None),
            ("  ", None),
            ("a", None),
            ("?", None),
        ] {
            assert_eq!(of(text).as_deref(), written, "{text}");
        }
        assert_eq!(answers.vanished(), ["a", "?"]);
        for (answer, kind) in
            [("yes", "yes/no"), ("no", "yes/no"), ("2", "number"), ("10:30", "number"), ("2 dogs", "other")]
        {
            assert_eq!(answer_type(answer), kind);
        }
    }

    #[test]
    fn there_are_ten() {
        assert_eq!(ten(&[7]).collect::<Vec<_>>(), [7; 10]);
        assert_eq!(ten(&[1, 2, 3]).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(ten(&[4; 12]).count(), 10);
        assert_eq!(most_frequent(&[1, 2, 2, 3, 1]), 1);
        assert_eq!(most_frequent(&[3, 2, 2]), 2);
    }

    proptest! {
        /// What the import is for: the two metrics agree, whatever the annotators answered.
        #[test]
        fn soft_score_and_official_accuracy_agree(given in prop::collection::vec("[a-d_.,' T2-]{1,6}", 1..13)) {
            let mut answers = Answers::default();
            let symbols: Vec<Symbol> = given.iter().filter_map(|text| answers.insert(text)).collect();
            prop_assume!(!symbols.is_empty());
            let written: Vec<&str> = ten(&symbols).map(|symbol| answers.get(symbol)).collect();
            for &symbol in &symbols {
                let answer = answers.get(symbol);
                prop_assert_eq!(normalize_answer(answer), answer);
                let n = written.iter().filter(|&&other| other == answer).count();
                let official = official_accuracy(answer, &written);
                prop_assert!((official - f64::from(soft_score(n))).abs() < 1e-6, "{} {:?}", answer, written);
            }
        }
    }
}
