//! The report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use vqa_data::Error;
use vqa_data::features::read_image;
use vqa_data::files::write_atomic;

use crate::error::Result;
use crate::map_style::MapStyle;
use crate::picture_file::encode_jpeg;
use crate::report::card::Cards;
use crate::report::contents::{Page, Skipped};
use crate::report::explained::ExplainedQuestion;
use crate::report::folder::{original_jpeg, qa_text, write_folder};
use crate::report::ledger::{Finished, Ledger, PAGE};
use crate::report::page::html;
use crate::report::scores::Scores;

/// To be changed whenever the same question would be drawn differently: folders of another version are redrawn.
const VERSION: &str = "1";

/// A directory with a folder for each question, holding `qa.txt`, `original.jpg` and `topdown_att.jpg`, and a page that
/// shows all of them, `index.html`.
///
/// A report in the directory of an earlier one, even one that was interrupted, keeps the folders that it would draw the
/// same and removes the others. Files that no report has written are left alone.
#[derive(Debug)]
pub struct Report {
    directory: PathBuf,
    title: String,
    /// Lines under the title.
    notes: Vec<String>,
    style: MapStyle,
    answered_by: Option<String>,
    scores: Option<Scores>,
    ledger: Option<Ledger>,
    cards: Cards,
    skipped: Vec<Skipped>,
    kept: BTreeMap<String, Finished>,
    n_drawn: usize,
}

/// What was done with a question.
enum Outcome {
    /// Its folder was already complete.
    Kept(Finished),
    Drawn(Finished),
    /// Its picture cannot be used, for this reason.
    Skipped(String),
}

impl Report {
    /// Creates an empty report in this directory.
    pub fn new(directory: impl Into<PathBuf>, title: impl Into<String>, notes: Vec<String>) -> Report {
        Report {
            directory: directory.into(),
            title: title.into(),
            notes,
            style: MapStyle::default(),
            answered_by: None,
            scores: None,
            ledger: None,
            cards: Cards::default(),
            skipped: Vec::new(),
            kept: BTreeMap::new(),
            n_drawn: 0,
        }
    }

    /// Sets the style of the maps.
    pub fn style(mut self, style: MapStyle) -> Report {
        self.style = style;
        self
    }

    /// Identifies what answers the questions, by a text that differs whenever the attention may differ. Folders of
    /// earlier reports with the same text are not redrawn; without a text, all are. See
    /// [`SplitWithModel::identity`](crate::SplitWithModel::identity).
    pub fn answered_by(mut self, identity: impl Into<String>) -> Report {
        self.answered_by = Some(identity.into());
        self
    }

    /// Sets the scores of the full split, shown at the head of the page.
    pub fn scores(mut self, scores: Scores) -> Report {
        self.scores = Some(scores);
        self
    }

    /// Draws a question's attention map and writes its folder.
    ///
    /// # Errors
    ///
    /// Those of [`Report::add_all`].
    pub fn add(&mut self, explained: &ExplainedQuestion) -> Result<()> {
        self.add_all(std::slice::from_ref(explained), &|_| {})
    }

    /// Draws the attention maps of questions and writes their folders, in parallel on all cores. A picture that several
    /// of them share is read once, and each core holds one picture in memory. Questions whose pictures are missing or
    /// broken are left out, and listed on the page. `progress` is called with the number of questions just done.
    ///
    /// # Errors
    ///
    /// When a folder cannot be written, memory is full, another process is drawing into the directory, or the directory has
    /// an `index.html` that no report wrote.
    pub fn add_all(&mut self, explained: &[ExplainedQuestion], progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => Ledger::open(&self.directory)?,
        };
        let ledger = self.ledger.insert(ledger);
        let mut by_picture: Vec<(usize, &ExplainedQuestion)> = explained.iter().enumerate().collect();
        by_picture.sort_by_key(|(_, explained)| &explained.picture);
        let groups: Vec<_> = by_picture.chunk_by(|(_, a), (_, b)| a.picture == b.picture).collect();
        let drawing = Drawing {
            directory: &self.directory,
            style: self.style,
            answered_by: self.answered_by.as_deref(),
            ledger,
            progress,
        };
        let outcomes: Result<Vec<_>> = groups.into_par_iter().map(|group| drawing.draw_group(group)).collect();
        let mut outcomes: Vec<(usize, Outcome)> = outcomes?.into_iter().flatten().collect();
        outcomes.sort_by_key(|&(place, _)| place);
        for ((_, outcome), explained) in outcomes.into_iter().zip(explained) {
            let finished = match outcome {
                Outcome::Skipped(problem) => {
                    self.skip(explained.question_id, &explained.question, problem);
                    continue;
                }
                Outcome::Kept(finished) => finished,
                Outcome::Drawn(finished) => {
                    self.n_drawn += 1;
                    finished
                }
            };
            self.cards.push(explained, self.style, (finished.width, finished.height));
            self.kept.insert(explained.folder(), finished);
        }
        Ok(())
    }

    /// Lists a question as left out, because of a problem with its picture.
    pub fn skip(&mut self, question_id: u64, question: &str, problem: String) {
        self.skipped.push(Skipped { question_id, question: question.to_owned(), problem });
    }

    /// Writes the page, removes the folders of an earlier report that are not in this one, and returns the path of the
    /// page.
    ///
    /// # Errors
    ///
    /// When no question is left to show, the page cannot be written, or a folder cannot be removed.
    pub fn finish(self) -> Result<PathBuf> {
        if self.is_empty()
            && let Some(first) = self.skipped.first()
        {
            let message = match self.skipped.len() {
                1 => first.problem.clone(),
                n => format!("{}; none of the pictures of {n} questions can be shown", first.problem),
            };
            return Err(Error::Invalid { message }.into());
        }
        let page = Page {
            title: &self.title,
            notes: &self.notes,
            style: self.style,
            scores: self.scores.as_ref(),
            cards: &self.cards,
            skipped: &self.skipped,
        };
        let path = self.directory.join(PAGE);
        write_atomic(&path, html(&page).as_bytes())?;
        // Folders are removed only now, so that a page never refers to missing ones.
        let ledger = match self.ledger {
            Some(ledger) => ledger,
            None => Ledger::open(&self.directory)?,
        };
        ledger.close(self.kept)?;
        Ok(path)
    }

    /// The number of questions in the report.
    pub fn len(&self) -> usize {
        self.cards.len()
    }

    /// Whether the report has no questions yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of the questions were drawn rather than kept from an earlier report.
    pub fn n_drawn(&self) -> usize {
        self.n_drawn
    }

    /// The questions left out so far.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }
}

