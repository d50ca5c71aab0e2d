//! HDF5 files and their datasets, before anything is known about their content.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hdf5::dataset::Layout;
use hdf5::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};

use crate::error::{Error, Result};
use crate::features::hdf5_error::cannot_read;
use crate::files::limits::MAX_COMPRESSION;
use crate::files::mmap::{MappedFile, map_file};

/// An HDF5 file, open and mapped.
#[derive(Debug)]
pub(super) struct Container {
    path: PathBuf,
    file: hdf5::File,
    map: Arc<MappedFile>,
}

/// A dataset of a size that its file can hold.
#[derive(Debug)]
pub(super) struct Dataset {
    pub(super) hdf5: hdf5::Dataset,
    pub(super) name: &'static str,
    /// The file that holds the values, which is not the container's if that has only a link to it.
    pub(super) path: PathBuf,
    pub(super) map: Arc<MappedFile>,
}

impl Container {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Container> {
        /// HDF5's cache of decompressed chunks, for each dataset: with its default of 1 MB, a chunk of several images
        /// would be decompressed again for each of them.
        const CHUNK_CACHE: (usize, usize, f64) = (12_421, 64 << 20, 0.75);
        let map = Arc::new(map_file(path)?);
        let (slots, bytes, w0) = CHUNK_CACHE;
        let mut options = hdf5::File::with_options();
        options.with_fapl(|p| p.chunk_cache(slots, bytes, w0));
        let file = options.open(path).map_err(cannot_read(path))?;
        Ok(Container { path: path.to_owned(), file, map })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its attributes.
    pub(super) fn attribute_names(&self) -> Vec<String> {
        self.file.attr_names().unwrap_or_default()
    }

    /// An attribute, if it is there.
    pub(super) fn attribute(&self, name: &str) -> Option<hdf5::Attribute> {
        self.file.attr(name).ok()
    }

    /// A text attribute, as h5py and this crate write it, if it is there.
    pub(super) fn text_attribute(&self, name: &str) -> Option<String> {
        /// Longer texts are not attributes of ours.
        const MOST: usize = 4096;
        let attribute = self.attribute(name).filter(|attribute| attribute.is_scalar())?;
        match attribute.dtype().and_then(|dtype| dtype.to_descriptor()).ok()? {
            TypeDescriptor::VarLenUnicode => Some(attribute.read_scalar::<VarLenUnicode>().ok()?.to_string()),
            TypeDescriptor::VarLenAscii => Some(attribute.read_scalar::<VarLenAscii>().ok()?.to_string()),
            TypeDescriptor::FixedUnicode(..=MOST) => {
                Some(attribute.read_scalar::<FixedUnicode<MOST>>().ok()?.to_string())
            }
            TypeDescriptor::FixedAscii(..=MOST) => Some(attribute.read_scalar::<FixedAscii<MOST>>().ok()?.to_string()),
            _ => None,
        }
    }

    /// The names of what is in the file, for a message.
    pub(super) fn contents(&self) -> String {
        let names = self.file.member_names().unwrap_or_default();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    }

