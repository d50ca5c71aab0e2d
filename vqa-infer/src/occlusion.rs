//! Answers with some regions of each image hidden, to test whether the attention shows where an answer comes from.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Kind, Tensor};
use vqa_data::batches::Batch;
use vqa_data::questions::{Annotation, Annotations};
use vqa_data::random::split_mix_64;
use vqa_model::feed::Feed;
use vqa_model::loss::LossKind;
use vqa_model::{ModelInput, ModelOutput, VqaModel};

use crate::error::Result;
use crate::predict::{for_each_batch, probabilities, to_vec};

/// Which regions are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OcclusionOptions {
    /// How many regions of each image are hidden: once the most attended ones, and `n_draws` times random ones.
    pub n_regions: usize,
    /// How often random regions are drawn.
    pub n_draws: usize,
    /// The seed of the random draws.
    pub seed: u64,
}

/// How the answer to a question changes when some regions of its image are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Occluded {
    /// With the most attended regions hidden.
    pub attended: Change,
    /// With random regions hidden: the mean over all draws.
    pub chance: Change,
}

/// How much an answer changes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Change {
    /// Whether it becomes another answer: 0 or 1 for one question, a fraction for several draws or questions.
    pub changed: f64,
    /// How far the probability of the original answer falls; negative if it rises.
    pub fall: f64,
}

