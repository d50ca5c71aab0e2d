//! Feature files as input: another element type, another layout, some of the images, several files as one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::features::convert::input::{IndexedImage, Input, Unreadable};
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::file::FeatureFile;
use crate::features::fill::Scratch;
use crate::features::shard::Shard;
use crate::features::source::RegionSource;
use crate::files::input::open_input;

pub(super) struct H5Input {
    file: FeatureFile,
    images: Vec<IndexedImage>,
    element_type: ElementType,
    attributes: BTreeMap<String, Vec<f64>>,
    /// Which shard the file is, if it is one, and the number of images in all shards.
    shard: Option<(Shard, usize)>,
}

impl H5Input {
    pub(super) fn open(path: &Path) -> Result<H5Input> {
        let file = FeatureFile::open(path)?;
        let table = file.table()?;
        let feature_dim = table.feature_dim;
        let indexed = |entry| IndexedImage { entry, feature_dim, path: path.to_owned(), line: None };
        let images = table.images.into_iter().map(indexed).collect();
        let shard = table.attributes.get(Shard::ATTRIBUTE).and_then(|values| Shard::from_attribute(values));
        Ok(H5Input { file, images, element_type: table.element_type, attributes: table.attributes, shard })
    }
}

impl Input for H5Input {
    fn images(&self) -> &[IndexedImage] {
        &self.images
    }

    fn element_type(&self) -> ElementType {
        self.element_type
    }

    fn extractor(&self) -> Option<&ExtractorInfo> {
        self.file.extractor()
    }

    fn attributes(&self) -> BTreeMap<String, Vec<f64>> {
        self.attributes.clone()
    }

    fn read(&self, image: usize, scratch: &mut Scratch) -> Result<(), Unreadable> {
        let n = self.file.n_regions(image);
        scratch.regions.features.resize(n * self.file.feature_dim(), 0.0);
        scratch.regions.boxes.resize(n * 4, 0.0);
        let read = self.file.read_features(image, &mut scratch.regions.features);
        read.and_then(|()| self.file.read_boxes(image, &mut scratch.regions.boxes)).map_err(|error| match error {
            // A chunk that HDF5 cannot decompress, say.
            Error::Damaged { problem, .. } => {
                Unreadable::Malformed(format!("image {}: {problem}", self.images[image].entry.image_id))
            }
            other => Unreadable::Error(other),
        })
    }
}

/// Whether a file begins with HDF5's signature, perhaps after a user block. A file that cannot be read counts as none:
/// its error comes later.
pub(super) fn is_hdf5(path: &Path) -> bool {
    const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";
    let Ok(mut file) = open_input(path) else { return false };
    let mut start = Vec::new();
    if file.by_ref().take(4096 + 8).read_to_end(&mut start).is_err() {
        return false;
    }
    [0, 512, 1024, 2048, 4096].iter().any(|&at| start.get(at..at + 8) == Some(SIGNATURE))
}

/// Refuses features of different extractors, which cannot be one collection.
fn refuse_other_extractors(inputs: &[H5Input]) -> Result<()> {
    let Some(first) = inputs.iter().find(|input| input.extractor().is_some()) else { return Ok(()) };
    let first_name = first.file.name();
    for input in inputs {
        if let Some(problem) = ExtractorInfo::mismatch(input.extractor(), first.extractor(), &first_name) {
            return Err(Error::mismatch(input.file.path(), problem));
        }
    }
    Ok(())
}

/// Returns the files in the order given, except that shards are put in order once it is certain that they are all there
/// and of one job.
pub(super) fn in_order(mut inputs: Vec<H5Input>) -> Result<Vec<H5Input>> {
    refuse_other_extractors(&inputs)?;
    let Some((first, n_images)) = inputs.iter().find_map(|input| input.shard) else { return Ok(inputs) };
    let count = first.count();
    let element_type = inputs[0].element_type;
    let mut paths: Vec<Option<&Path>> = vec![None; count as usize];
    for input in &inputs {
        let path = input.file.path();
        let Some((shard, _)) = input.shard.filter(|(shard, n)| (shard.count(), *n) == (count, n_images)) else {
            let problem = format!(
                "not one of {count} shards of {n_images} images, unlike other inputs: merge only the shards of one job"
            );
            return Err(Error::mismatch(path, problem));
        };
        if let Some(twin) = paths[shard.index() as usize - 1].replace(path) {
            let (index, twin) = (shard.index(), twin.display());
            return Err(Error::duplicate(
                path,
                format!("is shard {index} of {count}, and so is {twin}: give each once"),
            ));
        }
        if input.images.len() != shard.range(n_images).len() || input.element_type != element_type {
            let problem = "does not fit the other shards: make all of them from the same input, with the same options";
            return Err(Error::mismatch(path, problem));
        }
    }
    let missing: Vec<String> =
        (1..).zip(&paths).filter(|(_, path)| path.is_none()).map(|(index, _): (u32, _)| index.to_string()).collect();
    if !missing.is_empty() {
        let problem = format!("is one of {count} shards, of which {} missing: give all of them", is_or_are(&missing));
        return Err(Error::mismatch(inputs[0].file.path(), problem));
    }
    inputs.sort_by_key(|input| input.shard.map(|(shard, _)| shard.index()));
    Ok(inputs)
}

/// "3 is" or "3, 5, 6 are".
fn is_or_are(shards: &[String]) -> String {
    const FEW: usize = 10;
    let more = if shards.len() > FEW { ", …" } else { "" };
    let verb = if shards.len() == 1 { "is" } else { "are" };
    format!("{}{more} {verb}", shards[..shards.len().min(FEW)].join(", "))
}
