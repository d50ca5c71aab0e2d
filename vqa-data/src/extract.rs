//! Region features without a detector: the cells of a grid, as standardised pixels.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{ImageError, ImageReader, RgbImage};
use rayon::prelude::*;

use crate::features::{
    ElementType, FeatureFile, FeatureTable, FeatureWriter, ImageEntry, ImageRegions, Job, Scratch, fill,
};
use crate::fingerprint::Fingerprint;
use crate::text::number_at_end;
use crate::{Error, Result, Shard};

/// How pictures are cut into regions. Each cell of the grid, row by row, and then the whole picture if
/// wanted, is resized to P x P pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Cells from top to bottom.
    pub rows: u32,
    /// Cells from left to right.
    pub columns: u32,
    /// Whether the whole picture is a region too, the last one.
    pub whole: bool,
    /// P, the side in pixels that every region is resized to.
    pub patch: u32,
}

/// Mean and standard deviation of the red, green and blue values, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStats {
    /// Mean of each channel.
    pub mean: [f64; 3],
    /// Standard deviation of each channel.
    pub std: [f64; 3],
}

/// A picture to extract from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The number at the end of the file's stem.
    pub image_id: u64,
    /// The file.
    pub path: PathBuf,
}

/// The JPEG and PNG files in a directory, in order of the image ids, each of which is the number at the end
/// of the file's stem: `COCO_val2014_000000000042.jpg` is image 42.
///
/// # Errors
///
/// When the directory cannot be read or has no pictures, a stem ends in no number, or two files have the
/// same id.
pub fn list_pictures(directory: &Path) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(Error::io("read the directory", directory))? {
        let path = entry.map_err(Error::io("read the directory", directory))?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if !["jpg", "jpeg", "png"].iter().any(|known| extension == *known) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let image_id = number_at_end(&stem).ok_or_else(|| {
            Error::file(
                &path,
                "the name ends in no image id: name pictures like COCO_train2014_000000000009.jpg, or move others away",
            )
        })?;
        pictures.push(Picture { image_id, path });
    }
    pictures.sort_by_key(|picture| picture.image_id);
    if let Some(twins) = pictures.windows(2).find(|pair| pair[0].image_id == pair[1].image_id) {
        return Err(Error::file(
            &twins[1].path,
            format!("has the image id {}, like {}: rename one", twins[1].image_id, twins[0].path.display()),
        ));
    }
    if pictures.is_empty() {
        return Err(Error::file(directory, "no .jpg, .jpeg or .png files in it"));
    }
    Ok(pictures)
}

/// Decodes a picture to RGB.
///
/// # Errors
///
/// When the file is missing, damaged, or not a JPEG or PNG.
pub fn read_picture(path: &Path) -> Result<RgbImage> {
    Ok(open_picture(path)?.decode().map_err(unreadable(path))?.into_rgb8())
}

/// Width and height of a picture, without decoding the rest.
fn read_size(path: &Path) -> Result<[u32; 2]> {
    let (width, height) = open_picture(path)?.into_dimensions().map_err(unreadable(path))?;
    Ok([width, height])
}

fn open_picture(path: &Path) -> Result<ImageReader<BufReader<File>>> {
    let reader = ImageReader::open(path).map_err(Error::io("read", path))?;
    reader.with_guessed_format().map_err(Error::io("read", path))
}

fn unreadable(path: &Path) -> impl FnOnce(ImageError) -> Error {
    move |e| Error::file(path, format!("not a readable picture ({e}): fetch it again, or take it out of the directory"))
}

