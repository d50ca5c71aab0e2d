//! The images of a folder.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::features::bad_image::BadImage;
use crate::features::extract::channel_stats::{ChannelStats, measure};
use crate::features::extract::image_file::ImageFile;
use crate::features::extract::non_image_files::NonImageFiles;
use crate::features::extract::read_image::is_picture;
use crate::features::image_name::{EXTENSIONS, image_id, is_picture_extension};
use crate::questions::image_paths::ImagePaths;

/// The images of a folder and its subfolders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFolder {
    images: Vec<ImageFile>,
    bad: Vec<BadImage>,
    left_out: NonImageFiles,
}

/// Lists the images of a folder and its subfolders, in order of their ids. This is [`ImageFolder::search`], but an
/// image that would be set aside is an error.
///
/// # Errors
///
/// Those of [`ImageFolder::search`]; and when an image would be set aside, such as one without an id in its name.
pub fn list_images(directory: &Path) -> Result<Vec<ImageFile>> {
    let folder = ImageFolder::search(directory)?;
    folder.refuse_bad()?;
    Ok(folder.images)
}

impl ImageFolder {
    /// Finds the images of a folder, as [`ImageFolder::search`] does, or those that a JSON file `{"image_id": "path"}`
    /// lists, as [`ImagePaths::read`] reads it. Listed images that do not exist are set aside.
    ///
    /// # Errors
    ///
    /// Those of these two, and when the file lists no images.
    pub fn open(images: &Path) -> Result<ImageFolder> {
        if std::fs::metadata(images).map_err(Error::io("read", images))?.is_dir() {
            return ImageFolder::search(images);
        }
        let is_json = images.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if !is_json {
            let what = if is_picture(images) { "one picture" } else { "a file" };
            let problem = format!(
                "{what}: give the directory of the pictures, or a JSON file {{\"image_id\": \"path\", …}} named .json"
            );
            return Err(Error::wrong_format(images, problem));
        }
        let paths = ImagePaths::read(images)?;
        let mut folder = ImageFolder { images: Vec::new(), bad: Vec::new(), left_out: NonImageFiles::default() };
        for (image_id, path) in paths.listed().into_iter().flatten() {
            match std::fs::metadata(path) {
                Ok(_) => folder.images.push(ImageFile { image_id, path: path.to_owned() }),
                Err(error) => {
                    let problem = format!(
                        "image {image_id} cannot be found ({error}): correct its path in {}, or remove it there",
                        images.display()
                    );
                    folder.bad.push(BadImage { path: path.to_owned(), line: None, problem });
                }
            }
        }
        if folder.images.is_empty() && folder.bad.is_empty() {
            return Err(Error::wrong_format(images, "it lists no pictures"));
        }
        Ok(folder)
    }

    /// Finds the images in a folder and its subfolders, following links: files with the extension of a picture, or with
    /// no extension and the first bytes of one. Hidden files and folders, whose names begin with a dot, are left out,
    /// as is everything else.
    ///
    /// The id of an image is the number that the stem of its name ends in: `COCO_val2014_000000000042.jpg` is image 42,
    /// as is `42.png`, and `003a8ae2ef43b901.jpg` has no id. Images without an id are set aside: see
    /// [`ImageFolder::bad_images`].
    ///
    /// # Errors
    ///
    /// When a folder cannot be read, there is no image in it, or two have the same id.
    pub fn search(directory: &Path) -> Result<ImageFolder> {
        let mut search = Search::default();
        search.folder(directory)?;
        let Search { mut paths, mut bad, left_out, .. } = search;
        paths.sort();
        let mut images = Vec::new();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match image_id(&name) {
                Some(image_id) => images.push(ImageFile { image_id, path }),
                None => bad.push(BadImage { path, line: None, problem: NO_ID.to_owned() }),
            }
        }
        bad.sort_by(|a, b| a.path.cmp(&b.path));
        if images.is_empty() && bad.is_empty() {
            let others = if left_out.n_files() == 0 { String::new() } else { format!(", but {left_out}") };
            let problem = format!("no pictures in it (.{}){others}", EXTENSIONS.join(", ."));
            return Err(Error::wrong_format(directory, problem));
        }
        images.sort_by(|a, b| (a.image_id, &a.path).cmp(&(b.image_id, &b.path)));
        if let Some(twins) = images.windows(2).find(|pair| pair[0].image_id == pair[1].image_id) {
            let problem =
                format!("has the image id {}, like {}: rename one", twins[1].image_id, twins[0].path.display());
            return Err(Error::duplicate(&twins[1].path, problem));
        }
        Ok(ImageFolder { images, bad, left_out })
    }

    /// The images that are usable, as far as is known, in order of their ids.
    pub fn images(&self) -> &[ImageFile] {
        &self.images
    }

    /// Images that were set aside, in order of their paths.
    pub fn bad_images(&self) -> &[BadImage] {
        &self.bad
    }

    /// Files that are not images.
    pub fn left_out(&self) -> &NonImageFiles {
        &self.left_out
    }

    /// Decodes every image, sets aside those that cannot be decoded or are narrower or lower than `min_size`, and
    /// measures the others. `progress` is called with the number of images just done.
    ///
    /// # Errors
    ///
    /// When the system refuses to read an image, or none is left.
    pub fn check(&mut self, min_size: [u32; 2], progress: &(dyn Fn(u64) + Sync)) -> Result<ChannelStats> {
        let (stats, mut bad) = measure(&self.images, min_size, progress)?;
        let unusable: HashSet<&Path> = bad.iter().map(|bad| bad.path.as_path()).collect();
        self.images.retain(|image| !unusable.contains(image.path.as_path()));
        self.bad.append(&mut bad);
        self.bad.sort_by(|a, b| a.path.cmp(&b.path));
        // If no image is left, some were bad: the folder was not empty.
        stats.ok_or_else(|| Error::BadImages(self.bad.clone()))
    }

    /// Returns an error that names the images that were set aside, if there are any.
    ///
    /// # Errors
    ///
    /// [`Error::BadImages`].
    pub fn refuse_bad(&self) -> Result<()> {
        if self.bad.is_empty() { Ok(()) } else { Err(Error::BadImages(self.bad.clone())) }
    }
}

