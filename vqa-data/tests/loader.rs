//! Batches: complete, in the seed's order, the same for any number of threads.

use std::collections::HashSet;
use std::sync::Arc;

use vqa_data::batches::{Batch, Dataset, Loader, LoaderOptions, Sampler, Share};
use vqa_data::features::RegionSource;
use vqa_data::questions::{Annotations, AnswerDict, Question, Split, WordDict};
use vqa_data::{Error, Result};

/// Images with one to three regions whose features are the image's id.
struct Numbered {
    n_images: usize,
}

impl RegionSource for Numbered {
    fn name(&self) -> String {
        "numbered".to_owned()
    }

    fn n_images(&self) -> usize {
        self.n_images
    }

    fn feature_dim(&self) -> usize {
        2
    }

    fn row(&self, image_id: u64) -> Option<usize> {
        (image_id as usize).checked_sub(100).filter(|&row| row < self.n_images)
    }

    fn n_regions(&self, row: usize) -> usize {
        1 + row % 3
    }

    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> Result<()> {
        if row == 66 {
            return Err(Error::other("row 66 is broken"));
        }
        features.fill(100.0 + row as f32);
        boxes.fill(row as f32);
        Ok(())
    }
}

/// Three questions for each of `n_images` images, in an order that separates them.
fn dataset(n_images: usize) -> Dataset {
    let questions: Vec<Question> = (0..3 * n_images as u64)
        .map(|i| Question {
            question_id: i,
            image_id: 100 + i % n_images as u64,
            question: format!("word{}", i % 7).into(),
        })
        .collect();
    let words = WordDict::from_questions(questions.iter().map(|question| &*question.question));
    let split =
        Split { source_starts: vec![0, questions.len()], questions, annotations: Annotations::new(), cut_from: None };
    Dataset::new(split, &words, &AnswerDict::default(), 4, vec![Arc::new(Numbered { n_images })]).unwrap()
}

fn loader(n_images: usize, sampler: Sampler, seed: u64) -> Loader {
    Loader::new(
        Arc::new(dataset(n_images)),
        LoaderOptions { batch_size: 16, sampler, seed, prefetch: 3, ..LoaderOptions::default() },
    )
}

fn epoch(loader: &Loader, epoch: u64) -> Vec<Batch> {
    loader.epoch(epoch, 0).collect::<Result<_>>().unwrap()
}

#[test]
fn an_epoch_has_every_question_once_with_its_own_image() {
    for sampler in [Sampler::Random, Sampler::Grouped, Sampler::Sequential] {
        let loader = loader(50, sampler, 1);
        let batches = epoch(&loader, 0);
        assert_eq!(batches.len(), loader.n_batches());
        let mut seen: Vec<u64> = batches.iter().flat_map(|batch| batch.question_ids.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..150).collect::<Vec<_>>(), "{sampler:?}");
        for batch in &batches {
            let distinct: HashSet<u64> = batch.image_ids.iter().copied().collect();
            assert_eq!(batch.n_images(), distinct.len());
            assert_eq!(batch.features.len(), batch.n_images() * batch.max_regions * 2);
            for i in 0..batch.len() {
                let (image, n) = (batch.image_rows[i] as usize, batch.boxes_of(i).count());
                let regions = &batch.features[image * batch.max_regions * 2..][..batch.max_regions * 2];
                let id = batch.image_ids[i];
                assert_eq!(n, 1 + (id as usize - 100) % 3);
                assert!(regions[..n * 2].iter().all(|&x| x == id as f32));
                assert!(regions[n * 2..].iter().all(|&x| x == 0.0), "zero past the last region");
                assert_eq!(batch.tokens[i * 4..][..4][3], batch.question_ids[i] as i64 % 7);
            }
        }
    }
}

