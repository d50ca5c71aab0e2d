//! The questions in the form that the page's script reads.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::map_style::MapStyle;
use crate::numbered_boxes::ranked;
use crate::report::explained::ExplainedQuestion;

/// A question on the page.
#[derive(Debug, Serialize)]
struct Card {
    folder: String,
    question: String,
    answer: String,
    answer_type: Option<String>,
    question_type: Option<String>,
    /// The best answers with their probabilities.
    best: Vec<(String, f64)>,
    without_top: Option<(String, f64)>,
    annotators: Vec<(String, usize)>,
    soft_score: Option<f64>,
    /// The index of its picture in [`Cards::pictures`].
    picture: usize,
    /// The weight of each of the picture's regions.
    weights: Vec<f64>,
    /// The regions that are numbered on the map, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranked: Vec<usize>,
}

/// A picture's size and regions.
#[derive(Debug, PartialEq, Serialize)]
struct Picture {
    width: u32,
    height: u32,
    /// x1 y1 x2 y2 in pixels.
    boxes: Vec<[f64; 4]>,
}

/// All questions on a page, and their pictures. Each picture is listed once, however many questions are about it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cards {
    cards: Vec<Card>,
    pictures: Vec<Picture>,
    #[serde(skip)]
    places: HashMap<PathBuf, Vec<usize>>,
}

impl Cards {
    /// Adds a question whose picture has this width and height.
    pub(super) fn push(&mut self, explained: &ExplainedQuestion, style: MapStyle, (width, height): (u32, u32)) {
        let boxes = explained.boxes.iter().map(|corners| corners.map(|corner| rounded(corner, 10.0))).collect();
        let picture = Picture { width, height, boxes };
        let known = self.places.entry(explained.picture.clone()).or_default();
        let place = known.iter().copied().find(|&place| self.pictures[place] == picture).unwrap_or_else(|| {
            known.push(self.pictures.len());
            self.pictures.push(picture);
            self.pictures.len() - 1
        });
        let probable = |(answer, p): &(String, f32)| (answer.clone(), rounded(*p, 1e4));
        self.cards.push(Card {
            folder: explained.folder(),
            question: explained.question.clone(),
            answer: explained.answer.clone(),
            answer_type: explained.answer_type.clone(),
            question_type: explained.question_type.clone(),
            best: explained.best.iter().map(probable).collect(),
            without_top: explained.without_top.as_ref().map(probable),
            annotators: explained.annotators.clone(),
            soft_score: explained.soft_score.map(|score| rounded(score, 1e4)),
            picture: place,
            weights: explained.attention.iter().map(|&weight| rounded(weight, 1e4)).collect(),
            ranked: match style {
                MapStyle::Boxes => ranked(&explained.boxes, &explained.attention),
                MapStyle::Article | MapStyle::Heat => Vec::new(),
            },
        });
    }

    pub(super) fn len(&self) -> usize {
        self.cards.len()
    }
}

/// Rounds a value to a multiple of 1 / `parts`, so that it has few digits. NaN and infinities become 0.
fn rounded(value: f32, parts: f64) -> f64 {
    let rounded = (f64::from(value) * parts).round() / parts;
    if rounded.is_finite() { rounded } else { 0.0 }
}
