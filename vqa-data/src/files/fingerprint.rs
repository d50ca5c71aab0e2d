//! Digests that tell inputs apart.

use std::fmt::Write;
#[cfg(feature = "hdf5")]
use std::{
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use sha2::{Digest, Sha256};

#[cfg(feature = "hdf5")]
use crate::error::{Error, Result};

/// A digest of what something is made from, given as a sequence of fields. It is the same in every build of the
/// program, so that a newer build can resume what an older one began.
#[derive(Default)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a file without reading it: its path, length and modification time.
    #[cfg(feature = "hdf5")]
    pub(crate) fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = std::fs::metadata(path).map_err(Error::io("read", path))?;
        // So that the path is the same from whatever directory the program is run.
        let path = std::fs::canonicalize(path).map_err(Error::io("read", path))?;
        self.add(path.as_os_str().as_bytes());
        self.add(&file.len().to_le_bytes());
        self.add(&file.mtime().to_le_bytes());
        self.add(&file.mtime_nsec().to_le_bytes());
        Ok(())
    }

    /// Adds a field, preceded by its length, so that different lists of fields never give the same bytes.
    pub(crate) fn add(&mut self, field: &[u8]) {
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    /// The digest of all fields so far, in hexadecimal.
    pub(crate) fn finish(&self) -> String {
        self.0.clone().finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Python: `hashlib.sha256(b"".join(struct.pack("<Q", len(x)) + x for x in [b"ab", b"c", b""])).hexdigest()`.
    #[test]
    fn fields_are_told_apart() {
        let of = |fields: &[&[u8]]| {
            let mut fingerprint = Fingerprint::default();
            fields.iter().for_each(|field| fingerprint.add(field));
            fingerprint.finish()
        };
        assert_eq!(of(&[b"ab", b"c", b""]), "03bbec117707a23f74de53c77d0ac02d9db8dcb0cb4947584373fdcac2a5dfae");
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
    }

    #[cfg(feature = "hdf5")]
    #[test]
    fn a_changed_file_has_another_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let of_file = || {
            let mut fingerprint = Fingerprint::default();
            fingerprint.add_file(&path).unwrap();
            fingerprint.finish()
        };
        std::fs::write(&path, "x").unwrap();
        let before = of_file();
        assert_eq!(before, of_file());
        std::fs::write(&path, "xy").unwrap();
        assert_ne!(before, of_file());
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Fingerprint::default().add_file(&path), Err(Error::NotFound { .. })));
    }
}