impl ChannelStats {
    /// Measures the pixels of all pictures, in parallel. `progress` is called with the number of pictures
    /// just done.
    ///
    /// # Errors
    ///
    /// When a picture cannot be decoded.
    pub fn measure(pictures: &[Picture], progress: &(dyn Fn(u64) + Sync)) -> Result<ChannelStats> {
        // Integer sums, so that the result does not depend on how the work was split.
        let [n, sums @ ..] = pictures
            .par_iter()
            .map(|picture| {
                let mut totals = [0u128; 7];
                for pixel in read_picture(&picture.path)?.pixels() {
                    totals[0] += 1;
                    for (channel, &value) in pixel.0.iter().enumerate() {
                        totals[1 + channel] += u128::from(value);
                        totals[4 + channel] += u128::from(value) * u128::from(value);
                    }
                }
                progress(1);
                Ok(totals)
            })
            .try_reduce(|| [0; 7], |a, b| Ok(std::array::from_fn(|i| a[i] + b[i])))?;
        let n = n as f64;
        let mean = std::array::from_fn(|c| sums[c] as f64 / n / 255.0);
        let std = std::array::from_fn(|c| {
            let mean: f64 = sums[c] as f64 / n;
            let variance = sums[3 + c] as f64 / n - mean * mean;
            // A channel that never varies is left as it is.
            let std = variance.max(0.0).sqrt() / 255.0;
            if std > 0.0 { std } else { 1.0 }
        });
        Ok(ChannelStats { mean, std })
    }
}

impl Grid {
    /// Number of regions, K.
    pub fn n_regions(&self) -> usize {
        self.rows as usize * self.columns as usize + usize::from(self.whole)
    }

    /// Length of a feature vector, D = 3 P².
    pub fn feature_dim(&self) -> usize {
        (self.patch as usize).saturating_pow(2).saturating_mul(3)
    }

    /// Cuts a picture into its regions. Features are channel by channel, each P rows of P pixels,
    /// (value / 255 - mean) / std.
    ///
    /// # Errors
    ///
    /// When the picture has fewer pixels than the grid has cells, in either direction.
    pub fn regions(&self, picture: &RgbImage, stats: &ChannelStats) -> Result<ImageRegions, String> {
        let (width, height) = picture.dimensions();
        if width < self.columns || height < self.rows {
            return Err(format!("{width} x {height} pixels are too few for {} x {} cells", self.rows, self.columns));
        }
        let edge = |i: u32, n: u32, length: u32| (u64::from(i) * u64::from(length) / u64::from(n)) as u32;
        let mut boxes = Vec::with_capacity(self.n_regions() * 4);
        let mut features = Vec::with_capacity(self.n_regions() * self.feature_dim());
        let mut add = |x1: u32, y1: u32, x2: u32, y2: u32| {
            boxes.extend([x1, y1, x2, y2].map(|corner| corner as f32));
            let region = imageops::crop_imm(picture, x1, y1, x2 - x1, y2 - y1);
            let patch = if (x2 - x1, y2 - y1) == (self.patch, self.patch) {
                region.to_image()
            } else {
                imageops::resize(&*region, self.patch, self.patch, FilterType::Triangle)
            };
            for channel in 0..3 {
                let scale = 1.0 / (255.0 * stats.std[channel]);
                let shift = stats.mean[channel] / stats.std[channel];
                features.extend(patch.pixels().map(|pixel| (f64::from(pixel.0[channel]) * scale - shift) as f32));
            }
        };
        for row in 0..self.rows {
            let (y1, y2) = (edge(row, self.rows, height), edge(row + 1, self.rows, height));
            for column in 0..self.columns {
                add(edge(column, self.columns, width), y1, edge(column + 1, self.columns, width), y2);
            }
        }
        if self.whole {
            add(0, 0, width, height);
        }
        Ok(ImageRegions { features, boxes })
    }