const NO_ID: &str =
    "the name does not end in an image id: rename it like COCO_train2014_000000000009.jpg, or move it elsewhere";

/// What has been found so far.
#[derive(Default)]
struct Search {
    paths: Vec<PathBuf>,
    bad: Vec<BadImage>,
    left_out: NonImageFiles,
    /// Device and inode of the folders seen: links can form cycles.
    folders: HashSet<(u64, u64)>,
}

impl Search {
    fn folder(&mut self, directory: &Path) -> Result<()> {
        let mut open = vec![directory.to_owned()];
        while let Some(directory) = open.pop() {
            let read_error = || Error::io("read the directory", &directory);
            let metadata = std::fs::metadata(&directory).map_err(read_error())?;
            if !self.folders.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            let mut paths = Vec::new();
            for entry in std::fs::read_dir(&directory).map_err(read_error())? {
                paths.push(entry.map_err(read_error())?.path());
            }
            // The same paths are found whatever order the system lists them in, even if a link leads to a folder that
            // is found without it too.
            paths.sort();
            for path in paths {
                match std::fs::metadata(&path) {
                    Ok(metadata) if metadata.is_dir() && !is_hidden(&path) => open.push(path),
                    metadata => self.file(path, metadata),
                }
            }
        }
        Ok(())
    }

    /// Takes a file, or leaves it out. A link that leads nowhere, or to itself, has no metadata.
    fn file(&mut self, path: PathBuf, metadata: std::io::Result<Metadata>) {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let kind = match &extension {
            _ if is_hidden(&path) => "hidden".to_owned(),
            _ if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file()) => "pipe or device".to_owned(),
            Some(extension) if is_picture_extension(extension) => {
                return match metadata {
                    Ok(_) => self.paths.push(path),
                    Err(error) => {
                        let problem = format!("cannot be found ({error}): correct the link, or leave it out");
                        self.bad.push(BadImage { path, line: None, problem });
                    }
                };
            }
            Some(extension) => format!(".{extension}"),
            None if is_picture(&path) => return self.paths.push(path),
            None => "without extension".to_owned(),
        };
        self.left_out.add(kind, &path);
    }
}