/// Answers all questions of a feed, and again with some regions hidden. The results are in the order of the dataset;
/// `None` for an image that would have no region left. `loss` determines how logits become probabilities. `progress` is
/// called with the number of questions just done.
///
/// # Errors
///
/// When the features cannot be read.
pub fn occlude_all(
    model: &dyn VqaModel,
    loss: LossKind,
    feed: &Feed,
    options: OcclusionOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Option<Occluded>>> {
    let mut all = vec![None; feed.loader().dataset().len()];
    for_each_batch(feed, progress, |batch, input| {
        for (&question, occluded) in batch.questions.iter().zip(occlude(model, loss, batch, &input, options)) {
            all[question] = occluded;
        }
    })?;
    Ok(all)
}

fn occlude(
    model: &dyn VqaModel,
    loss: LossKind,
    batch: &Batch,
    input: &ModelInput,
    options: OcclusionOptions,
) -> Vec<Option<Occluded>> {
    let OcclusionOptions { n_regions, n_draws, seed } = options;
    let whole = model.infer(input);
    let [n_questions, max_regions] = [whole.attention.size()[0], whole.attention.size()[1]];
    let own_regions: Vec<usize> = batch.image_rows.iter().map(|&row| batch.n_regions[row as usize]).collect();
    let answers = whole.logits.argmax(1, true);
    let probability =
        |output: &ModelOutput| to_vec::<f32>(&probabilities(&output.logits, loss).gather(1, &answers, false));
    let (first_answers, first_probability) = (whole.best_answers(), probability(&whole));

    let mut hiding = Hiding::new(input, n_questions);
    let mut without = |regions: &Tensor| -> Vec<Change> {
        let output = hiding.infer(model, regions, max_regions);
        let changes = output
            .best_answers()
            .into_iter()
            .zip(probability(&output))
            .zip(first_answers.iter().zip(&first_probability));
        changes
            .map(|((answer, probability), (&first_answer, &first_probability))| Change {
                changed: f64::from(u8::from(answer != first_answer)),
                fall: f64::from(first_probability) - f64::from(probability),
            })
            .collect()
    };

    // In an image with too few regions any may be hidden: its result is dropped in the end.
    let n_taken = n_regions.min(max_regions as usize);
    let attended = without(&most_attended(&whole.attention, input, n_taken as i64));
    let mut chance = vec![Change::default(); n_questions as usize];
    let mut draws: Vec<ChaCha8Rng> = batch
        .questions
        .iter()
        .map(|&question| ChaCha8Rng::seed_from_u64(split_mix_64(seed ^ split_mix_64(question as u64))))
        .collect();
    for _ in 0..n_draws {
        let draw = |(rng, &own): (&mut ChaCha8Rng, &usize)| {
            let among = if own > n_taken { own } else { max_regions as usize };
            index::sample(rng, among, n_taken).into_iter().map(|region| region as i64).collect::<Vec<_>>()
        };
        let regions: Vec<i64> = draws.iter_mut().zip(&own_regions).flat_map(draw).collect();
        let regions =
            Tensor::from_slice(&regions).view([n_questions, n_taken as i64]).to_device(input.features.device());
        for (sum, change) in chance.iter_mut().zip(without(&regions)) {
            sum.changed += change.changed / n_draws as f64;
            sum.fall += change.fall / n_draws as f64;
        }
    }
    let occluded = attended.into_iter().zip(chance).zip(own_regions);
    occluded.map(|((attended, chance), own)| (own > n_regions).then_some(Occluded { attended, chance })).collect()
}

/// The indices of the `n` most attended regions of each question, [B, n].
fn most_attended(attention: &Tensor, input: &ModelInput, n: i64) -> Tensor {
    let attention = match padding_of_questions(input) {
        Some(padding) => attention.masked_fill(&padding, -1.0),
        None => attention.shallow_clone(),
    };
    attention.topk(n, 1, true, false).1
}

/// Which regions of each question's image are padding, [B, K].
fn padding_of_questions(input: &ModelInput) -> Option<Tensor> {
    input.padding.as_ref().map(|padding| padding.index_select(0, &input.image_rows))
}

/// A batch with one copy of the image for each question, since different regions are hidden for each.
struct Hiding {
    asked: ModelInput,
    /// Which regions are padding, [B, K].
    padding: Option<Tensor>,
}

impl Hiding {
    fn new(input: &ModelInput, n_questions: i64) -> Hiding {
        let asked = ModelInput {
            tokens: input.tokens.shallow_clone(),
            features: input.features.index_select(0, &input.image_rows),
            boxes: input.boxes.index_select(0, &input.image_rows),
            image_rows: Tensor::arange(n_questions, (Kind::Int64, input.image_rows.device())),
            padding: None,
            dropout: None,
            order: None,
        };
        Hiding { asked, padding: padding_of_questions(input) }
    }

    /// Runs the model on the batch with `regions` [B, n] hidden, of up to `max_regions` in each image.
    fn infer(&mut self, model: &dyn VqaModel, regions: &Tensor, max_regions: i64) -> ModelOutput {
        let hidden = Tensor::zeros([regions.size()[0], max_regions], (Kind::Bool, regions.device()));
        let hidden = hidden.scatter_value(1, regions, 1);
        self.asked.padding = Some(match &self.padding {
            Some(padding) => hidden.logical_or(padding),
            None => hidden,
        });
        model.infer(&self.asked)
    }
}

/// The best answer to each question of a batch with the most attended region hidden, and its probability according to
/// `loss`. `attention` [B, K] says where the model looked. `None` for an image that has only one region.
pub(crate) fn answer_without_top(
    model: &dyn VqaModel,
    loss: LossKind,
    batch: &Batch,
    input: &ModelInput,
    attention: &Tensor,
) -> Vec<Option<(i64, f32)>> {
    let [n_questions, max_regions] = [attention.size()[0], attention.size()[1]];
    if n_questions == 0 {
        return Vec::new();
    }
    let output = Hiding::new(input, n_questions).infer(model, &most_attended(attention, input, 1), max_regions);
    let answers = output.best_answers();
    let ids = Tensor::from_slice(&answers).view([-1, 1]).to_device(output.logits.device());
    let probability = probabilities(&output.logits, loss).gather(1, &ids, false);
    let best = answers.into_iter().zip(to_vec::<f32>(&probability.to_kind(Kind::Float)));
    let own_regions = batch.image_rows.iter().map(|&row| batch.n_regions[row as usize]);
    own_regions.zip(best).map(|(own, best)| (own > 1).then_some(best)).collect()
}

/// The means over the questions of a split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Occlusion {
    /// Which regions were hidden.
    #[serde(flatten)]
    pub options: OcclusionOptions,
    /// How many questions are left out because hiding the regions would leave none.
    pub n_left_out: usize,
    /// Over all questions.
    pub overall: OcclusionMeans,
    /// By "yes/no", "number" and "other".
    #[serde(rename = "perAnswerType")]
    pub per_answer_type: BTreeMap<String, OcclusionMeans>,
    /// By the first words of the question.
    #[serde(rename = "perQuestionType")]
    pub per_question_type: BTreeMap<String, OcclusionMeans>,
}

/// The means over some questions, in percent and percentage points.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct OcclusionMeans {
    /// How many questions there are.
    pub n_questions: usize,
    /// With the most attended regions hidden.
    pub attended: Change,
    /// With random regions hidden.
    pub chance: Change,
}

