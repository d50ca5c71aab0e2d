//! Question types: how questions begin.

/// How VQA2.0's questions begin, the most frequent first: `QuestionTypes/mscoco_question_types.txt` of
/// GT-Vision-Lab/VQA.
pub const QUESTION_BEGINNINGS: [&str; 64] = [
    "how many",
    "is the",
    "what",
    "what color is the",
    "what is the",
    "is this",
    "is this a",
    "what is",
    "are the",
    "what kind of",
    "is there a",
    "what type of",
    "is it",
    "what are the",
    "where is the",
    "is there",
    "does the",
    "what color are the",
    "are these",
    "are there",
    "which",
    "is",
    "what is the man",
    "is the man",
    "are",
    "how",
    "does this",
    "what is on the",
    "what does the",
    "how many people are",
    "what is in the",
    "what is this",
    "do",
    "what are",
    "are they",
    "what time",
    "what sport is",
    "are there any",
    "is he",
    "what color is",
    "why",
    "where are the",
    "what color",
    "who is",
    "what animal is",
    "is the woman",
    "is this an",
    "do you",
    "how many people are in",
    "what room is",
    "has",
    "is this person",
    "can you",
    "why is the",
    "is the person",
    "what is the color of the",
    "what is the person",
    "could",
    "was",
    "is that a",
    "what number is",
    "what is the name",
    "what brand",
    "what is the woman",
];

/// VQA2.0's type for all other questions.
const OTHER: &str = "none of the above";

/// The type of a question, as in VQA2.0: the longest of [`QUESTION_BEGINNINGS`] that the question begins with, in full
/// words.
pub(super) fn question_type(question: &str) -> &'static str {
    let begins_with = |beginning: &&&str| {
        let mut words = question.split_whitespace().map(|word| word.trim_end_matches([',', '?', '.']));
        beginning.split(' ').all(|wanted| words.next().is_some_and(|word| word.eq_ignore_ascii_case(wanted)))
    };
    QUESTION_BEGINNINGS.iter().filter(begins_with).max_by_key(|beginning| beginning.len()).copied().unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::question_type;

    /// From VQA2.0's own annotations.
    #[test]
    fn the_longest_beginning_is_the_type() {
        for (question, of_vqa2) in [
            ("What is this photo taken looking through?", "what is this"),
            ("What position is this man playing?", "what"),
            ("What color is the players shirt?", "what color is the"),
            ("Is this man a professional baseball player?", "is this"),
            ("How many  people are in the picture?", "how many people are in"),
            ("Can you see a dog?", "can you"),
            ("Whatever is it?", "none of the above"),
            ("Which?", "which"),
            ("", "none of the above"),
        ] {
            assert_eq!(question_type(question), of_vqa2, "{question}");
        }
    }
}