    /// The grid and standardisation that a file was extracted with, for extracting others like it.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or was not made by [`Extraction::write`].
    pub fn like(path: &Path) -> Result<(Grid, ChannelStats)> {
        let file = FeatureFile::open(path)?;
        let (grid, mean, std) = (file.attribute("grid"), file.attribute("mean"), file.attribute("std"));
        let (&[rows, columns], &[whole], &[patch], Ok(mean), Ok(std)) =
            (&grid[..], &file.attribute("whole")[..], &file.attribute("patch")[..], mean.try_into(), std.try_into())
        else {
            return Err(Error::file(
                path,
                "it does not say with which grid, patch, mean and std it was made: only files from `vqa features extract` do",
            ));
        };
        let grid = Grid { rows: rows as u32, columns: columns as u32, whole: whole != 0.0, patch: patch as u32 };
        let stats = ChannelStats { mean, std };
        if grid.n_regions() == 0 || grid.patch == 0 || stats.std.iter().any(|&std| std.is_nan() || std <= 0.0) {
            return Err(Error::file(path, format!("its {grid:?} and {stats:?} make no features: it is damaged")));
        }
        Ok((grid, stats))
    }
}

/// The most that the features of one picture may be: more is a slip of the finger.
const MAX_PICTURE_BYTES: usize = 1 << 28;

/// How pictures become a feature file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extraction {
    /// How they are cut.
    pub grid: Grid,
    /// How they are standardised: the same for all files that a model sees.
    pub stats: ChannelStats,
    /// How the features are stored.
    pub element_type: ElementType,
    /// Which of the pictures; all of them if nothing.
    pub shard: Option<Shard>,
}