impl Occlusion {
    /// The means of what [`occlude_all`] returned, overall and, with annotations, by their types.
    pub fn mean(occluded: &[Option<Occluded>], options: OcclusionOptions, annotations: &Annotations) -> Occlusion {
        let mut mean = Occlusion {
            options,
            n_left_out: occluded.iter().filter(|occluded| occluded.is_none()).count(),
            overall: OcclusionMeans::default(),
            per_answer_type: BTreeMap::new(),
            per_question_type: BTreeMap::new(),
        };
        for (question, occluded) in occluded.iter().enumerate() {
            let Some(occluded) = occluded else { continue };
            mean.overall.add(occluded);
            if let Some(Annotation { answer_type, question_type, .. }) = annotations.get(question) {
                mean.per_answer_type.entry(answer_type.to_owned()).or_default().add(occluded);
                mean.per_question_type.entry(question_type.to_owned()).or_default().add(occluded);
            }
        }
        mean.overall.finish();
        mean.per_answer_type.values_mut().chain(mean.per_question_type.values_mut()).for_each(OcclusionMeans::finish);
        mean
    }
}

impl OcclusionMeans {
    fn add(&mut self, occluded: &Occluded) {
        self.n_questions += 1;
        for (sum, change) in [(&mut self.attended, occluded.attended), (&mut self.chance, occluded.chance)] {
            sum.changed += change.changed;
            sum.fall += change.fall;
        }
    }

