use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::error::{Error, Result};

/// Tells files apart that something is made from, by their paths, lengths and times of change.
#[derive(Default)]
pub(crate) struct Fingerprint(DefaultHasher);

impl Fingerprint {
    pub(crate) fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = std::fs::metadata(path).map_err(Error::io("read", path))?;
        // However it is called from wherever.
        let path = std::fs::canonicalize(path).map_err(Error::io("read", path))?;
        (path, file.len(), file.modified().ok()).hash(&mut self.0);
        Ok(())
    }

    pub(crate) fn finish(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}
