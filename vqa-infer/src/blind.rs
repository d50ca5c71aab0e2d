//! Swaps the images of a split, to measure how much a model relies on looking.

use std::collections::HashMap;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vqa_data::features::RegionSource;
use vqa_data::questions::Split;

/// Returns the region sources of a split with its images swapped: every question gets a different image from its own,
/// and all questions about one image get the same one. The images are permuted in a single cycle (Sattolo's algorithm,
/// seeded with `seed`), so that each replaces exactly one other.
///
/// Returns `None` if the split has fewer than two images.
pub fn shuffle_images(
    split: &Split,
    sources: &[Arc<dyn RegionSource>],
    seed: u64,
) -> Option<Vec<Arc<dyn RegionSource>>> {
    // Sources may share a file, and so images.
    let file = |source: usize| Arc::as_ptr(&sources[source]).cast::<()>();
    let mut images = Vec::new();
    let mut places = HashMap::new();
    let mut rows = vec![HashMap::new(); sources.len()];
    for (i, question) in split.questions.iter().enumerate() {
        let source = split.source_of(i);
        let Some(row) = sources[source].row(question.image_id) else { continue };
        let place = *places.entry((file(source), row)).or_insert_with(|| {
            images.push((source, row));
            images.len() - 1
        });
        rows[source].insert(question.image_id, place);
    }
    if images.len() < 2 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for i in (1..images.len()).rev() {
        images.swap(i, rng.random_range(0..i));
    }
    let images: Arc<[(usize, usize)]> = images.into();
    let all: Arc<[Arc<dyn RegionSource>]> = sources.into();
    let shuffled = rows.into_iter().zip(sources).map(|(rows, source)| -> Arc<dyn RegionSource> {
        Arc::new(Shuffled { name: source.name(), rows, images: images.clone(), sources: all.clone() })
    });
    Some(shuffled.collect())
}

/// A source that gives each image the regions of another.
struct Shuffled {
    name: String,
    /// The index of each image in `images`.
    rows: HashMap<u64, usize>,
    /// The source and row that each index stands for.
    images: Arc<[(usize, usize)]>,
    sources: Arc<[Arc<dyn RegionSource>]>,
}

impl Shuffled {
    fn other(&self, place: usize) -> (&dyn RegionSource, usize) {
        let (source, row) = self.images[place];
        (&*self.sources[source], row)
    }
}

impl RegionSource for Shuffled {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn n_images(&self) -> usize {
        self.images.len()
    }

    fn feature_dim(&self) -> usize {
        self.sources[0].feature_dim()
    }

    fn row(&self, image_id: u64) -> Option<usize> {
        self.rows.get(&image_id).copied()
    }

    fn n_regions(&self, place: usize) -> usize {
        let (source, row) = self.other(place);
        source.n_regions(row)
    }

    fn prefetch(&self, place: usize) {
        let (source, row) = self.other(place);
        source.prefetch(row);
    }

    fn read(&self, place: usize, features: &mut [f32], boxes: &mut [f32]) -> vqa_data::Result<()> {
        let (source, row) = self.other(place);
        source.read(row, features, boxes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vqa_data::batches::{Batch, Dataset};
    use vqa_data::questions::{AnswerDict, Question, WordDict};

    /// Images with one feature: their id plus a thousand times the file's number.
    struct Numbers(f32, usize);

    impl RegionSource for Numbers {
        fn name(&self) -> String {
            "numbers".to_owned()
        }
        fn n_images(&self) -> usize {
            self.1
        }
        fn feature_dim(&self) -> usize {
            1
        }
        fn row(&self, image_id: u64) -> Option<usize> {
            Some(image_id as usize)
        }
        fn n_regions(&self, row: usize) -> usize {
            1 + row % 3
        }
        fn read(&self, row: usize, features: &mut [f32], _: &mut [f32]) -> vqa_data::Result<()> {
            features.fill(1000.0 * self.0 + row as f32);
            Ok(())
        }
    }

    /// The features that a batch holds for questions about these images, source by source.
    fn features(images: &[Vec<u64>], sources: &[Arc<dyn RegionSource>]) -> Vec<f32> {
        let dataset = Dataset::new(
            split(images),
            &WordDict::from_questions(["why"]),
            &AnswerDict::from_answers(["yes"], 1),
            3,
            sources.to_vec(),
        )
        .unwrap();
        let batch = Batch::gather(&dataset, &(0..dataset.len()).collect::<Vec<_>>()).unwrap();
        batch.image_rows.iter().map(|&row| batch.features[row as usize * batch.max_regions]).collect()
    }

    fn split(images: &[Vec<u64>]) -> Split {
        let mut split = Split { source_starts: vec![0], ..Split::default() };
        for image_ids in images {
            let first = split.questions.len() as u64;
            split.questions.extend(image_ids.iter().enumerate().map(|(i, &image_id)| Question {
                question_id: first + i as u64,
                image_id,
                question: "why".into(),
            }));
            split.source_starts.push(split.questions.len());
        }
        split
    }

    #[test]
    fn every_question_has_another_image_and_every_image_one_place() {
        // The last two sources are the same file, and share images.
        let shared: Arc<dyn RegionSource> = Arc::new(Numbers(2.0, 40));
        let sources: Vec<Arc<dyn RegionSource>> = vec![Arc::new(Numbers(1.0, 9)), shared.clone(), shared];
        let images = [vec![3, 3, 5, 3], (0..30).collect(), (10..40).chain([10]).collect()];
        let own = features(&images, &sources);
        let others = |seed| features(&images, &shuffle_images(&split(&images), &sources, seed).unwrap());
        let shuffled = others(7);
        assert!(own.iter().zip(&shuffled).all(|(own, other)| own != other));
        let mut pairs: Vec<(u32, u32)> = own.iter().zip(&shuffled).map(|(&a, &b)| (a as u32, b as u32)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), 42, "all questions about an image have the same other one");
        let mut places: Vec<u32> = pairs.iter().map(|pair| pair.1).collect();
        places.sort_unstable();
        assert_eq!(places, pairs.iter().map(|pair| pair.0).collect::<Vec<_>>(), "each image is there once");
        assert_eq!(others(7), shuffled);
        assert_ne!(others(8), shuffled);
        let lonely = [vec![4, 4]];
        assert!(shuffle_images(&split(&lonely), &sources[..1], 7).is_none());
    }
}
