//! Pictures that are stored inside data files.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::features::image_name::is_picture_extension;
use crate::files::atomic::AtomicDir;

/// The directory below OUT that pictures are written to.
pub(super) const DIRECTORY: &str = "images";

/// Pictures that are being written, each once however many questions share it. All of them appear together.
#[derive(Debug)]
pub(super) struct Embedded {
    destination: PathBuf,
    writing: Option<AtomicDir>,
    by_content: HashMap<[u8; 32], String>,
    names: HashSet<String>,
}

impl Embedded {
    /// Creates an empty set, whose pictures will be below `out`.
    pub(super) fn new(out: &Path) -> Embedded {
        let destination = out.join(DIRECTORY);
        Embedded { destination, writing: None, by_content: HashMap::new(), names: HashSet::new() }
    }

    /// Writes a picture, unless an identical one was written before. Returns its name: the one it `had`, without
    /// directories, if no other picture has that name, or else one derived from its content.
    ///
    /// # Errors
    ///
    /// When it is not a picture, or cannot be written.
    pub(super) fn add(&mut self, bytes: &[u8], had: Option<&str>) -> Result<String, Problem> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(name) = self.by_content.get(&digest) {
            return Ok(name.clone());
        }
        let extension = extension_of(bytes).ok_or(Problem::NoPicture)?;
        let name = had.and_then(file_name).filter(|name| !self.names.contains(name)).unwrap_or_else(|| {
            let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}.{extension}")
        });
        let writing = match &mut self.writing {
            Some(writing) => writing,
            None => self.writing.insert(AtomicDir::create(&self.unused()).map_err(Problem::Error)?),
        };
        let path = writing.path().join(&name);
        std::fs::write(&path, bytes).map_err(|error| Problem::Error(Error::io("write", &path)(error)))?;
        self.names.insert(name.clone());
        self.by_content.insert(digest, name.clone());
        Ok(name)
    }

    /// The directory that they will be in, and their names; `None` if there are none.
    pub(super) fn pictures(&self) -> Option<(&Path, impl Iterator<Item = &str>)> {
        self.writing.as_ref().map(|_| (self.destination.as_path(), self.names.iter().map(String::as_str)))
    }

    /// Moves the pictures to their directory. If that exists already, they are added to what is in it.
    ///
    /// # Errors
    ///
    /// When a picture cannot be moved.
    pub(super) fn finish(self) -> Result<()> {
        let Some(writing) = self.writing else { return Ok(()) };
        if !self.destination.exists() {
            return writing.finish();
        }
        for name in &self.names {
            let path = self.destination.join(name);
            std::fs::rename(writing.path().join(name), &path).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }

    /// The destination or, if that exists already, another name beside it.
    fn unused(&self) -> PathBuf {
        match self.destination.exists() {
            true => self.destination.with_file_name(format!("{DIRECTORY}.import")),
            false => self.destination.clone(),
        }
    }
}

/// Why a picture was not written.
#[derive(Debug)]
pub(super) enum Problem {
    /// Its bytes are not those of a picture.
    NoPicture,
    Error(Error),
}

/// The last part of a path, if that is the name of a picture.
fn file_name(path: &str) -> Option<String> {
    let name = path.rsplit(['/', '\\']).next()?;
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && !name.starts_with('.') && is_picture_extension(extension)).then(|| name.to_owned())
}

/// The extension of a picture's format, by its first bytes.
fn extension_of(bytes: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 6] = [
        (b"\xff\xd8\xff", "jpg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF8", "gif"),
        (b"BM", "bmp"),
        (b"II*\0", "tif"),
        (b"MM\0*", "tif"),
    ];
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Some("webp");
    }
    KINDS.iter().find(|(start, _)| bytes.starts_with(start)).map(|&(_, extension)| extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_picture_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut embedded = Embedded::new(directory.path());
        let (a, b) = (b"\xff\xd8\xff a", b"\x89PNG\r\n\x1a\n b");
        assert_eq!(embedded.add(a, Some("x/cat.jpg")).unwrap(), "cat.jpg");
        assert_eq!(embedded.add(a, None).unwrap(), "cat.jpg");
        let name = embedded.add(b, Some("cat.jpg")).unwrap();
        assert!(name.ends_with(".png") && name.len() == 20, "{name}");
        let third = embedded.add(b"BM", Some("../../.jpg")).unwrap();
        assert!(third.ends_with(".bmp"), "{third}");
        assert!(matches!(embedded.add(b"text", Some("t.jpg")), Err(Problem::NoPicture)));
        assert!(!directory.path().join(DIRECTORY).exists());
        embedded.finish().unwrap();
        assert_eq!(std::fs::read(directory.path().join("images/cat.jpg")).unwrap(), a);
        // Another import puts its own beside them.
        let mut embedded = Embedded::new(directory.path());
        embedded.add(b"GIF8", Some("dog.gif")).unwrap();
        embedded.finish().unwrap();
        let names = std::fs::read_dir(directory.path().join(DIRECTORY)).unwrap().count();
        assert_eq!((names, std::fs::read_dir(directory.path()).unwrap().count()), (4, 1));
    }
}
