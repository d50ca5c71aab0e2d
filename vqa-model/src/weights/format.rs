//! Recognises the format of a file of weights by its first bytes, since its name may be anything.

use std::io::Read;
use std::path::Path;

use vqa_data::files::open_input;

use crate::error::{Error, Result};

/// A format that weights are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Safetensors,
    /// Any format that a version of `torch.save` writes: a zip archive, a series of pickles, or a tar archive.
    PyTorch,
}

impl Format {
    /// Returns the format of a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or does not contain weights: the message says what it is instead, if known.
    pub(crate) fn of(path: &Path) -> Result<Format> {
        /// Enough to include the "ustar" of a tar archive.
        const N_BYTES: u64 = 512;
        let mut start = Vec::new();
        open_input(path)?.take(N_BYTES).read_to_end(&mut start).map_err(vqa_data::Error::io("read", path))?;
        recognise(&start).map_err(|what| Error::DamagedWeights { path: path.to_owned(), problem: what, source: None })
    }

    /// Checks that a file is safetensors.
    ///
    /// # Errors
    ///
    /// Those of [`Format::of`]; and when it is a PyTorch file.
    pub(super) fn expect_safetensors(path: &Path) -> Result<()> {
        match Format::of(path)? {
            Format::Safetensors => Ok(()),
            Format::PyTorch => {
                let problem = "a PyTorch file, not a checkpoint that `vqa train` wrote: a run can be initialised from \
                    its weights (model.init)";
                Err(Error::weights_mismatch(path, problem))
            }
        }
    }
}

/// Returns the format of a file from its first bytes, or says what it is instead and what to do.
fn recognise(start: &[u8]) -> Result<Format, String> {
    const DOWNLOAD_AGAIN: &str = "download the file itself";
    const SAVE_AGAIN: &str = "save the weights with torch.save(model.state_dict(), …) or as safetensors";
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let (what, remedy) = match start {
        [] => ("an empty file", "copy or download it again"),
        [b'P', b'K', 3 | 5 | 7, ..] => return Ok(Format::PyTorch),
        _ if start.get(257..262) == Some(b"ustar") => return Ok(Format::PyTorch),
        _ if starts_with_magic_number(start) => return Ok(Format::PyTorch),
        // An eight-byte length below 2^48, followed by JSON.
        [_, _, _, _, _, _, 0, 0, b'{', ..] => return Ok(Format::Safetensors),
        _ if start.starts_with(b"version https://git-lfs.github.com/spec/") => {
            ("a Git LFS pointer, not the file it stands for", "run `git lfs pull` where it was cloned, or download it")
        }
        _ if text.starts_with(b"<") => ("a web page, not weights", DOWNLOAD_AGAIN),
        _ if text.starts_with(b"{") => ("JSON, not weights", "name the file with the weights themselves"),
        [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ("a compressed file", "unpack it first")
        }
        // The first instructions of a pickle of a dictionary, a list or an object.
        [0x80 | b'(' | b'}' | b']' | b'c', ..] => return Ok(Format::PyTorch),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file, which weights are not read from", SAVE_AGAIN),
        _ => ("neither a safetensors file nor one from torch.save", "copy it again, or name another"),
    };
    Err(format!("{what}: {remedy}"))
}

/// Whether a file begins with the magic number of PyTorch 0.1.10 to 1.5, as any pickle protocol encodes it.
fn starts_with_magic_number(start: &[u8]) -> bool {
    const BYTES: &[u8] = &0x1950_a86a_20f9_469c_fc6c_u128.to_le_bytes();
    const TEXT: &[u8] = b"119547037146038801333356";
    let start = &start[..start.len().min(64)];
    [&BYTES[..10], TEXT].iter().any(|number| start.windows(number.len()).any(|window| window == *number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_of_weights_is_named() {
        let directory = tempfile::tempdir().unwrap();
        // The name is that of a file of weights, which must not matter.
        let path = directory.path().join("model.pth");
        for (bytes, words) in [
            (&b""[..], "an empty file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
            (b"\n\n<!DOCTYPE html><html>", "a web page"),
            (b"\xef\xbb\xbf<html>", "a web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "a web page"),
            (b"{\"weight_map\": {}}", "JSON"),
            (b"\x1f\x8b\x08\x00", "a compressed file"),
            (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
            (b"seed = 1111\n[model]\n", "neither a safetensors file nor one from torch.save"),
            (b"\x00\x01", "neither"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = Format::of(&path).unwrap_err();
            assert!(matches!(error, Error::DamagedWeights { .. }));
            assert!(error.to_string().contains(&format!("model.pth: {words}")), "{error}");
        }
    }
}
