//! Splitting questions into words, as `bottom-up-attention-vqa` does.

use crate::python_text::{lower, split};

/// Splits a question into words: lower-cased, `,` and `?` removed, `'s` a word of its own, split on white
/// space.
///
/// The words are written into `buffer`, which is cleared first and can be reused.
///
/// ```
/// let mut buffer = String::new();
/// let words: Vec<&str> = vqa_data::questions::tokenize("What's the man's hat, red?", &mut buffer).collect();
/// assert_eq!(words, ["what", "'s", "the", "man", "'s", "hat", "red"]);
/// ```
pub fn tokenize<'a>(question: &str, buffer: &'a mut String) -> impl Iterator<Item = &'a str> {
    buffer.clear();
    if question.is_ascii() {
        // Nearly every question is ASCII, whose length does not depend on case: it is lower-cased in place.
        buffer.push_str(question);
        buffer.make_ascii_lowercase();
    } else {
        buffer.push_str(&lower(question));
    }
    if question.contains([',', '?']) {
        buffer.retain(|character| character != ',' && character != '?');
    }
    if buffer.contains("'s") {
        *buffer = buffer.replace("'s", " 's");
    }
    split(buffer)
}

#[cfg(test)]
mod tests {
    use super::tokenize;

    /// Expected values from Python:
    /// `q.lower().replace(',', '').replace('?', '').replace("'s", " 's").split()`.
    #[test]
    fn agrees_with_python() {
        let cases: [(&str, &[&str]); 9] = [
            ("Is this a  cat?", &["is", "this", "a", "cat"]),
            ("What's up, doc??", &["what", "'s", "up", "doc"]),
            ("the girls' dog's", &["the", "girls'", "dog", "'s"]),
            ("it'?s", &["it", "'s"]),
            ("IT'?S A\u{b}b", &["it", "'s", "a", "b"]),
            ("\tÉtÉ\u{a0}x\n", &["été", "x"]),
            ("?,", &[]),
            ("ΟΔΟΣ, ΣΑΣ?", &["οδος", "σας"]),
            ("a\u{1c}b\u{1f}", &["a", "b"]),
        ];
        for (question, words) in cases {
            let mut buffer = String::from("left over");
            assert_eq!(tokenize(question, &mut buffer).collect::<Vec<_>>(), words, "{question}");
        }
    }
}
