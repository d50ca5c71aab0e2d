use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Result;

/// One of several parts of a job, for machines that know nothing of each other: `3/8` is the third of eight.
///
/// ```
/// let shard: vqa_data::features::Shard = "3/8".parse().unwrap();
/// assert_eq!(shard.range(100), 25..37);
/// assert_eq!(shard.path("train.h5".as_ref()), std::path::Path::new("train.shard-3-of-8.h5"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// The attribute of a feature file that says which shard it is: (index, count, number of images in all shards).
    pub(crate) const ATTRIBUTE: &str = "shard";

    /// The largest count: more must be a typing error.
    const MOST: u32 = 100_000;

    /// Shard `index` of `count`, counted from 1. Returns `None` if there is no such shard.
    pub fn new(index: u32, count: u32) -> Option<Shard> {
        ((1..=count).contains(&index) && count <= Shard::MOST).then_some(Shard { index, count })
    }

    /// The index of the shard, counted from 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The number of shards.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The range of this shard's items among `n`. The ranges of all shards, one after the other, cover all items in
    /// order.
    pub fn range(self, n: usize) -> Range<usize> {
        let edge = |i: u32| (n as u128 * u128::from(i) / u128::from(self.count)) as usize;
        edge(self.index - 1)..edge(self.index)
    }

    /// The path of the shard's own file, beside that of the whole job. Sorted by name, these files are in order.
    pub fn path(self, whole: &Path) -> PathBuf {
        let width = self.count.to_string().len();
        let mut name = whole.file_stem().unwrap_or_default().to_os_string();
        name.push(format!(".shard-{:0width$}-of-{}", self.index, self.count));
        if let Some(extension) = whole.extension() {
            name.push(".");
            name.push(extension);
        }
        whole.with_file_name(name)
    }

    /// The path of the file to write: that of the shard, or `whole` without one.
    pub fn output(shard: Option<Shard>, whole: &Path) -> PathBuf {
        shard.map_or_else(|| whole.to_owned(), |shard| shard.path(whole))
    }

    /// The items of a shard, or all of them without one.
    pub fn part<T>(shard: Option<Shard>, all: &[T]) -> &[T] {
        shard.map_or(all, |shard| &all[shard.range(all.len())])
    }

    pub(crate) fn to_attribute(self, n_images: usize) -> Vec<f64> {
        vec![f64::from(self.index), f64::from(self.count), n_images as f64]
    }

    /// The shard, and the number of images in all shards.
    pub(crate) fn from_attribute(values: &[f64]) -> Option<(Shard, usize)> {
        match *values {
            [index, count, n_images] => Some((Shard::new(index as u32, count as u32)?, n_images as usize)),
            _ => None,
        }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parse = || {
            let (index, count) = text.split_once('/')?;
            Shard::new(index.trim().parse().ok()?, count.trim().parse().ok()?)
        };
        parse().ok_or_else(|| "a shard is I/N with I from 1 to N, as in 3/8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shards_are_the_whole_in_order(n in 0usize..1000, count in 1u32..40) {
            let shards = (1..=count).map(|index| Shard::new(index, count).unwrap());
            let things: Vec<usize> = shards.clone().flat_map(|shard| shard.range(n)).collect();
            prop_assert_eq!(things, (0..n).collect::<Vec<_>>());
            let paths: Vec<PathBuf> = shards.map(|shard| shard.path(Path::new("a/b.c.h5"))).collect();
            prop_assert!(paths.is_sorted());
        }
    }

    #[test]
    fn slips_are_refused() {
        for bad in ["0/8", "9/8", "3", "3/", "-1/2", "1/0", "a/b", "1/999999999"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
        assert_eq!(Shard::new(3, 120).unwrap().path(Path::new("x/y")), Path::new("x/y.shard-003-of-120"));
    }
}
