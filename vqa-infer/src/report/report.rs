//! The report as a whole.

use std::collections::HashSet;
use std::path::PathBuf;

use vqa_data::features::read_image;
use vqa_data::files::write_atomic;

use crate::attention_map::{AttentionMapStyle, attention_map};
use crate::error::Result;
use crate::picture_file::encode_jpeg;
use crate::report::card::{card, escape};
use crate::report::explained::Explained;
use crate::report::folder::{original_jpeg, qa_text};

/// A directory with a folder for each question, `qa.txt`, `original.jpg` and `topdown_att.jpg` in it, and a page
/// over all of them, `index.html`.
#[derive(Debug)]
pub struct Report {
    directory: PathBuf,
    title: String,
    /// Lines under the title.
    notes: Vec<String>,
    cards: String,
    /// One for each question.
    folders: HashSet<String>,
}

impl Report {
    /// An empty report in this directory.
    pub fn new(directory: impl Into<PathBuf>, title: impl Into<String>, notes: Vec<String>) -> Report {
        Report {
            directory: directory.into(),
            title: title.into(),
            notes,
            cards: String::new(),
            folders: HashSet::new(),
        }
    }

    /// Draws a question's attention map and writes its folder.
    ///
    /// # Errors
    ///
    /// When the picture cannot be read, or the folder cannot be written.
    pub fn add(&mut self, explained: &Explained) -> Result<()> {
        let name = self.folder_name(explained.question_id);
        let folder = self.directory.join(&name);
        let picture = read_image(&explained.picture)?;
        let map = attention_map(&picture, &explained.boxes, &explained.attention, &AttentionMapStyle::default());
        write_atomic(&folder.join("qa.txt"), qa_text(explained).as_bytes())?;
        write_atomic(&folder.join("original.jpg"), &original_jpeg(&explained.picture, &picture)?)?;
        write_atomic(&folder.join("topdown_att.jpg"), &encode_jpeg(&explained.picture, &map)?)?;
        self.cards.push_str(&card(explained, &name, picture.dimensions()));
        self.folders.insert(name);
        Ok(())
    }

    /// The name of a question's folder: its id. Two sources of a split may have the same ids, and then the later
    /// question's is `ID_2`, and so on.
    fn folder_name(&self, question_id: u64) -> String {
        let later = (2..).map(|n: usize| format!("{question_id}_{n}"));
        let mut names = std::iter::once(question_id.to_string()).chain(later);
        names.find(|name| !self.folders.contains(name)).expect("one of infinitely many")
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
        self.folders.len()
    }

    /// Whether there is no question yet.
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn explained(picture: &Path) -> Explained {
        Explained {
            question_id: 7,
            question: "why?".to_owned(),
            answer: "so".to_owned(),
            best: Vec::new(),
            annotators: Vec::new(),
            soft_score: None,
            picture: picture.to_owned(),
            boxes: Vec::new(),
            attention: Vec::new(),
        }
    }

    /// EXIF's orientation 6, as phones write: what is shown is upright, also where EXIF is not known.
    #[test]
    fn pictures_are_shown_upright() {
        let directory = tempfile::tempdir().unwrap();
        let picture = directory.path().join("p.jpg");
        image::RgbImage::new(32, 16).save(&picture).unwrap();
        let jpeg = std::fs::read(&picture).unwrap();
        let exif = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        std::fs::write(&picture, [&jpeg[..2], exif, &jpeg[2..]].concat()).unwrap();
        let mut report = Report::new(directory.path(), "title", Vec::new());
        report.add(&explained(&picture)).unwrap();
        for name in ["original.jpg", "topdown_att.jpg"] {
            let shown = image::open(directory.path().join("7").join(name)).unwrap();
            assert_eq!((shown.width(), shown.height()), (16, 32), "{name}");
        }
        let page = std::fs::read_to_string(report.finish().unwrap()).unwrap();
        assert!(page.contains("width=\"16\" height=\"32\""), "{page}");
    }

    #[test]
    fn questions_of_one_id_have_folders_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let picture = directory.path().join("p.png");
        image::RgbImage::new(4, 4).save(&picture).unwrap();
        let mut report = Report::new(directory.path(), "title", Vec::new());
        for question in ["why?", "how?", "who?"] {
            let explained = Explained { question: question.to_owned(), ..explained(&picture) };
            report.add(&explained).unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(directory.path().join(name).join("qa.txt")).unwrap();
        assert_eq!(["7", "7_2", "7_3"].map(text), ["why?", "how?", "who?"].map(|q| format!("{q}\nanswer: so\n")));
        let page = std::fs::read_to_string(report.finish().unwrap()).unwrap();
        assert!(page.contains("7_2/original.jpg") && page.contains("7_3/topdown_att.jpg"));
    }
}