/// What all cores share while drawing.
struct Drawing<'a> {
    directory: &'a Path,
    style: MapStyle,
    answered_by: Option<&'a str>,
    ledger: &'a Ledger,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Drawing<'_> {
    /// Draws questions about one picture; each comes with its index among all questions.
    fn draw_group(&self, group: &[(usize, &ExplainedQuestion)]) -> Result<Vec<(usize, Outcome)>> {
        let path = &group[0].1.picture;
        let mut picture: Option<(RgbImage, Vec<u8>)> = None;
        let mut problem: Option<String> = None;
        let mut outcomes = Vec::with_capacity(group.len());
        for &(place, explained) in group {
            let folder = explained.folder();
            let fingerprint = self.fingerprint(explained);
            let finished = fingerprint.as_ref().and_then(|fingerprint| self.ledger.finished(&folder, fingerprint));
            let outcome = match (finished, &problem) {
                (Some(finished), _) => Outcome::Kept(finished.clone()),
                (None, Some(problem)) => Outcome::Skipped(problem.clone()),
                (None, None) => {
                    if picture.is_none() {
                        match readable(read_picture(path))? {
                            Ok(read) => picture = Some(read),
                            Err(what) => problem = Some(what),
                        }
                    }
                    match &picture {
                        Some(read) => self.draw(explained, &folder, fingerprint, read)?,
                        None => Outcome::Skipped(problem.clone().unwrap_or_default()),
                    }
                }
            };
            outcomes.push((place, outcome));
            (self.progress)(1);
        }
        Ok(outcomes)
    }

    fn draw(
        &self,
        explained: &ExplainedQuestion,
        folder: &str,
        fingerprint: Option<String>,
        (picture, original): &(RgbImage, Vec<u8>),
    ) -> Result<Outcome> {
        let map = self.style.draw(picture, &explained.boxes, &explained.attention);
        let map = match readable(encode_jpeg(&explained.picture, &map))? {
            Ok(map) => map,
            Err(problem) => return Ok(Outcome::Skipped(problem)),
        };
        let (width, height) = picture.dimensions();
        let finished = Finished { fingerprint: fingerprint.unwrap_or_default(), width, height };
        self.ledger.begin(folder)?;
        write_folder(&self.directory.join(folder), [qa_text(explained).as_bytes(), original, &map])?;
        self.ledger.finish(folder, finished.clone())?;
        Ok(Outcome::Drawn(finished))
    }

    /// A fingerprint of everything that a folder's files are drawn from; `None` if that cannot be determined.
    fn fingerprint(&self, explained: &ExplainedQuestion) -> Option<String> {
        let file = std::fs::metadata(&explained.picture).ok()?;
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        add(VERSION.as_bytes());
        add(self.answered_by?.as_bytes());
        add(self.style.name().as_bytes());
        add(explained.picture.as_os_str().as_encoded_bytes());
        add(&file.len().to_le_bytes());
        let modified = file.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        add(&modified.as_nanos().to_le_bytes());
        add(qa_text(explained).as_bytes());
        explained.boxes.iter().flatten().for_each(|corner| add(&corner.to_le_bytes()));
        let hex = |byte: &u8| format!("{byte:02x}");
        Some(digest.finalize().iter().take(16).map(hex).collect())
    }
}

