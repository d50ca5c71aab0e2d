//! The report as a whole.

use std::path::PathBuf;

use vqa_data::features::read_image;
use vqa_data::files::write_atomic;

use crate::attention_map::{AttentionMapStyle, attention_map};
use crate::error::Result;
use crate::report::card::{card, escape};
use crate::report::explained::Explained;
use crate::report::folder::{jpeg, original_jpeg, qa_text};

/// A directory with a folder for each question, `qa.txt`, `original.jpg` and `topdown_att.jpg` in it, and a page
/// over all of them, `index.html`.
#[derive(Debug)]
pub struct Report {
    directory: PathBuf,
    title: String,
    /// Lines under the title.
    notes: Vec<String>,
    cards: String,
    n_questions: usize,
}

impl Report {
    /// An empty report in this directory.
    pub fn new(directory: impl Into<PathBuf>, title: impl Into<String>, notes: Vec<String>) -> Report {
        Report { directory: directory.into(), title: title.into(), notes, cards: String::new(), n_questions: 0 }
    }

    /// Draws a question's attention map and writes its folder.
    ///
    /// # Errors
    ///
    /// When the picture cannot be read, or the folder cannot be written.
    pub fn add(&mut self, explained: &Explained) -> Result<()> {
        let folder = self.directory.join(explained.question_id.to_string());
        let picture = read_image(&explained.picture)?;
        let map = attention_map(&picture, &explained.boxes, &explained.attention, &AttentionMapStyle::default());
        write_atomic(&folder.join("qa.txt"), qa_text(explained).as_bytes())?;
        write_atomic(&folder.join("original.jpg"), &original_jpeg(&explained.picture, &picture)?)?;
        write_atomic(&folder.join("topdown_att.jpg"), &jpeg(&map))?;
        self.cards.push_str(&card(explained, picture.dimensions()));
        self.n_questions += 1;
        Ok(())
    }

    /// Writes the page, and says where it is.
    ///
    /// # Errors
    ///
    /// When the page cannot be written.
    pub fn finish(self) -> Result<PathBuf> {
        let notes: String = self.notes.iter().map(|note| format!("<p>{}</p>\n", escape(note))).collect();
        let page = include_str!("page.html")
            .replace("{{title}}", &escape(&self.title))
            .replace("{{notes}}", &notes)
            .replace("{{cards}}", &self.cards);
        let path = self.directory.join("index.html");
        write_atomic(&path, page.as_bytes())?;
        Ok(path)
    }

    /// Number of questions in the report.
    pub fn len(&self) -> usize {
        self.n_questions
    }

    /// Whether there is no question yet.
    pub fn is_empty(&self) -> bool {
        self.n_questions == 0
    }
}
