//! Annotations in compact form: of their millions of answers few are distinct, so each string is kept once.

use foldhash::fast::FixedState;
use indexmap::IndexSet;

/// Interned strings: each is kept once and identified by its symbol.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interner(IndexSet<Box<str>, FixedState>);

/// The index of a string in its [`Interner`].
pub(crate) type Symbol = u32;

impl Interner {
    pub(crate) fn insert(&mut self, text: &str) -> Symbol {
        match self.0.get_index_of(text) {
            Some(index) => index as Symbol,
            None => self.0.insert_full(text.into()).0 as Symbol,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, symbol: Symbol) -> &str {
        &self.0[symbol as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|text| &**text)
    }
}

/// The annotations of many questions, one entry per question, with shared strings.
#[derive(Debug, Clone, Default)]
pub struct Annotations {
    strings: Interner,
    entries: Vec<Entry>,
    /// The annotators' answers of all entries, concatenated.
    answers: Vec<Symbol>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    question_id: u64,
    image_id: Option<u64>,
    question_type: Symbol,
    answer_type: Symbol,
    multiple_choice_answer: Symbol,
    /// The index of its first answer; the number of answers follows.
    first: u32,
    n_answers: u32,
    /// Whether each of its answers has an `answer_id` of its own.
    has_answer_ids: bool,
}

/// What ten people answered to a question, as in `v2_mscoco_train2014_annotations.json`.
#[derive(Clone, Copy)]
pub struct Annotation<'a> {
    /// The question.
    pub question_id: u64,
    /// The image, if the file names it.
    pub image_id: Option<u64>,
    /// The first words of the question, from a fixed list: "what color is the" … "unknown" if the file does not say.
    pub question_type: &'a str,
    /// "yes/no", "number" or "other"; "unknown" if the file does not say.
    pub answer_type: &'a str,
    /// The one answer that represents all; the annotators' most frequent one if the file does not say.
    pub multiple_choice_answer: &'a str,
    strings: &'a Interner,
    answers: &'a [Symbol],
}

impl<'a> Annotation<'a> {
    /// The annotators' answers, in order.
    pub fn answers(&self) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        let strings = self.strings;
        self.answers.iter().map(|&symbol| strings.get(symbol))
    }

    /// The distinct answers, each with the number of annotators who gave it, most frequent first, then in order of
    /// appearance.
    pub fn counted_answers(&self) -> Vec<(String, usize)> {
        counted(self.answers).into_iter().map(|(symbol, n)| (self.strings.get(symbol).to_owned(), n)).collect()
    }
}

impl std::fmt::Debug for Annotation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Annotation")
            .field("question_id", &self.question_id)
            .field("image_id", &self.image_id)
            .field("question_type", &self.question_type)
            .field("answer_type", &self.answer_type)
            .field("multiple_choice_answer", &self.multiple_choice_answer)
            .field("answers", &self.answers().collect::<Vec<_>>())
            .finish()
    }
}

/// Symbols with their counts, most frequent first, then in order of appearance.
fn counted(symbols: &[Symbol]) -> Vec<(Symbol, usize)> {
    let mut counted: Vec<(Symbol, usize)> = Vec::new();
    for &symbol in symbols {
        match counted.iter_mut().find(|(other, _)| *other == symbol) {
            Some((_, n)) => *n += 1,
            None => counted.push((symbol, 1)),
        }
    }
    counted.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    counted
}

/// An annotation to add. What a file may omit is optional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAnnotation<'a> {
    /// The question.
    pub question_id: u64,
    /// The image.
    pub image_id: Option<u64>,
    /// See [`Annotation::question_type`].
    pub question_type: Option<&'a str>,
    /// See [`Annotation::answer_type`].
    pub answer_type: Option<&'a str>,
    /// See [`Annotation::multiple_choice_answer`].
    pub multiple_choice_answer: Option<&'a str>,
}

impl Annotations {
    /// Creates an empty collection.
    pub fn new() -> Annotations {
        Annotations::default()
    }

