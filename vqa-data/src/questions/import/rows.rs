//! The questions of all files, whatever their form, stored compactly.

use crate::questions::annotations::{Interner, Symbol};
use crate::questions::import::answers::Answers;
use crate::questions::import::split_name::SplitName;

/// A question as read from a file. What data may lack is optional.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NewRow<'a> {
    /// The line of a text, or the number of an entry, counted from 1.
    pub place: u64,
    pub question: &'a str,
    /// What the data calls the picture: a path, a name, or an id.
    pub image: &'a str,
    /// The picture's id, if the data has one besides its name.
    pub image_id: Option<u64>,
    /// One for each annotator.
    pub answers: &'a [&'a str],
    /// The answer that counts as the question's, if the data says.
    pub first_choice: Option<&'a str>,
    pub question_id: Option<u64>,
    pub question_type: Option<&'a str>,
    pub answer_type: Option<&'a str>,
    pub split: Option<SplitName>,
}

/// An optional value for each row. It takes no memory until the first value is set, since most files have none.
#[derive(Debug, Default)]
struct Optional<T>(Vec<Option<T>>);

impl<T: Copy> Optional<T> {
    fn set(&mut self, row: usize, value: Option<T>) {
        if value.is_some() {
            self.0.resize(row, None);
            self.0.push(value);
        }
    }

    fn get(&self, row: usize) -> Option<T> {
        self.0.get(row).copied().flatten()
    }
}

/// The rows of all files, in order.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// All questions, concatenated, and where each ends.
    questions: String,
    question_ends: Vec<usize>,
    images: Vec<Symbol>,
    image_names: Interner,
    /// Indexed by the symbols of `image_names`.
    image_ids: Vec<Option<u64>>,
    given: Vec<Symbol>,
    given_ends: Vec<u32>,
    answers: Answers,
    first_choices: Optional<Symbol>,
    question_ids: Optional<u64>,
    question_types: Optional<Symbol>,
    answer_types: Optional<Symbol>,
    types: Interner,
    splits: Vec<SplitName>,
    places: Vec<u32>,
    /// The first row of each file.
    file_starts: Vec<usize>,
    /// The split of those rows of the current file that name none.
    split: Option<SplitName>,
    n_empty_questions: usize,
}

impl Rows {
    /// Starts a new file, to which the rows that follow belong. `split` is the one that its name indicates, if any.
    pub(super) fn start_file(&mut self, split: Option<SplitName>) {
        self.file_starts.push(self.len());
        self.split = split;
    }

    /// Adds a row, unless its question is empty.
    pub(super) fn push(&mut self, new: NewRow) {
        let question = new.question.trim();
        if question.is_empty() {
            self.n_empty_questions += 1;
            return;
        }
        let row = self.len();
        self.questions.push_str(question);
        self.question_ends.push(self.questions.len());
        let image = self.image_names.insert(new.image.trim());
        self.image_ids.resize(self.image_names.len(), None);
        let image_id = &mut self.image_ids[image as usize];
        *image_id = image_id.or(new.image_id);
        self.images.push(image);
        self.given.extend(new.answers.iter().filter_map(|answer| self.answers.insert(answer)));
        self.given_ends.push(self.given.len() as u32);
        let first_choice = new.first_choice.and_then(|answer| self.answers.insert(answer));
        self.first_choices.set(row, first_choice);
        self.question_ids.set(row, new.question_id);
        let mut of_text = |text: Option<&str>| {
            text.map(str::trim).filter(|text| !text.is_empty()).map(|text| self.types.insert(text))
        };
        self.question_types.set(row, of_text(new.question_type));
        self.answer_types.set(row, of_text(new.answer_type));
        self.splits.push(new.split.or(self.split).unwrap_or(SplitName::Train));
        self.places.push(u32::try_from(new.place).unwrap_or(u32::MAX));
    }

    pub(super) fn len(&self) -> usize {
        self.question_ends.len()
    }

    pub(super) fn question(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.question_ends[row - 1] };
        &self.questions[start..self.question_ends[row]]
    }

    /// The symbol of a row's picture among [`Rows::image_names`].
    pub(super) fn image(&self, row: usize) -> Symbol {
        self.images[row]
    }

    /// What the data calls its pictures, each once.
    pub(super) fn image_names(&self) -> &Interner {
        &self.image_names
    }

    /// The id that the data has for the picture with this symbol.
    pub(super) fn image_id(&self, image: Symbol) -> Option<u64> {
        self.image_ids[image as usize]
    }

    /// The answers that the annotators of a row gave.
    pub(super) fn given(&self, row: usize) -> &[Symbol] {
        let start = if row == 0 { 0 } else { self.given_ends[row - 1] as usize };
        &self.given[start..self.given_ends[row] as usize]
    }

    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    pub(super) fn first_choice(&self, row: usize) -> Option<Symbol> {
        self.first_choices.get(row)
    }

    pub(super) fn question_id(&self, row: usize) -> Option<u64> {
        self.question_ids.get(row)
    }

    pub(super) fn question_type(&self, row: usize) -> Option<&str> {
        self.question_types.get(row).map(|symbol| self.types.get(symbol))
    }

    pub(super) fn answer_type(&self, row: usize) -> Option<&str> {
        self.answer_types.get(row).map(|symbol| self.types.get(symbol))
    }

    pub(super) fn split(&self, row: usize) -> SplitName {
        self.splits[row]
    }

    pub(super) fn set_split(&mut self, row: usize, split: SplitName) {
        self.splits[row] = split;
    }

    /// The index of a row's file, and the row's [`NewRow::place`] in it.
    pub(super) fn place(&self, row: usize) -> (usize, u32) {
        (self.file_starts.partition_point(|&start| start <= row) - 1, self.places[row])
    }

    /// Number of rows whose question is empty. They are left out.
    pub(super) fn n_empty_questions(&self) -> usize {
        self.n_empty_questions
    }
}
