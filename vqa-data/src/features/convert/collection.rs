//! Files and folders of any format, as one collection of images.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::bad_image::BadImage;
use crate::features::convert::hdf5::{H5Input, in_order, is_hdf5};
use crate::features::convert::input::{Check, IndexedImage, Input, Unreadable};
use crate::features::convert::npz::NpzFolder;
use crate::features::convert::tsv::TsvFile;
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::fill::{Job, Scratch, fill};
use crate::features::finite::all_finite;
use crate::features::shard::Shard;
use crate::features::source::ImageRegions;
use crate::features::table::{FeatureTable, ImageEntry, same_bits};
use crate::features::writer::FeatureWriter;
use crate::files::atomic::IfExists;
use crate::files::fingerprint::Fingerprint;
use crate::files::partial::{journal_path, partial_path};
use crate::message::first_few;

/// Region features in any of the common formats, indexed, to be converted to feature files:
///
/// | format | what is in it |
/// | --- | --- |
/// | TSV | one line per image, arrays in base64: bottom-up-attention's 6 columns, or LXMERT's 10 |
/// | a folder of `.npz` (openvqa) | one per image: `x` [D, K] or [K, D], `bbox` [K, 4], maybe `image_w`, `image_h` |
/// | HDF5 | what [`FeatureFile`](crate::features::FeatureFile) opens; all shards of one job, in any order |
///
/// The name of an `.npz` file ends in the image id, as in `COCO_train2014_000000000009.jpg.npz`.
///
/// Several inputs are concatenated. TSV files and `.npz` are read piece by piece, so that memory does not grow with
/// them; HDF5 is memory-mapped.
pub struct Collection {
    inputs: Vec<Box<dyn Input>>,
    /// The images that can be used.
    images: Vec<ImagePosition>,
    bad: Vec<BadImage>,
    feature_dim: usize,
    /// The paths that were opened.
    paths: Vec<PathBuf>,
    made_from: Fingerprint,
}

/// A file for [`Collection::convert`] to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The file.
    pub path: PathBuf,
    /// The images that go into it; all of them if `None`.
    pub image_ids: Option<HashSet<u64>>,
    /// What to do with a finished file of that name.
    pub if_exists: IfExists,
}

impl Collection {
    /// Opens files and folders, and finds their images. `progress` is called with the number of bytes just examined,
    /// out of [`Collection::n_bytes`].
    ///
    /// Images that are malformed, differ in feature length from the first, or are duplicates are set aside: see
    /// [`Collection::bad_images`].
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or there is no image that can be used.
    pub fn open(paths: &[PathBuf], check: Check, progress: &(dyn Fn(u64) + Sync)) -> Result<Collection> {
        let mut bad = Vec::new();
        let mut made_from = Fingerprint::default();
        let inputs = open_inputs(paths, check, &mut made_from, &mut bad, progress)?;
        // So that an image that cannot be read does not stand in the way of a later one of the same id.
        let broken = match check {
            Check::Index => BTreeMap::new(),
            Check::Everything => read_all(&inputs)?,
        };
        let (images, feature_dim) = usable(&inputs, broken, &mut bad);
        bad.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        match bad.first() {
            Some(bad) if images.is_empty() => {
                let problem = format!("no usable image in it; {}", bad.problem);
                Err(Error::BadImage(BadImage { problem, ..bad.clone() }))
            }
            _ => Ok(Collection { inputs, images, bad, feature_dim, paths: paths.to_vec(), made_from }),
        }
    }