/// Reads a picture, and the JPEG of it that its folder will hold.
fn read_picture(path: &Path) -> Result<(RgbImage, Vec<u8>)> {
    let picture = read_image(path)?;
    let original = original_jpeg(path, &picture)?;
    Ok((picture, original))
}

/// Separates problems of the picture, returned as a text, from running out of memory, returned as an error.
fn readable<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error @ crate::error::Error::Data(Error::OutOfMemory { .. })) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(picture: &Path) -> ExplainedQuestion {
        ExplainedQuestion {
            question_id: 7,
            question: "why?".to_owned(),
            answer: "so".to_owned(),
            picture: picture.to_owned(),
            ..ExplainedQuestion::default()
        }
    }

    /// EXIF orientation 6, as phones write it: both files are upright even in viewers that ignore EXIF.
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
        assert!(page.contains("\"width\":16,\"height\":32"), "{page}");
    }

    #[test]
    fn questions_of_one_id_have_folders_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let picture = directory.path().join("p.png");
        image::RgbImage::new(4, 4).save(&picture).unwrap();
        let mut report = Report::new(directory.path(), "title", Vec::new());
        for (n_earlier_of_id, question) in [(2, "who?"), (0, "why?"), (1, "how?")] {
            report
                .add(&ExplainedQuestion { question: question.to_owned(), n_earlier_of_id, ..explained(&picture) })
                .unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(directory.path().join(name).join("qa.txt")).unwrap();
        assert_eq!(["7", "7_2", "7_3"].map(text), ["why?", "how?", "who?"].map(|q| format!("{q}\nanswer: so\n")));
        let page = std::fs::read_to_string(report.finish().unwrap()).unwrap();
        assert!(["\"7\"", "\"7_2\"", "\"7_3\""].iter().all(|name| page.contains(name)));
    }

    /// `draw` writes a report over the previous one and returns how many questions it drew.
    #[test]
    fn what_would_be_the_same_is_not_drawn_again() {
        let directory = tempfile::tempdir().unwrap();
        let picture = directory.path().join("p.png");
        image::RgbImage::new(4, 4).save(&picture).unwrap();
        let out = directory.path().join("out");
        let draw = |identity: Option<&str>, style: MapStyle, answer: &str| {
            let report = Report::new(&out, "title", Vec::new()).style(style);
            let mut report = match identity {
                Some(identity) => report.answered_by(identity),
                None => report,
            };
            report.add(&ExplainedQuestion { answer: answer.to_owned(), ..explained(&picture) }).unwrap();
            let n_drawn = report.n_drawn();
            report.finish().unwrap();
            n_drawn
        };
        let article = MapStyle::Article;
        assert_eq!(draw(Some("model"), article, "so"), 1);
        assert_eq!(draw(Some("model"), article, "so"), 0);
        assert_eq!(draw(Some("model"), article, "no"), 1);
        assert_eq!(draw(Some("model"), MapStyle::Heat, "no"), 1);
        assert_eq!(draw(Some("other"), MapStyle::Heat, "no"), 1);
        assert_eq!(draw(None, MapStyle::Heat, "no"), 1);
        assert_eq!(draw(None, MapStyle::Heat, "no"), 1, "nobody says that it is the same model");
        draw(Some("other"), MapStyle::Heat, "no");
        image::RgbImage::new(5, 4).save(&picture).unwrap();
        assert_eq!(draw(Some("other"), MapStyle::Heat, "no"), 1, "another picture");
    }

    #[test]
    fn broken_pictures_are_left_out_unless_all_are() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        image::RgbImage::new(4, 4).save(at.join("p.png")).unwrap();
        std::fs::write(at.join("broken.jpg"), b"\xff\xd8\xff").unwrap();
        let of = |name: &str, question_id| ExplainedQuestion { question_id, ..explained(&at.join(name)) };
        let mut report = Report::new(at.join("out"), "title", Vec::new());
        report.add_all(&[of("gone.png", 1), of("broken.jpg", 2), of("broken.jpg", 3)], &|_| {}).unwrap();
        assert!(report.is_empty() && !at.join("out").exists());
        let error = report.finish().unwrap_err().to_string();
        assert!(error.contains("gone.png") && error.contains("of 3 questions"), "{error}");
        assert!(!at.join("out").exists());

        let mut report = Report::new(at.join("out"), "title", Vec::new());
        report.add_all(&[of("broken.jpg", 2), of("p.png", 4), of("gone.png", 1)], &|_| {}).unwrap();
        assert_eq!(report.skipped().iter().map(|skipped| skipped.question_id).collect::<Vec<_>>(), [2, 1]);
        let page = std::fs::read_to_string(report.finish().unwrap()).unwrap();
        assert!(page.contains("2 questions left out") && page.contains("gone.png") && page.contains("broken.jpg"));
        assert!(at.join("out/4/qa.txt").exists() && !at.join("out/2").exists());
    }
}