    /// Turns sums into means.
    fn finish(&mut self) {
        let n = self.n_questions.max(1) as f64;
        for sum in [&mut self.attended, &mut self.chance] {
            sum.changed *= 100.0 / n;
            sum.fall *= 100.0 / n;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tch::Device;
    use vqa_data::batches::{Dataset, Loader, LoaderOptions};
    use vqa_data::features::RegionSource;
    use vqa_data::questions::{AnswerDict, Question, Split, WordDict};
    use vqa_model::feed::FeedOptions;

    const N_IMAGES: usize = 90;

    /// Images of one to six regions, of which number 7 x image mod regions is marked.
    struct OneOfAll;

    impl RegionSource for OneOfAll {
        fn name(&self) -> String {
            "one of all".to_owned()
        }
        fn n_images(&self) -> usize {
            N_IMAGES
        }
        fn feature_dim(&self) -> usize {
            1
        }
        fn row(&self, image_id: u64) -> Option<usize> {
            Some(image_id as usize)
        }
        fn n_regions(&self, row: usize) -> usize {
            1 + row % 6
        }
        fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> vqa_data::Result<()> {
            features.fill(0.0);
            features[7 * row % self.n_regions(row)] = 1.0;
            boxes.fill(0.0);
            Ok(())
        }
    }

    /// Answers with the number of the marked region, and puts nearly all of its attention there, if it sees that
    /// region.
    struct Finder;

    impl VqaModel for Finder {
        fn forward(&self, input: &ModelInput, _: bool) -> ModelOutput {
            let found = input.features.squeeze_dim(2) * 20.0; // [N, K]
            let found = match &input.padding {
                Some(padding) => found.masked_fill(padding, -1000.0),
                None => found,
            };
            let logits = found.index_select(0, &input.image_rows);
            ModelOutput { attention: logits.softmax(1, Kind::Float), logits }
        }
    }

    fn occluded(n_regions: usize, batch_size: usize) -> Vec<Option<Occluded>> {
        // Two questions about each image, not next to each other.
        let question =
            |i: usize| Question { question_id: i as u64, image_id: (i % N_IMAGES) as u64, question: "where".into() };
        let questions: Vec<Question> = (0..2 * N_IMAGES).map(question).collect();
        let split = Split { source_starts: vec![0, questions.len()], questions, ..Split::default() };
        let answers = AnswerDict::from_answers(["0", "1", "2", "3", "4", "5"], 1);
        let source: Arc<dyn RegionSource> = Arc::new(OneOfAll);
        let dataset = Dataset::new(split, &WordDict::from_questions(["where"]), &answers, 3, vec![source]).unwrap();
        let loader = Loader::new(Arc::new(dataset), LoaderOptions { batch_size, ..LoaderOptions::default() });
        let feed = Feed::new(&loader, FeedOptions::new(Device::Cpu), &mut |_, _| {}).unwrap();
        let options = OcclusionOptions { n_regions, n_draws: 50, seed: 3 };
        occlude_all(&Finder, LossKind::Softmax, &feed, options, &mut |_| {}).unwrap()
    }

    #[test]
    fn an_answer_that_comes_from_one_region_changes_without_it() {
        for n_regions in [1, 2, 5] {
            let all = occluded(n_regions, 32);
            for (question, occluded) in all.iter().enumerate() {
                let own = OneOfAll.n_regions(question % N_IMAGES);
                assert_eq!(occluded.is_some(), own > n_regions, "{question}");
                let Some(Occluded { attended, chance }) = occluded else { continue };
                assert_eq!(attended.changed, 1.0, "{question}");
                assert!((0.99..=1.0).contains(&attended.fall), "{question}: {attended:?}");
                // It changes exactly when a random draw has hit that region.
                assert!((chance.changed - chance.fall).abs() < 1e-3, "{question}: {chance:?}");
            }
            // In images with `own` regions, a random draw hits it with probability n_regions / own.
            for own in n_regions + 1..=6 {
                let hits: Vec<f64> = (0..2 * N_IMAGES)
                    .filter(|question| OneOfAll.n_regions(question % N_IMAGES) == own)
                    .map(|question| all[question].unwrap().chance.changed)
                    .collect();
                let share = hits.iter().sum::<f64>() / hits.len() as f64;
                let expected = n_regions as f64 / own as f64;
                assert!((share - expected).abs() < 0.05, "{n_regions} of {own}: {share}, and {expected} is expected");
            }
        }
    }

    /// Hiding the region that the answer comes from changes the answer; the remaining regions all look the same.
    #[test]
    fn the_answer_without_the_top_region_is_another() {
        let image_ids: Vec<u64> = (0..N_IMAGES as u64).collect();
        let question = |&image_id: &u64| Question { question_id: image_id, image_id, question: "where".into() };
        let questions: Vec<Question> = image_ids.iter().map(question).collect();
        let split = Split { source_starts: vec![0, questions.len()], questions, ..Split::default() };
        let answers = AnswerDict::from_answers(["0", "1", "2", "3", "4", "5"], 1);
        let source: Arc<dyn RegionSource> = Arc::new(OneOfAll);
        let dataset = Dataset::new(split, &WordDict::from_questions(["where"]), &answers, 3, vec![source]).unwrap();
        let batch = Batch::gather(&dataset, &(0..N_IMAGES).collect::<Vec<_>>()).unwrap();
        let input = ModelInput::from_batch(&batch, Device::Cpu, Kind::Float);
        let whole = Finder.infer(&input);
        let without = answer_without_top(&Finder, LossKind::Softmax, &batch, &input, &whole.attention);
        for (image, (without, first)) in without.into_iter().zip(whole.best_answers()).enumerate() {
            let own = OneOfAll.n_regions(image);
            assert_eq!(first as usize, 7 * image % own);
            assert_eq!(without.is_some(), own > 1, "{image}");
            let Some((answer, probability)) = without else { continue };
            assert!(answer != first && (answer as usize) < own, "{image}: {answer}");
            assert!((probability - 1.0 / (own - 1) as f32).abs() < 1e-4, "{image}: {probability}");
        }
    }

    #[test]
    fn batches_make_no_difference() {
        assert_eq!(occluded(2, 7), occluded(2, 64));
    }

    #[test]
    fn means_are_by_type() {
        let change = |changed, fall| Change { changed, fall };
        let occluded = [
            Some(Occluded { attended: change(1.0, 0.5), chance: change(0.2, 0.1) }),
            None,
            Some(Occluded { attended: change(0.0, -0.1), chance: change(0.0, 0.0) }),
        ];
        let options = OcclusionOptions { n_regions: 1, n_draws: 5, seed: 0 };
        let mean = Occlusion::mean(&occluded, options, &Annotations::new());
        assert_eq!((mean.n_left_out, mean.overall.n_questions), (1, 2));
        let found = [mean.overall.attended.changed, mean.overall.attended.fall, mean.overall.chance.changed];
        assert!(
            found.iter().zip([50.0, 20.0, 10.0]).all(|(found, expected)| (found - expected).abs() < 1e-9),
            "{mean:?}"
        );
        assert!(mean.per_answer_type.is_empty());
    }
}
