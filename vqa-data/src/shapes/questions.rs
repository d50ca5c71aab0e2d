//! The questions about an image, and their true answers.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::shapes::scene::{COLORS, Description, KINDS, SIZES, Scene, Shape};

/// A question with its true answer and the wrong answers that an annotator might give.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QuestionAndAnswer {
    pub(super) question: String,
    pub(super) question_type: &'static str,
    pub(super) answer_type: &'static str,
    pub(super) answer: String,
    pub(super) mistakes: Vec<String>,
}

impl Scene {
    /// The questions of an image, in random order.
    pub(super) fn questions(&self, rng: &mut impl Rng) -> Vec<QuestionAndAnswer> {
        let mut asked = vec![self.ask_count(), self.ask_existence(true, rng), self.ask_existence(false, rng)];
        let mut shapes: Vec<&Shape> = self.shapes.iter().collect();
        shapes.shuffle(rng);
        asked.extend(shapes.iter().filter_map(|shape| self.ask_color(shape, rng)).take(2));
        asked.extend(shapes.iter().filter_map(|shape| self.ask_shape(shape, rng)).take(2));
        asked.extend(self.ask_relation(&shapes, rng));
        asked.shuffle(rng);
        asked
    }

    fn ask_count(&self) -> QuestionAndAnswer {
        let n = self.count(self.counted);
        let near = [n.checked_sub(1), Some(n + 1)];
        QuestionAndAnswer {
            question: format!("How many {} are there?", plural(&self.counted.words())),
            question_type: "how many",
            answer_type: "number",
            answer: n.to_string(),
            mistakes: near.into_iter().flatten().map(|n| n.to_string()).collect(),
        }
    }

    fn ask_existence(&self, exists: bool, rng: &mut impl Rng) -> QuestionAndAnswer {
        // Both questions name a colour and a kind. In a "no" question, both are often in the image, but on different
        // shapes.
        let description = loop {
            let (a, b) = (self.shapes.choose(rng), self.shapes.choose(rng));
            let (Some(a), Some(b)) = (a, b) else { unreachable!("a scene has shapes") };
            let mixed = Description { color: Some(a.color), kind: Some(b.kind), ..Description::default() };
            let any = Description {
                color: Some(rng.random_range(0..COLORS.len())),
                kind: Some(b.kind),
                ..Description::default()
            };
            let own = Description { color: Some(b.color), ..mixed };
            let candidate = if exists { own } else { *[mixed, any].choose(rng).expect("two") };
            if (self.count(candidate) > 0) == exists {
                break candidate;
            }
        };
        let (answer, mistake) = if exists { ("yes", "no") } else { ("no", "yes") };
        QuestionAndAnswer {
            question: format!("Is there a {}?", description.words()),
            question_type: "is there a",
            answer_type: "yes/no",
            answer: answer.to_owned(),
            mistakes: vec![mistake.to_owned()],
        }
    }

    fn ask_color(&self, shape: &Shape, rng: &mut impl Rng) -> Option<QuestionAndAnswer> {
        let by_kind = Description { kind: Some(shape.kind), ..Description::default() };
        let by_both = Description { size: Some(shape.size), ..by_kind };
        let description = [by_kind, by_both].into_iter().find(|&d| self.is_unique(d))?;
        let others: Vec<&str> = COLORS.iter().map(|color| color.0).filter(|&c| c != COLORS[shape.color].0).collect();
        Some(QuestionAndAnswer {
            question: format!("What color is the {}?", description.words()),
            question_type: "what color is the",
            answer_type: "other",
            answer: COLORS[shape.color].0.to_owned(),
            mistakes: vec![(*others.choose(rng)?).to_owned()],
        })
    }

    fn ask_shape(&self, shape: &Shape, rng: &mut impl Rng) -> Option<QuestionAndAnswer> {
        let by_color = Description { color: Some(shape.color), ..Description::default() };
        let by_both = Description { size: Some(shape.size), ..by_color };
        let description = [by_color, by_both].into_iter().find(|&d| self.is_unique(d))?;
        let others: Vec<&str> = KINDS.into_iter().filter(|&kind| kind != KINDS[shape.kind]).collect();
        Some(QuestionAndAnswer {
            question: format!("What is the {}?", description.words().replace("shape", "thing")),
            question_type: "what is the",
            answer_type: "other",
            answer: KINDS[shape.kind].to_owned(),
            mistakes: vec![(*others.choose(rng)?).to_owned()],
        })
    }