impl Extraction {
    /// Extracts the regions of pictures into a feature file, in parallel and in constant memory; or those of a shard, to
    /// [`Shard::path`]. It goes on with a run that was killed. `progress` is called with the number of pictures just done.
    ///
    /// # Errors
    ///
    /// When a picture cannot be decoded or is too small for the grid, its features would be over 256 MiB, or the
    /// file cannot be written. There is no file of that name then; what the system refused, the same call goes on with.
    pub fn write(&self, pictures: &[Picture], out: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let Extraction { grid, stats, element_type, shard } = *self;
        let bytes = grid.n_regions().saturating_mul(grid.feature_dim()).saturating_mul(4);
        if bytes > MAX_PICTURE_BYTES {
            let problem = format!(
                "{} regions of {} numbers are {:.1} GB for each picture: take fewer cells or a smaller patch",
                grid.n_regions(),
                grid.feature_dim(),
                bytes as f64 / 1e9
            );
            return Err(Error::file(out, problem));
        }
        let n_pictures = pictures.len();
        let pictures = &pictures[shard.map_or(0..pictures.len(), |shard| shard.range(pictures.len()))];
        let entry = |picture: &Picture| {
            let size = read_size(&picture.path)?;
            Ok(ImageEntry { image_id: picture.image_id, size: Some(size), n_regions: grid.n_regions() })
        };
        let mut attributes = BTreeMap::from([
            ("grid".to_owned(), vec![f64::from(grid.rows), f64::from(grid.columns)]),
            ("whole".to_owned(), vec![f64::from(u8::from(grid.whole))]),
            ("patch".to_owned(), vec![f64::from(grid.patch)]),
            ("mean".to_owned(), stats.mean.to_vec()),
            ("std".to_owned(), stats.std.to_vec()),
        ]);
        attributes.extend(shard.map(|shard| (Shard::ATTRIBUTE.to_owned(), shard.to_attribute(n_pictures))));
        let table = FeatureTable {
            images: pictures.par_iter().map(entry).collect::<Result<_>>()?,
            feature_dim: grid.feature_dim(),
            element_type,
            attributes,
        };
        let mut made_from = Fingerprint::default();
        pictures.iter().try_for_each(|picture| made_from.add_file(&picture.path))?;
        let writer = FeatureWriter::resume(&Shard::output(shard, out), table, &made_from.finish())?;
        let jobs: Vec<Job> = (0..pictures.len()).map(|i| Job { source: i, targets: vec![(0, i)] }).collect();
        let make = |i: usize, scratch: &mut Scratch| {
            let path = &pictures[i].path;
            let pixels = read_picture(path)?;
            scratch.regions = grid.regions(&pixels, &stats).map_err(|problem| Error::file(path, problem))?;
            Ok(())
        };
        fill(vec![writer], &jobs, &make, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(rows: u32, columns: u32, whole: bool, patch: u32) -> Grid {
        Grid { rows, columns, whole, patch }
    }

    const PLAIN: ChannelStats = ChannelStats { mean: [0.0; 3], std: [1.0 / 255.0; 3] };

    #[test]
    fn cells_tile_the_picture() {
        let picture = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let regions = grid(2, 3, true, 1).regions(&picture, &PLAIN).unwrap();
        let boxes: Vec<&[f32]> = regions.boxes.chunks(4).collect();
        assert_eq!(boxes[0], [0.0, 0.0, 2.0, 2.0]);
        assert_eq!(boxes[5], [4.0, 2.0, 7.0, 5.0]);
        assert_eq!(boxes[6], [0.0, 0.0, 7.0, 5.0]);
        let area: f32 = boxes[..6].iter().map(|b| (b[2] - b[0]) * (b[3] - b[1])).sum();
        assert_eq!(area, 35.0);
        assert!(grid(6, 1, false, 1).regions(&picture, &PLAIN).is_err());
    }

    #[test]
    fn a_cell_of_the_patch_size_is_its_pixels() {
        let picture = RgbImage::from_fn(4, 4, |x, y| image::Rgb([10 * x as u8, 10 * y as u8, 200]));
        let regions = grid(2, 2, false, 2).regions(&picture, &PLAIN).unwrap();
        let second: Vec<f32> = regions.features[12..24].iter().map(|x| x.round()).collect();
        assert_eq!(second, [20.0, 30.0, 20.0, 30.0, 0.0, 0.0, 10.0, 10.0, 200.0, 200.0, 200.0, 200.0]);
    }

    #[test]
    fn extracted_features_are_standardised_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let images = directory.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for id in [3u32, 1] {
            let picture =
                RgbImage::from_fn(8, 8, |x, y| image::Rgb([(x * 30) as u8, (y * 20 + id) as u8, (x * y) as u8]));
            picture.save(images.join(format!("x_{id:05}.png"))).unwrap();
        }
        std::fs::write(images.join("notes.txt"), "not a picture").unwrap();
        let pictures = list_pictures(&images).unwrap();
        let stats = ChannelStats::measure(&pictures, &|_| {}).unwrap();
        let grid = grid(2, 2, false, 4);
        let out = directory.path().join("f.h5");
        let extraction = Extraction { grid, stats, element_type: ElementType::F32, shard: None };
        extraction.write(&pictures, &out, &|_| {}).unwrap();
        assert_eq!(Grid::like(&out).unwrap(), (grid, stats));

        let file = FeatureFile::open(&out).unwrap();
        assert_eq!(file.image_ids(), [1, 3]);
        assert_eq!(file.image_sizes().unwrap().unwrap(), [[8, 8], [8, 8]]);
        // No pixel was resized, so the standardised values have mean 0 and deviation 1 over the file.
        let mut all = vec![0.0; 2 * 4 * 48];
        for (row, features) in all.chunks_mut(4 * 48).enumerate() {
            crate::RegionSource::read(&file, row, features, &mut [0.0; 16]).unwrap();
        }
        let n = all.len() as f32;
        let mean = all.iter().sum::<f32>() / n;
        let variance = all.iter().map(|x| x * x).sum::<f32>() / n;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
    }

    #[test]
    fn bad_directories_are_explained() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert!(list_pictures(at).unwrap_err().to_string().contains("no .jpg"));
        std::fs::write(at.join("a_1.png"), "no picture").unwrap();
        assert!(read_picture(&at.join("a_1.png")).unwrap_err().to_string().contains("not a readable picture"));
        std::fs::write(at.join("b_01.jpg"), "").unwrap();
        assert!(list_pictures(at).unwrap_err().to_string().contains("image id 1, like"));
        std::fs::write(at.join("logo.png"), "").unwrap();
        assert!(list_pictures(at).unwrap_err().to_string().contains("ends in no image id"));
    }
}