/// Whether the name begins with a dot: macOS's `._x.jpg` beside `x.jpg`, `.DS_Store`, `.git`.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    /// Writes small pictures, in the formats that their names say, and other files.
    fn folder(pictures: &[&str], others: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in pictures.iter().chain(others) {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match pictures.contains(name) {
                true => RgbImage::from_pixel(4, 3, image::Rgb([9, 9, 9])).save(path).unwrap(),
                false => std::fs::write(path, "no picture").unwrap(),
            }
        }
        directory
    }

    fn ids(images: &[ImageFile]) -> Vec<u64> {
        images.iter().map(|image| image.image_id).collect()
    }

    #[test]
    fn pictures_of_every_kind_are_found_everywhere() {
        let pictures = ["a_3.jpg", "b/7.PNG", "b/c/x-5.webp", "11.gif", "12.BMP", "13.tif", "14.tiff", "15.jpeg"];
        let others = ["notes.txt", "b/more.txt", "._a_3.jpg", ".git/9.jpg", "LICENSE", "b/.DS_Store"];
        let directory = folder(&pictures, &others);
        let at = directory.path();
        // Some programs download without an extension.
        std::fs::copy(at.join("11.gif"), at.join("b/21")).unwrap();
        // A cycle, a link to nowhere, and a second path to the same folder.
        std::os::unix::fs::symlink(at, at.join("b/c/circle")).unwrap();
        std::os::unix::fs::symlink(at.join("b"), at.join("a")).unwrap();
        std::os::unix::fs::symlink("nowhere", at.join("link")).unwrap();
        let found = ImageFolder::search(at).unwrap();
        assert_eq!(ids(found.images()), [3, 5, 7, 11, 12, 13, 14, 15, 21]);
        found.refuse_bad().unwrap();
        let counts = serde_json::to_value(found.left_out()).unwrap();
        assert_eq!(counts, serde_json::json!({".txt": 2, "hidden": 3, "without extension": 2}));
        assert_eq!(list_images(at).unwrap(), found.images());
    }

    #[test]
    fn pictures_may_be_listed_in_a_file() {
        let directory = folder(&["red.png", "a/blue.jpg"], &["notes.txt"]);
        let at = directory.path();
        let list = at.join("images.json");
        std::fs::write(&list, r#"{"7": "a/blue.jpg", "5": "red.png", "6": "a/none.png"}"#).unwrap();
        let found = ImageFolder::open(&list).unwrap();
        assert_eq!(ids(found.images()), [5, 7]);
        assert_eq!(found.images()[1].path, at.join("a/blue.jpg"));
        let missing = found.refuse_bad().unwrap_err().to_string();
        assert!(missing.contains("none.png: image 6 cannot be found") && missing.contains("images.json"), "{missing}");
        std::fs::write(&list, "{}").unwrap();
        assert!(ImageFolder::open(&list).unwrap_err().to_string().ends_with("images.json: it lists no pictures"));
        for (name, words) in [("red.png", "one picture: give"), ("notes.txt", "a file: give"), ("none", "no such")] {
            let error = ImageFolder::open(&at.join(name)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        std::fs::rename(at.join("red.png"), at.join("1.png")).unwrap();
        std::fs::rename(at.join("a/blue.jpg"), at.join("2.jpg")).unwrap();
        assert_eq!(ids(ImageFolder::open(at).unwrap().images()), [1, 2]);
    }

    #[test]
    fn bad_folders_are_explained() {
        let error = |directory: &tempfile::TempDir| list_images(directory.path()).unwrap_err().to_string();
        assert!(error(&folder(&[], &[])).contains("no pictures in it (.jpg"));
        let heic = error(&folder(&[], &["IMG_1.HEIC", "IMG_2.HEIC"]));
        assert!(heic.contains("but 2 other files: 2 .heic ("), "{heic}");
        let twins = error(&folder(&["a_1.png", "b/c_01.jpg"], &[]));
        assert!(twins.contains("b/c_01.jpg: has the image id 1, like") && twins.contains("/a_1.png"), "{twins}");
        let hashes = error(&folder(&["003a8ae2ef43b901.jpg", "1.jpg", "logo.png"], &[]));
        assert!(hashes.contains("003a8ae2ef43b901.jpg: the name does not end in an image id"), "{hashes}");
        assert!(
            hashes.contains("2 pictures cannot be used, the others are") && hashes.ends_with("logo.png"),
            "{hashes}"
        );
    }

    #[test]
    fn unusable_pictures_are_set_aside_together() {
        let directory = folder(&["1.png", "4.png"], &["3.jpg", "logo.png"]);
        let at = directory.path();
        RgbImage::new(1, 9).save(at.join("2.png")).unwrap();
        std::os::unix::fs::symlink("nowhere", at.join("5.png")).unwrap();
        std::os::unix::fs::symlink("6.png", at.join("6.png")).unwrap();
        let mut folder = ImageFolder::search(at).unwrap();
        assert_eq!(ids(folder.images()), [1, 2, 3, 4]);
        let stats = folder.check([2, 2], &|_| {}).unwrap();
        assert_eq!(stats.mean, [9.0 / 255.0; 3]);
        assert_eq!(ids(folder.images()), [1, 4]);
        let problems: Vec<String> = folder.bad_images().iter().map(ToString::to_string).collect();
        let words = [
            "2.png: a picture of 1 x 9 pixels",
            "3.jpg: not a readable picture",
            "5.png: cannot be found",
            "6.png: cannot be found",
            "logo.png: the name does not end in",
        ];
        assert!(problems.len() == 5 && problems.iter().zip(words).all(|(a, b)| a.contains(b)), "{problems:?}");
        let all = folder.refuse_bad().unwrap_err().to_string();
        assert!(
            all.contains("5 pictures cannot be used") && all.contains("3.jpg") && all.contains("logo.png"),
            "{all}"
        );

        std::fs::remove_file(at.join("1.png")).unwrap();
        std::fs::remove_file(at.join("4.png")).unwrap();
        let error = ImageFolder::search(at).unwrap().check([2, 2], &|_| {}).unwrap_err();
        assert!(matches!(&error, Error::BadImages(bad) if bad.len() == 5), "{error}");
    }
}
