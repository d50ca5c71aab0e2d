//! The order of the questions of an epoch.

use std::collections::{BTreeMap, HashMap, VecDeque};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::batches::dataset::Dataset;

/// The order of the questions of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Questions, reshuffled each epoch.
    #[default]
    Random,
    /// Images, reshuffled each epoch, with all questions about an image in one batch, so that batches have fewer
    /// distinct images. An image's questions are split only if a batch could not be filled otherwise.
    Grouped,
    /// Questions in the order of the files.
    Sequential,
}

impl Sampler {
    /// Returns the dataset indices of an epoch's questions, in order. They are the same for the same seed, epoch and
    /// batch size; the batch size matters only to [`Sampler::Grouped`].
    pub fn order(self, dataset: &Dataset, batch_size: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        let mut order: Vec<usize> = (0..dataset.len()).collect();
        match self {
            Sampler::Sequential => {}
            Sampler::Random => order.shuffle(&mut rng),
            Sampler::Grouped => {
                let mut groups: Vec<Vec<usize>> = Vec::new();
                let mut group_of = HashMap::new();
                for question in order.drain(..) {
                    let group = *group_of.entry(dataset.location(question)).or_insert_with(|| {
                        groups.push(Vec::new());
                        groups.len() - 1
                    });
                    groups[group].push(question);
                }
                groups.shuffle(&mut rng);
                order = pack(groups, batch_size);
            }
        }
        order
    }
}

/// Concatenates groups so that batch boundaries fall between them. Groups stay in the given order, but if the next one
/// would not fit, or would leave room that no group could fill, another one is preferred; if there is none, a group is
/// cut.
fn pack(groups: Vec<Vec<usize>>, batch_size: usize) -> Vec<usize> {
    let mut groups: Vec<Option<Vec<usize>>> = groups.into_iter().map(Some).collect();
    let mut by_size: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for (i, group) in groups.iter().flatten().enumerate() {
        by_size.entry(group.len()).or_default().push_back(i);
    }
    let mut order = Vec::with_capacity(groups.iter().flatten().map(Vec::len).sum());
    let mut next = 0;
    while next < groups.len() {
        let Some(size) = groups[next].as_ref().map(Vec::len) else {
            next += 1;
            continue;
        };
        let room = batch_size - order.len() % batch_size;
        let smallest = by_size.first_key_value().map_or(0, |(&size, _)| size);
        let fits = |size: usize| size == room || size + smallest <= room;
        let mut others = by_size.range(..=room).rev().filter(|&(&size, _)| fits(size));
        let other = if fits(size) { None } else { others.next() };
        let (chosen, size) = other.map_or((next, size), |(&size, groups)| (groups[0], size));
        // Either way, it is the first group of its size.
        let same_size = by_size.get_mut(&size).expect("a group that is left");
        same_size.pop_front();
        if same_size.is_empty() {
            by_size.remove(&size);
        }
        let mut group = groups[chosen].take().expect("a group that is left");
        if size > room {
            // The rest of it starts the next batch.
            groups[chosen] = Some(group.split_off(room));
            by_size.entry(size - room).or_default().push_front(chosen);
        }
        order.extend(group);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Groups of consecutive numbers, of these sizes.
    fn groups(sizes: &[usize]) -> Vec<Vec<usize>> {
        let mut end = 0;
        let group = |&size: &usize| {
            end += size;
            (end - size..end).collect()
        };
        sizes.iter().map(group).collect()
    }

    /// How many groups are in more than one batch.
    fn n_cut(sizes: &[usize], order: &[usize], batch_size: usize) -> usize {
        let mut batch_of = vec![0; order.len()];
        order.iter().enumerate().for_each(|(i, &question)| batch_of[question] = i / batch_size);
        groups(sizes).iter().filter(|group| group.iter().any(|&i| batch_of[i] != batch_of[group[0]])).count()
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(sizes in prop::collection::vec(1usize..12, 0..200), batch_size in 1usize..40) {
            let mut order = pack(groups(&sizes), batch_size);
            // Each batch boundary cuts at most one group.
            prop_assert!(n_cut(&sizes, &order, batch_size) <= order.len().div_ceil(batch_size));
            order.sort_unstable();
            prop_assert_eq!(order, (0..sizes.iter().sum()).collect::<Vec<_>>());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// As in VQA2.0: three or more questions per image, mostly four to six.
        #[test]
        fn groups_stay_whole(
            sizes in prop::collection::vec(prop_oneof![3usize..12, 4usize..7], 2000), batch_size in 100usize..513
        ) {
            let order = pack(groups(&sizes), batch_size);
            prop_assert!(n_cut(&sizes, &order, batch_size) <= 5);
        }
    }

    #[test]
    fn groups_are_cut_only_where_nothing_fits() {
        for (sizes, batch_size, n) in [
            (&[3, 3, 2, 2, 1, 1][..], 4, 0),
            (&[1, 1, 2, 4, 3, 1], 4, 0),
            (&[3, 3, 2], 4, 1),
            (&[9, 3], 4, 1),
            (&[5; 8], 12, 3),
        ] {
            let order = pack(groups(sizes), batch_size);
            assert_eq!(n_cut(sizes, &order, batch_size), n, "{sizes:?}: {order:?}");
        }
    }
}
