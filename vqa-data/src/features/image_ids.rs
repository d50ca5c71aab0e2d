//! Which row holds which image.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::features::container::Container;
use crate::files::mmap::map_file;
use crate::files::pickle::{Pickle, Value};

/// The image id of each row, and the row of each image id.
#[derive(Debug)]
pub(super) struct ImageIds {
    ids: Vec<u64>,
    rows: HashMap<u64, u32>,
}

impl ImageIds {
    pub(super) fn ids(&self) -> &[u64] {
        &self.ids
    }

    pub(super) fn row(&self, image_id: u64) -> Option<usize> {
        self.rows.get(&image_id).map(|&row| row as usize)
    }

    /// Reads the ids from `image_ids` in the file, or else from the pickle beside it.
    pub(super) fn open(container: &Container, n_images: usize) -> Result<ImageIds> {
        let path = container.path();
        if let Some(dataset) = container.dataset("image_ids")? {
            let n_ids = dataset.hdf5.size();
            if n_ids != n_images {
                return Err(Error::mismatch(
                    path,
                    format!("image_ids has {n_ids} entries, but there are {n_images} images"),
                ));
            }
            return ImageIds::new(path, dataset.read_whole_numbers()?);
        }
        let candidates = pickles_beside(path);
        match candidates.iter().find(|candidate| candidate.exists()) {
            Some(pickle) => ImageIds::new(pickle, read_pickle(pickle, n_images)?),
            None => {
                let names: Vec<_> = candidates.iter().map(|c| format!("{}", c.display())).collect();
                Err(Error::wrong_format(
                    path,
                    format!(
                        "no \"image_ids\" in it, and neither of {} beside it: nothing says which row is which image",
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    fn new(path: &Path, ids: Vec<u64>) -> Result<ImageIds> {
        let mut rows = HashMap::with_capacity(ids.len());
        for (row, &id) in ids.iter().enumerate() {
            if let Some(earlier) = rows.insert(id, row as u32) {
                return Err(Error::duplicate(path, format!("image {id} has two rows, {earlier} and {row}")));
            }
        }
        Ok(ImageIds { ids, rows })
    }
}

/// `train36.hdf5` has `train36_imgid2idx.pkl`, by the convention of bottom-up-attention-vqa.
fn pickles_beside(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    vec![path.with_file_name(format!("{stem}_imgid2idx.pkl")), path.with_file_name("imgid2idx.pkl")]
}

/// Reads a pickled dict {image id: row} into the ids in order of rows.
fn read_pickle(path: &Path, n_images: usize) -> Result<Vec<u64>> {
    let bytes = map_file(path)?;
    let pickle =
        Pickle::read(&bytes).map_err(|problem| Error::damaged(path, format!("not a readable pickle: {problem}")))?;
    let Some(entries) = pickle.root().as_dict() else {
        let problem = format!("the pickle is {}, not a dict {{image id: row}}", pickle.root());
        return Err(Error::wrong_format(path, problem));
    };
    let mut row_of: HashMap<u64, usize> = HashMap::with_capacity(entries.len());
    for (key, value) in entries {
        match (image_id(key), value.as_int().and_then(|row| usize::try_from(row).ok())) {
            (Some(id), Some(row)) => drop(row_of.insert(id, row)),
            _ => return Err(Error::damaged(path, format!("the entry {key}: {value} is not {{image id: row}}"))),
        }
    }
    if row_of.len() != n_images {
        return Err(Error::mismatch(
            path,
            format!(
                "it names {} images, but the feature file beside it has {n_images}: the two do not belong together",
                row_of.len()
            ),
        ));
    }
    let mut ids = vec![None; n_images];
    for (id, row) in row_of {
        match ids.get_mut(row) {
            Some(slot @ None) => *slot = Some(id),
            taken => {
                let why = if taken.is_some() { "but also to another" } else { "but there is no such row" };
                let problem = format!("row {row} of {n_images} is given to image {id}, {why}");
                return Err(Error::damaged(path, problem));
            }
        }
    }
    Ok(ids.into_iter().map(|id| id.expect("n images in n distinct rows")).collect())
}

/// Reads an id: a number, or its digits as text.
fn image_id(key: Value) -> Option<u64> {
    match key.as_text() {
        Some(text) => text.parse().ok(),
        None => u64::try_from(key.as_int()?).ok(),
    }
}
