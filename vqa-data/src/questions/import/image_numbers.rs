//! The ids of pictures.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::features::image_name::image_id;
use crate::questions::import::pictures::{Picture, Pictures};

/// The ids of the pictures that are asked about.
#[derive(Debug, Default)]
pub(super) struct ImageNumbers {
    /// By picture.
    pub ids: HashMap<Picture, u64>,
    /// Pictures that had no id of their own, in order.
    pub assigned: Vec<Picture>,
}

impl ImageNumbers {
    /// Gives each picture an id: the one in the data, or else the number that its name ends in, by the rule for
    /// features. If there is neither, or another picture has that id, the picture gets the next free one, in order.
    pub(super) fn new(used: &BTreeSet<Picture>, of_data: &HashMap<Picture, u64>, pictures: &Pictures) -> ImageNumbers {
        let mut numbers = ImageNumbers::default();
        let mut taken = HashSet::new();
        for &picture in used {
            let own = of_data.get(&picture).copied().or_else(|| image_id(pictures.name(picture)));
            // Feature files store ids as signed numbers.
            match own.filter(|&id| i64::try_from(id).is_ok() && taken.insert(id)) {
                Some(id) => drop(numbers.ids.insert(picture, id)),
                None => numbers.assigned.push(picture),
            }
        }
        let mut next = 1;
        for &picture in &numbers.assigned {
            while !taken.insert(next) {
                next += 1;
            }
            numbers.ids.insert(picture, next);
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_where_there_are_some() {
        let names = ["a_1.jpg", "b_1.jpg", "c.jpg", "image3.jpg", "x_5.jpg", "y_18446744073709551615.jpg"];
        let pictures = Pictures::new(names.map(|name| (name.to_owned(), name.into())).to_vec());
        let numbers = ImageNumbers::new(&(0..6).collect(), &[(4, 70)].into(), &pictures);
        let ids: Vec<u64> = (0..6).map(|picture| numbers.ids[&picture]).collect();
        assert_eq!(ids, [1, 2, 3, 4, 70, 5]);
        assert_eq!(numbers.assigned, [1, 2, 3, 5]);
    }
}