#[test]
fn the_order_depends_on_seed_and_epoch_alone() {
    let order = |loader: &Loader, e: u64| -> Vec<u64> {
        epoch(loader, e).into_iter().flat_map(|batch| batch.question_ids).collect()
    };
    for sampler in [Sampler::Random, Sampler::Grouped] {
        let (a, b, c) = (loader(50, sampler, 1), loader(50, sampler, 1), loader(50, sampler, 2));
        assert_eq!(order(&a, 3), order(&b, 3));
        assert_ne!(order(&a, 3), order(&a, 4));
        assert_ne!(order(&a, 3), order(&c, 3));
    }
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let all = Batch::gather(&dataset(50), &(0..150).collect::<Vec<_>>()).unwrap();
    assert_eq!(one_thread.install(|| Batch::gather(&dataset(50), &(0..150).collect::<Vec<_>>()).unwrap()), all);
}

#[test]
fn an_epoch_can_start_at_any_batch() {
    for sampler in [Sampler::Random, Sampler::Grouped, Sampler::Sequential] {
        let loader = loader(50, sampler, 1);
        let rest: Vec<Batch> = loader.epoch(2, 7).collect::<Result<_>>().unwrap();
        assert_eq!(rest, epoch(&loader, 2)[7..]);
    }
}

#[test]
fn grouped_batches_have_few_images() {
    let n_images = |sampler| epoch(&loader(50, sampler, 1), 0).iter().map(|batch| batch.n_images()).max().unwrap();
    // 150 questions in batches of 16, three per image: five complete images, and one that is cut.
    assert!(n_images(Sampler::Grouped) <= 6);
    assert!(n_images(Sampler::Random) > 10);
}

#[test]
fn an_error_ends_the_epoch_and_dropping_it_early_is_fine() {
    let results: Vec<_> = loader(70, Sampler::Sequential, 1).epoch(0, 0).collect();
    assert!(results.last().unwrap().is_err());
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    let mut batches = loader(50, Sampler::Random, 1).epoch(0, 0);
    assert!(batches.next().is_some());
    drop(batches);
}

#[test]
fn images_without_features_are_counted() {
    let questions =
        (0..9).map(|i| Question { question_id: i, image_id: 97 + i, question: "".into() }).collect::<Vec<_>>();
    let split = Split { source_starts: vec![0, 9], questions, annotations: Annotations::new(), cut_from: None };
    let source = Arc::new(Numbered { n_images: 5 });
    let error = Dataset::new(split, &WordDict::default(), &AnswerDict::default(), 4, vec![source]).err().unwrap();
    let error = error.to_string();
    assert!(
        error.contains("numbered: it lacks the features of 4 images") && error.contains("97, 98, 99, 105"),
        "{error}"
    );
}

/// Each part is what gathering its questions would give, apart from the padding of regions.
#[test]
fn batches_are_cut_into_parts() {
    let dataset = dataset(20);
    let questions: Vec<usize> = (0..23).map(|i| (i * 7) % 60).collect();
    let batch = Batch::gather(&dataset, &questions).unwrap();
    for n in [1, 2, 5, 23, 99] {
        let parts = batch.clone().parts(n);
        assert!(parts.len() <= n && parts.iter().map(Batch::len).sum::<usize>() == 23);
        let mut start = 0;
        for part in parts {
            assert_eq!((part.first, part.whole), (start, batch.whole));
            let expected = Batch::gather(&dataset, &questions[start..start + part.len()]).unwrap();
            start += part.len();
            let rows = |batch: &Batch, n: usize| -> Vec<f32> {
                let len = batch.max_regions * batch.feature_dim;
                batch.features.chunks(len.max(1)).flat_map(|image| image[..n * batch.feature_dim].to_vec()).collect()
            };
            assert_eq!(rows(&part, expected.max_regions), rows(&expected, expected.max_regions));
            for i in 0..part.len() {
                assert_eq!(part.boxes_of(i).collect::<Vec<_>>(), expected.boxes_of(i).collect::<Vec<_>>());
            }
            let same = Batch {
                features: expected.features.clone(),
                boxes: expected.boxes.clone(),
                max_regions: expected.max_regions,
                first: expected.first,
                whole: expected.whole,
                ..part
            };
            assert_eq!(same, expected);
        }
    }
}