    fn ask_relation(&self, shuffled: &[&Shape], rng: &mut impl Rng) -> Option<QuestionAndAnswer> {
        let named = |shape: &Shape| Description { color: Some(shape.color), kind: Some(shape.kind), size: None };
        let mut unique = shuffled.iter().filter(|shape| self.is_unique(named(shape)));
        let (a, b) = (unique.next()?, unique.next()?);
        let (dx, dy) = (a.x - b.x, a.y - b.y);
        // Ask along the axis on which they are farther apart.
        let (offset, words) =
            if dx.abs() > dy.abs() { (dx, ["left of", "right of"]) } else { (dy, ["above", "below"]) };
        if offset.abs() < SIZES[0].1 {
            return None;
        }
        let asks_first = rng.random_bool(0.5);
        let (answer, mistake) = if (offset < 0.0) == asks_first { ("yes", "no") } else { ("no", "yes") };
        let word = words[usize::from(!asks_first)];
        Some(QuestionAndAnswer {
            question: format!("Is the {} {word} the {}?", named(a).words(), named(b).words()),
            question_type: "is the",
            answer_type: "yes/no",
            answer: answer.to_owned(),
            mistakes: vec![mistake.to_owned()],
        })
    }
}

fn plural(words: &str) -> String {
    if words.ends_with("cross") { format!("{words}es") } else { format!("{words}s") }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn scene(seed: u64) -> (Scene, ChaCha8Rng) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (Scene::random(&mut rng), rng)
    }

    /// How often each answer occurs, by question type.
    fn answers_by_type(n: u64) -> HashMap<&'static str, HashMap<String, usize>> {
        let mut counts: HashMap<_, HashMap<_, usize>> = HashMap::new();
        for seed in 0..n {
            let (scene, mut rng) = scene(seed);
            for asked in scene.questions(&mut rng) {
                *counts.entry(asked.question_type).or_default().entry(asked.answer).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn no_answer_dominates_its_question_type() {
        let counts = answers_by_type(3000);
        let n_answers =
            [("is there a", 2), ("is the", 2), ("how many", 5), ("what color is the", 6), ("what is the", 5)];
        assert_eq!(counts.len(), n_answers.len());
        for (question_type, n) in n_answers {
            let answers = &counts[question_type];
            assert_eq!(answers.len(), n, "{question_type}");
            let total: usize = answers.values().sum();
            let most = answers.values().max().unwrap();
            assert!((*most as f64) < 1.12 * total as f64 / n as f64, "{question_type}: {answers:?}");
        }
    }

    /// The shapes that match all words of a phrase like "small red star" or "blue things".
    fn fitting<'a>(scene: &'a Scene, phrase: &str) -> Vec<&'a Shape> {
        let fits = |shape: &&Shape| {
            phrase.split(' ').all(|word| {
                let singular = word.strip_suffix("es").filter(|w| *w == "cross").or(word.strip_suffix('s'));
                let is = |name: &str| word == name || singular == Some(name);
                ["thing", "shape"].iter().any(|open| is(open))
                    || [SIZES[shape.size].0, COLORS[shape.color].0, KINDS[shape.kind]].iter().any(|name| is(name))
            })
        };
        scene.shapes.iter().filter(fits).collect()
    }

    /// Each answer is derived again, from the words of the question and the shapes alone.
    #[test]
    fn answers_are_true() {
        let mut n_checked = 0;
        for seed in 0..500 {
            let (scene, mut rng) = scene(seed);
            for QuestionAndAnswer { question, answer, .. } in scene.questions(&mut rng) {
                let text = question.trim_end_matches('?');
                let one = |phrase: &str| {
                    let fitting = fitting(&scene, phrase);
                    assert_eq!(fitting.len(), 1, "{question} is about one shape");
                    fitting[0]
                };
                let truth = if let Some(phrase) = text.strip_prefix("How many ") {
                    fitting(&scene, phrase.strip_suffix(" are there").unwrap()).len().to_string()
                } else if let Some(phrase) = text.strip_prefix("Is there a ") {
                    if fitting(&scene, phrase).is_empty() { "no".to_owned() } else { "yes".to_owned() }
                } else if let Some(phrase) = text.strip_prefix("What color is the ") {
                    COLORS[one(phrase).color].0.to_owned()
                } else if let Some(phrase) = text.strip_prefix("What is the ") {
                    KINDS[one(phrase).kind].to_owned()
                } else {
                    let text = text.strip_prefix("Is the ").unwrap();
                    let word = [" left of the ", " right of the ", " above the ", " below the "]
                        .into_iter()
                        .find(|w| text.contains(w));
                    let (a, b) = text.split_once(word.unwrap()).unwrap();
                    let (a, b) = (one(a), one(b));
                    let holds = match word.unwrap().trim().split(' ').next().unwrap() {
                        "left" => a.x < b.x,
                        "right" => a.x > b.x,
                        "above" => a.y < b.y,
                        _ => a.y > b.y,
                    };
                    if holds { "yes".to_owned() } else { "no".to_owned() }
                };
                assert_eq!(answer, truth, "{question} {:?}", scene.shapes);
                n_checked += 1;
            }
        }
        assert!(n_checked > 3000);
    }
}
