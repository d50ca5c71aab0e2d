//! Folders of attention maps, and a page that shows them.

use std::fmt::Write;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use vqa_data::{Error, read_picture, write_atomic};

use crate::Result;
use crate::attention_map::{AttentionMapStyle, attention_map};

/// A question, its answer, and where the model looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The question's id, which names its folder.
    pub question_id: u64,
    /// The question.
    pub question: String,
    /// The model's answer.
    pub answer: String,
    /// The model's best answers with their probabilities, best first.
    pub best: Vec<(String, f32)>,
    /// What the annotators answered, with how many did, most first; nothing if nobody was asked.
    pub annotators: Vec<(String, usize)>,
    /// The soft score of the answer, 0 to 1, if somebody was asked.
    pub soft_score: Option<f32>,
    /// The picture.
    pub picture: PathBuf,
    /// The regions, x1 y1 x2 y2 in pixels.
    pub boxes: Vec<[f32; 4]>,
    /// The weight of each region.
    pub attention: Vec<f32>,
}

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
        let picture = read_picture(&explained.picture)?;
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
        let page = include_str!("report.html")
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

/// Question, ground truth and answer, in the seed's words.
fn qa_text(explained: &Explained) -> String {
    let mut text = format!("{}\n", explained.question);
    if let Some((most, _)) = explained.annotators.first() {
        let _ = writeln!(text, "gt: {most}");
    }
    let _ = writeln!(text, "answer: {}", explained.answer);
    text
}

/// The picture's own file if it is a JPEG, or the picture as one.
fn original_jpeg(path: &Path, picture: &RgbImage) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    Ok(if bytes.starts_with(&[0xff, 0xd8]) { bytes } else { jpeg(picture) })
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).expect("a decoded picture can be encoded");
    bytes.into_inner()
}

fn card(explained: &Explained, (width, height): (u32, u32)) -> String {
    let verdict = match explained.soft_score {
        None => "unknown",
        Some(score) if score >= 0.9 => "right",
        Some(score) if score > 0.0 => "partly",
        Some(_) => "wrong",
    };
    let id = explained.question_id;
    let question = escape(&explained.question);
    let answer = escape(&explained.answer);
    let bars: String = explained
        .best
        .iter()
        .map(|(answer, p)| {
            let percent = (100.0 * p).round();
            format!("<li><i style=\"width:{percent}%\"></i><span>{}</span><b>{percent} %</b></li>", escape(answer))
        })
        .collect();
    let people = if explained.annotators.is_empty() {
        "not annotated".to_owned()
    } else {
        let counted = explained.annotators.iter().map(|(answer, n)| format!("{} ({n})", escape(answer)));
        counted.collect::<Vec<_>>().join(", ")
    };
    format!(
        "<article class=\"{verdict}\">\n<div class=\"pictures\">\
         <img src=\"{id}/original.jpg\" alt=\"picture\" width=\"{width}\" height=\"{height}\" loading=\"lazy\">\
         <img src=\"{id}/topdown_att.jpg\" alt=\"where the model looked\" width=\"{width}\" height=\"{height}\" loading=\"lazy\"></div>\n\
         <h2>{question}</h2>\n<p class=\"answer\">{answer}</p>\n<ul>{bars}</ul>\n\
         <p class=\"people\"><b>people:</b> {people}</p>\n</article>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