/// Whatever the order and the number of processes, combined they give the epoch of a single one, in its order.
#[test]
fn processes_share_an_epoch() {
    for sampler in [Sampler::Random, Sampler::Grouped, Sampler::Sequential] {
        let whole = loader(23, sampler, 6);
        let expected = epoch(&whole, 2);
        for of in 1..6 {
            let shares: Vec<Vec<Batch>> =
                (0..of).map(|process| epoch(&whole.with_share(Share::OfEachBatch { process, of }), 2)).collect();
            for (number, batch) in expected.iter().enumerate() {
                let of_batch: Vec<&Batch> = shares.iter().map(|share| &share[number]).collect();
                let questions: Vec<usize> = of_batch.iter().flat_map(|share| share.questions.clone()).collect();
                assert_eq!(questions, batch.questions, "{sampler:?} {of}");
                let mut images: Vec<u64> = Vec::new();
                for share in of_batch {
                    assert_eq!(share.whole, batch.whole);
                    assert!(share.is_empty() || batch.questions[share.first] == share.questions[0]);
                    let mut of_share = share.image_ids.clone();
                    of_share.dedup();
                    images.extend(of_share);
                }
                let mut of_whole = batch.image_ids.clone();
                of_whole.dedup();
                assert_eq!(images, of_whole, "no image is cut");
            }
            let mut batches: Vec<_> = (0..of)
                .map(|process| epoch(&whole.with_share(Share::OfBatches { process, of }), 2).into_iter())
                .collect();
            for (number, batch) in expected.iter().enumerate() {
                assert_eq!(batches[number % of].next().as_ref(), Some(batch));
            }
            assert!(batches.iter_mut().all(|rest| rest.next().is_none()));
        }
    }
}

/// The features that a batch leaves out are those of its images in the dataset.
#[test]
fn batches_without_features() {
    let whole = loader(60, Sampler::Random, 4);
    let dataset = whole.dataset();
    let bare = Loader::new(dataset.clone(), LoaderOptions { features: false, ..*whole.options() });
    assert_eq!(dataset.n_images(), 60);
    for (with, without) in epoch(&whole, 1).into_iter().zip(epoch(&bare, 1)) {
        assert!(without.features.is_empty() && without.boxes.is_empty());
        for (place, &image) in with.images.iter().enumerate() {
            let n = dataset.n_regions(image);
            let (mut features, mut boxes) = (vec![0.0; n * 2], vec![0.0; n * 4]);
            dataset.read_regions(image..image + 1, &mut features, &mut boxes).unwrap();
            assert_eq!(features, with.features[place * with.max_regions * 2..][..features.len()]);
            assert_eq!(boxes, with.boxes[place * with.max_regions * 4..][..boxes.len()]);
        }
        let parts = [&with, &without].map(|batch| batch.clone().parts(3));
        let same = Batch { features: with.features.clone(), boxes: with.boxes.clone(), ..without };
        assert_eq!(same, with);
        for (with, without) in parts[0].iter().zip(&parts[1]) {
            assert_eq!((&with.images, &with.n_regions), (&without.images, &without.n_regions));
        }
    }
    let all = |images: std::ops::Range<usize>| {
        let n: usize = images.clone().map(|image| dataset.n_regions(image)).sum();
        let (mut features, mut boxes) = (vec![0.0; n * 2], vec![0.0; n * 4]);
        dataset.read_regions(images, &mut features, &mut boxes).map(|()| features)
    };
    assert_eq!(all(0..60).unwrap(), [all(0..7), all(7..7), all(7..60)].map(Result::unwrap).concat());
    let broken = loader(80, Sampler::Random, 4).dataset().clone();
    let n: usize = (60..70).map(|image| broken.n_regions(image)).sum();
    let (mut features, mut boxes) = (vec![0.0; n * 2], vec![0.0; n * 4]);
    let error = broken.read_regions(60..70, &mut features, &mut boxes).unwrap_err();
    assert!(error.to_string().contains("row 66 is broken"));
}