    /// Number of bytes in the files and folders; missing ones count as 0.
    pub fn n_bytes(paths: &[PathBuf]) -> u64 {
        let of_file = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let of_folder = |path: &Path| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| of_file(&entry.path())).sum()
        };
        paths.iter().map(|path| if path.is_dir() { of_folder(path) } else { of_file(path) }).sum()
    }

    /// Number of images.
    pub fn n_images(&self) -> usize {
        self.images.len()
    }

    /// Length of a feature vector, D.
    pub fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    /// Images that were set aside, by file and line.
    pub fn bad_images(&self) -> &[BadImage] {
        &self.bad
    }

    /// The default type to store the features in: float16 if all of them are, float32 otherwise.
    pub fn element_type(&self) -> ElementType {
        let all_half = self.inputs.iter().all(|input| input.element_type() == ElementType::F16);
        if all_half && !self.inputs.is_empty() { ElementType::F16 } else { ElementType::F32 }
    }

    /// Writes each output's images to it in order, or only a shard of them to [`Shard::path`]; every image is read
    /// once. Decodes in parallel, in constant memory, and resumes a run that was killed. `progress` is called with the
    /// number of images just done, out of [`Collection::n_wanted`].
    ///
    /// # Errors
    ///
    /// When an output wants images that are not there, an image is malformed, its values are NaN, infinite or too large
    /// for the type, or a file cannot be written. Unfinished outputs are left unchanged.
    pub fn convert(
        &self,
        outputs: &[Output],
        element_type: ElementType,
        shard: Option<Shard>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let wanted = self.wanted(outputs, shard)?;
        let paths: Vec<PathBuf> = outputs.iter().map(|output| Shard::output(shard, &output.path)).collect();
        self.refuse_clashes(&paths)?;
        let common = self.common_attributes();
        let mut writers = Vec::new();
        for ((path, output), (wanted, n_all)) in paths.iter().zip(outputs).zip(&wanted) {
            let mut attributes = common.clone();
            attributes.extend(shard.map(|shard| (Shard::ATTRIBUTE.to_owned(), shard.to_attribute(*n_all))));
            let table = FeatureTable {
                images: wanted.iter().map(|&image| self.indexed(image).entry).collect(),
                feature_dim: self.feature_dim,
                element_type,
                extractor: self.common_extractor(),
                attributes,
            };
            writers.push(FeatureWriter::resume(path, table, &self.made_from.finish(), output.if_exists)?);
        }
        let make = |image: usize, scratch: &mut Scratch| {
            let (input, index) = self.images[image];
            read(&*self.inputs[input], index, scratch).map_err(|unreadable| match unreadable {
                Unreadable::Malformed(problem) => Error::BadImage(self.bad_image(image, problem)),
                Unreadable::Error(error) => error,
            })
        };
        fill(writers, &jobs(&wanted), &make, progress)
    }

    /// Returns those of `image_ids` that are not among the usable images, in ascending order.
    pub fn missing(&self, image_ids: &HashSet<u64>) -> Vec<u64> {
        let there: HashSet<u64> = (0..self.images.len()).map(|image| self.indexed(image).entry.image_id).collect();
        let mut missing: Vec<u64> = image_ids.difference(&there).copied().collect();
        missing.sort_unstable();
        missing
    }

    /// How many images [`Collection::convert`] will read.
    ///
    /// # Errors
    ///
    /// When an output wants images that are not there.
    pub fn n_wanted(&self, outputs: &[Output], shard: Option<Shard>) -> Result<usize> {
        Ok(jobs(&self.wanted(outputs, shard)?).len())
    }

    /// The indices of the images that each output gets, in ascending order; and how many it would get without a shard.
    fn wanted(&self, outputs: &[Output], shard: Option<Shard>) -> Result<Vec<(Vec<usize>, usize)>> {
        let of_output = |output: &Output| {
            let mut wanted: Vec<usize> = (0..self.images.len()).collect();
            if let Some(ids) = &output.image_ids {
                wanted.retain(|&image| ids.contains(&self.indexed(image).entry.image_id));
                if wanted.len() < ids.len() {
                    let mut missing = self.missing(ids);
                    return Err(Error::mismatch(
                        &output.path,
                        format!(
                            "{} of the {} images listed for it are not in the input (image ids {}): give all inputs, \
                             or remove these ids from the list",
                            missing.len(),
                            ids.len(),
                            first_few(&mut missing)
                        ),
                    ));
                }
            }
            let n_all = wanted.len();
            if let Some(shard) = shard {
                wanted = wanted[shard.range(n_all)].to_vec();
            }
            Ok((wanted, n_all))
        };
        outputs.iter().map(of_output).collect()
    }

    /// Checks that no output is an input, and that each has files of its own, including the unfinished ones.
    fn refuse_clashes(&self, outputs: &[PathBuf]) -> Result<()> {
        let mut seen: HashSet<PathBuf> = self.paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
        for output in outputs {
            let mut paths = vec![output.clone(), partial_path(output), journal_path(output)];
            // A path without a file name, such as `..`, has no unfinished file.
            paths.dedup();
            for path in paths {
                let whole =
                    path.canonicalize().or_else(|_| std::path::absolute(&path)).map_err(Error::io("write", &path))?;
                if !seen.insert(whole) {
                    return Err(Error::invalid(format!(
                        "{}: {} is also an input or another output: choose another file to write",
                        output.display(),
                        path.display()
                    )));
                }
            }
        }
        Ok(())
    }

    fn indexed(&self, image: usize) -> &IndexedImage {
        let (input, index) = self.images[image];
        &self.inputs[input].images()[index]
    }

    fn bad_image(&self, image: usize, problem: String) -> BadImage {
        let IndexedImage { path, line, .. } = self.indexed(image);
        BadImage { path: path.clone(), line: *line, problem }
    }

    /// How the regions were extracted, if all inputs say so.
    fn common_extractor(&self) -> Option<ExtractorInfo> {
        let first = self.inputs.first()?.extractor()?;
        self.inputs.iter().all(|input| input.extractor().is_some()).then(|| first.clone())
    }

    /// The attributes that all inputs agree on.
    fn common_attributes(&self) -> BTreeMap<String, Vec<f64>> {
        let mut inputs = self.inputs.iter().map(|input| input.attributes());
        let mut common = inputs.next().unwrap_or_default();
        common.remove(Shard::ATTRIBUTE);
        inputs.for_each(|other| {
            common.retain(|name, values| other.get(name).is_some_and(|others| same_bits(values, others)));
        });
        common
    }
}