    /// Adds an annotation with its annotators' answers, each with an `answer_id` of its own.
    pub fn push<'a>(&mut self, new: NewAnnotation, answers: impl IntoIterator<Item = &'a str>) {
        self.push_noting(new, answers, true);
    }

    /// Like [`Annotations::push`], but also records whether each answer has an `answer_id` of its own.
    pub(crate) fn push_noting<'a>(
        &mut self,
        new: NewAnnotation,
        answers: impl IntoIterator<Item = &'a str>,
        has_answer_ids: bool,
    ) {
        let first = self.answers.len();
        self.answers.extend(answers.into_iter().map(|answer| self.strings.insert(answer)));
        let multiple_choice_answer = match new.multiple_choice_answer {
            Some(answer) => self.strings.insert(answer),
            None => match counted(&self.answers[first..]).first() {
                Some(&(most, _)) => most,
                None => self.strings.insert(""),
            },
        };
        self.entries.push(Entry {
            question_id: new.question_id,
            image_id: new.image_id,
            question_type: self.strings.insert(new.question_type.unwrap_or("unknown")),
            answer_type: self.strings.insert(new.answer_type.unwrap_or("unknown")),
            multiple_choice_answer,
            first: first as u32,
            n_answers: (self.answers.len() - first) as u32,
            has_answer_ids,
        });
    }

    /// Adds the annotations of another collection, in order.
    pub(crate) fn append(&mut self, other: Annotations) {
        if self.entries.is_empty() {
            *self = other;
            return;
        }
        let ours: Vec<Symbol> = other.strings.iter().map(|text| self.strings.insert(text)).collect();
        let offset = self.answers.len() as u32;
        self.answers.extend(other.answers.iter().map(|&symbol| ours[symbol as usize]));
        self.entries.extend(other.entries.iter().map(|entry| Entry {
            question_type: ours[entry.question_type as usize],
            answer_type: ours[entry.answer_type as usize],
            multiple_choice_answer: ours[entry.multiple_choice_answer as usize],
            first: entry.first + offset,
            ..*entry
        }));
    }

    /// Reorders the annotations: `order[i]` is the old index of the new i-th. Those that `order` omits are dropped.
    pub(crate) fn reorder(&mut self, order: &[u32]) {
        self.entries = order.iter().map(|&index| self.entries[index as usize]).collect();
    }

    /// Number of annotations.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no annotations.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the annotation at an index, or `None` if it is out of range.
    pub fn get(&self, index: usize) -> Option<Annotation<'_>> {
        let entry = self.entries.get(index)?;
        Some(Annotation {
            question_id: entry.question_id,
            image_id: entry.image_id,
            question_type: self.strings.get(entry.question_type),
            answer_type: self.strings.get(entry.answer_type),
            multiple_choice_answer: self.strings.get(entry.multiple_choice_answer),
            strings: &self.strings,
            answers: self.symbols(index),
        })
    }

    /// All annotations, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Annotation<'_>> {
        (0..self.len()).map(|index| self.get(index).expect("below the length"))
    }

    /// Number of annotations with fewer than `than` answers.
    pub fn n_with_fewer_answers(&self, than: usize) -> usize {
        self.entries.iter().filter(|entry| (entry.n_answers as usize) < than).count()
    }

    /// Number of annotations some of whose answers have no `answer_id` of their own in the file.
    pub fn n_without_answer_ids(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.has_answer_ids).count()
    }

    /// All strings of the annotations, by their symbols.
    pub(crate) fn strings(&self) -> &Interner {
        &self.strings
    }

    /// The symbols of the annotators' answers at an index.
    pub(crate) fn symbols(&self, index: usize) -> &[Symbol] {
        let Entry { first, n_answers, .. } = self.entries[index];
        &self.answers[first as usize..(first + n_answers) as usize]
    }

    /// The symbol of the multiple choice answer at an index.
    pub(crate) fn multiple_choice_symbol(&self, index: usize) -> Symbol {
        self.entries[index].multiple_choice_answer
    }

    /// The question id at an index.
    pub(crate) fn question_id(&self, index: usize) -> u64 {
        self.entries[index].question_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(question_id: u64) -> NewAnnotation<'static> {
        NewAnnotation {
            question_id,
            image_id: None,
            question_type: None,
            answer_type: None,
            multiple_choice_answer: None,
        }
    }

    #[test]
    fn appended_and_reordered_annotations_keep_their_strings() {
        let (mut a, mut b) = (Annotations::new(), Annotations::new());
        a.push(bare(1), ["x", "y", "y"]);
        b.push(NewAnnotation { question_type: Some("y"), ..bare(2) }, ["z", "y"]);
        b.push(bare(3), []);
        a.append(b);
        a.reorder(&[2, 1, 0]);
        let ids: Vec<u64> = a.iter().map(|annotation| annotation.question_id).collect();
        assert_eq!(ids, [3, 2, 1]);
        let second = a.get(1).unwrap();
        assert_eq!(second.answers().collect::<Vec<_>>(), ["z", "y"]);
        assert_eq!((second.question_type, second.multiple_choice_answer), ("y", "z"));
        assert_eq!(a.get(2).unwrap().counted_answers(), [("y".to_owned(), 2), ("x".to_owned(), 1)]);
        assert_eq!(a.get(0).unwrap().multiple_choice_answer, "");
        assert!(a.get(3).is_none());
        assert_eq!(a.strings().len(), 5, "x y z unknown and nothing");
    }
}
