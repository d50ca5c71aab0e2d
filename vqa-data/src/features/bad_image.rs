use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadImage {
    /// The file.
    pub path: PathBuf,
    /// Its line in a TSV file, counted from 1.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}