/// Reads an image into `scratch.regions`, and checks that it has the size given by the index, and only finite values.
fn read(input: &dyn Input, image: usize, scratch: &mut Scratch) -> Result<(), Unreadable> {
    input.read(image, scratch)?;
    let IndexedImage { entry: ImageEntry { image_id, n_regions, .. }, feature_dim, .. } = input.images()[image];
    let ImageRegions { features, boxes } = &scratch.regions;
    if [features.len(), boxes.len()] != [n_regions * feature_dim, n_regions * 4] {
        return Err(Unreadable::Malformed(format!("image {image_id} has changed while it was read")));
    }
    if !all_finite(features) || !all_finite(boxes) {
        return Err(Unreadable::Malformed(format!("image {image_id} has NaN or infinite features or boxes")));
    }
    Ok(())
}

/// Opens each file or folder in its own format.
fn open_inputs(
    paths: &[PathBuf],
    check: Check,
    made_from: &mut Fingerprint,
    bad: &mut Vec<BadImage>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Box<dyn Input>>> {
    let (h5, others): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| is_hdf5(path));
    if !h5.is_empty() && !others.is_empty() {
        let problem = "not an HDF5 file, unlike other inputs: convert files of one format at a time";
        return Err(Error::mismatch(others[0], problem));
    }
    let mut h5_inputs = Vec::new();
    for path in h5 {
        made_from.add_file(path)?;
        h5_inputs.push(H5Input::open(path)?);
    }
    let mut inputs: Vec<Box<dyn Input>> = Vec::new();
    for input in in_order(h5_inputs)? {
        inputs.push(Box::new(input));
    }
    for path in others {
        if path.is_dir() {
            inputs.push(Box::new(NpzFolder::open(path, made_from, bad, progress)?));
        } else {
            made_from.add_file(path)?;
            inputs.push(Box::new(TsvFile::open(path, check, bad, progress)?));
        }
    }
    Ok(inputs)
}

/// Which input an image is in, and its index there.
type ImagePosition = (usize, usize);

fn positions(inputs: &[Box<dyn Input>]) -> impl Iterator<Item = ImagePosition> {
    inputs.iter().enumerate().flat_map(|(i, input)| (0..input.images().len()).map(move |j| (i, j)))
}

/// Reads every image, and says what is wrong with those that cannot be read.
fn read_all(inputs: &[Box<dyn Input>]) -> Result<BTreeMap<ImagePosition, String>> {
    let read = |scratch: &mut Scratch, &(input, index): &ImagePosition| match read(&*inputs[input], index, scratch) {
        Ok(()) => Ok(None),
        Err(Unreadable::Malformed(problem)) => Ok(Some(((input, index), problem))),
        Err(Unreadable::Error(error)) => Err(error),
    };
    let positions: Vec<ImagePosition> = positions(inputs).collect();
    let results = positions.par_iter().with_min_len(4).map_init(Scratch::default, read);
    results.filter_map(Result::transpose).collect()
}

/// The images that can be used, in order, and the length of their feature vectors; the others are added to `bad`.
fn usable(
    inputs: &[Box<dyn Input>],
    mut broken: BTreeMap<ImagePosition, String>,
    bad: &mut Vec<BadImage>,
) -> (Vec<ImagePosition>, usize) {
    let indexed = |&(i, j): &ImagePosition| &inputs[i].images()[j];
    let first =
        positions(inputs).find(|position| indexed(position).entry.n_regions > 0 && !broken.contains_key(position));
    let feature_dim = first.map_or(0, |position| indexed(&position).feature_dim);
    let mut seen: HashMap<u64, ImagePosition, FixedState> = HashMap::default();
    let mut images = Vec::new();
    for position in positions(inputs) {
        let IndexedImage { entry: ImageEntry { image_id, n_regions, .. }, feature_dim: dim, path, line } =
            indexed(&position);
        let problem = if let Some(problem) = broken.remove(&position) {
            problem
        } else if *n_regions > 0 && *dim != feature_dim {
            format!("image {image_id} has {dim} values per region, but earlier ones have {feature_dim}")
        } else if let Some(earlier) = seen.get(image_id).map(indexed) {
            let there = earlier.path.display();
            match earlier.line {
                Some(line) if earlier.path == *path => format!("image {image_id} again, first on line {line}"),
                Some(line) => format!("image {image_id} again, first on line {line} of {there}"),
                None => format!("image {image_id} again, first in {there}"),
            }
        } else {
            seen.insert(*image_id, position);
            images.push(position);
            continue;
        };
        bad.push(BadImage { path: path.clone(), line: *line, problem });
    }
    (images, feature_dim)
}

/// The images of several outputs, each once, with its row in every output that wants it.
fn jobs(wanted: &[(Vec<usize>, usize)]) -> Vec<Job> {
    let mut targets: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (output, (images, _)) in wanted.iter().enumerate() {
        for (row, &image) in images.iter().enumerate() {
            targets.entry(image).or_default().push((output, row));
        }
    }
    targets.into_iter().map(|(source, targets)| Job { source, targets }).collect()
}