    /// Opens a dataset, if it is there.
    ///
    /// # Errors
    ///
    /// When its values are not all in one file, or are more than that file can hold: a damaged or hostile file can
    /// claim any size, and memory is reserved accordingly.
    pub(super) fn dataset(&self, name: &'static str) -> Result<Option<Dataset>> {
        if !self.file.link_exists(name) {
            return Ok(None);
        }
        let cannot_read = || cannot_read(&self.path);
        let hdf5 = self.file.dataset(name).map_err(|error| {
            let problem = format!(
                "\"{name}\" cannot be opened: it is damaged, or a link into a file that does not exist (HDF5 reports: \
                 {error})"
            );
            Error::damaged(&self.path, problem).because(error)
        })?;
        let file_number = |location: &hdf5::Location| location.loc_info().map(|info| info.fileno);
        let is_ours = file_number(&hdf5).and_then(|number| Ok(number == file_number(&self.file)?));
        let dataset = if is_ours.map_err(cannot_read())? {
            Dataset { hdf5, name, path: self.path.clone(), map: self.map.clone() }
        } else {
            // An external link: the offsets of such a dataset are those in its own file.
            let path = PathBuf::from(hdf5.filename());
            let map = Arc::new(map_file(&path)?);
            Dataset { hdf5, name, path, map }
        };
        dataset.check_storage()?;
        Ok(Some(dataset))
    }
}

impl Dataset {
    fn check_storage(&self) -> Result<()> {
        /// Chunks of at most this many bytes may be mostly empty.
        const SMALL: u64 = 64 << 20;
        let Dataset { hdf5, name, path, map } = self;
        let shape = hdf5.shape();
        let element = hdf5.dtype().map_err(cannot_read(path))?.size();
        let bytes_of = |axes: &[usize]| axes.iter().try_fold(element as u64, |n, &axis| n.checked_mul(axis as u64));
        let bytes = bytes_of(&shape).unwrap_or(u64::MAX);
        if bytes == 0 {
            return Ok(());
        }
        let refuse = |problem: &str| Err(Error::damaged(path, format!("\"{name}\" {shape:?} {problem}")));
        let storage = hdf5.storage_size();
        match hdf5.layout() {
            Layout::Contiguous => match hdf5.offset() {
                Some(start) if start.checked_add(bytes).is_some_and(|end| end <= map.len() as u64) => Ok(()),
                Some(_) => {
                    refuse("reaches past the end of the file (an interrupted copy or download?): fetch it again")
                }
                None => refuse("has no values in this file: they were never written, or are in another file"),
            },
            Layout::Chunked => {
                let chunk = hdf5.chunk().and_then(|chunk| bytes_of(&chunk)).unwrap_or(u64::MAX);
                let limit = storage.saturating_mul(MAX_COMPRESSION);
                if storage > map.len() as u64 || bytes > limit || chunk > limit.max(SMALL) {
                    return refuse(&format!(
                        "does not fit in the {storage} bytes stored for it: it is damaged, or was never written"
                    ));
                }
                Ok(())
            }
            Layout::Compact if bytes > storage => refuse("is larger than the data stored for it: it is damaged"),
            Layout::Compact => Ok(()),
            // HDF5 silently gives fill values for what it does not find in the other files.
            Layout::Virtual => {
                let problem = format!(
                    "\"{name}\" is a virtual dataset, whose values are in other files: give those files, or merge them \
                     into one with `h5repack -l {name}:CONTI`"
                );
                Err(Error::wrong_format(path, problem))
            }
        }
    }

    /// Reads the values, of any numeric type. They must be whole and not negative: HDF5 would silently convert others.
    pub(super) fn read_whole_numbers(&self) -> Result<Vec<u64>> {
        /// Above this, doubles skip whole numbers.
        const LARGEST: f64 = (1u64 << 53) as f64;
        let dtype = self.hdf5.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(cannot_read(&self.path))?;
        match dtype {
            TypeDescriptor::Unsigned(_) => self.read_each(|x: u64| Some(x)),
            TypeDescriptor::Integer(_) => self.read_each(|x: i64| u64::try_from(x).ok()),
            TypeDescriptor::Float(_) => {
                self.read_each(|x: f64| (x.fract() == 0.0 && (0.0..LARGEST).contains(&x)).then_some(x as u64))
            }
            other => {
                let problem = format!("{} holds {other}, not whole numbers", self.name);
                Err(Error::wrong_format(&self.path, problem))
            }
        }
    }

    fn read_each<T: hdf5::H5Type + Copy + Display>(&self, whole: impl Fn(T) -> Option<u64>) -> Result<Vec<u64>> {
        let values = self.hdf5.read_raw::<T>().map_err(cannot_read(&self.path))?;
        let number = |(i, &x): (usize, &T)| {
            whole(x).ok_or_else(|| {
                let problem = format!("{} has {x} (value {i}), expected whole numbers from 0 up", self.name);
                Error::damaged(&self.path, problem)
            })
        };
        values.iter().enumerate().map(number).collect()
    }
}
