//! Text files, compressed or not.

use std::io::{ErrorKind, Read};
use std::ops::Deref;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::files::limits::{MAX_TEXT_COMPRESSION, SMALL_TEXT};
use crate::files::mmap::{MappedFile, map_file};

/// The bytes of a text file, without the byte order mark that Windows editors put before UTF-8. A plain file is mapped;
/// a gzip file, whatever its name, is unpacked into memory.
pub(crate) enum Text {
    Mapped(MappedFile),
    Unpacked(Vec<u8>),
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let bytes: &[u8] = match self {
            Text::Mapped(bytes) => bytes,
            Text::Unpacked(bytes) => bytes,
        };
        bytes.strip_prefix(MARK).unwrap_or(bytes)
    }
}

/// Reads a text file.
///
/// # Errors
///
/// When the file cannot be read, or is gzip that is damaged or unpacks to far more than text does.
pub(crate) fn open_text(path: &Path) -> Result<Text> {
    let bytes = map_file(path)?;
    if !bytes.starts_with(b"\x1f\x8b") {
        return Ok(Text::Mapped(bytes));
    }
    let limit = (bytes.len() as u64).saturating_mul(MAX_TEXT_COMPRESSION).max(SMALL_TEXT);
    unpack(path, &bytes, limit).map(Text::Unpacked)
}

/// Unpacks gzip, which may have several members. Fails if that gives more than `limit` bytes.
fn unpack(path: &Path, stored: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    MultiGzDecoder::new(stored).take(limit + 1).read_to_end(&mut text).map_err(|e| match e.kind() {
        ErrorKind::OutOfMemory => Error::io("unpack", path)(e),
        ErrorKind::UnexpectedEof => {
            let problem =
                "the compressed data ends in the middle (an interrupted copy or download?): fetch the file again";
            Error::damaged(path, problem).because(e)
        }
        _ => Error::damaged(path, format!("the compressed data is damaged ({e}): fetch the file again")).because(e),
    })?;
    if text.len() as u64 > limit {
        let problem = format!(
            "its {} bytes unpack to more than {limit}, far more than text does: if it is intact, unpack it with gunzip",
            stored.len()
        );
        return Err(Error::damaged(path, problem));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plain.json");
        std::fs::write(&path, bytes).unwrap();
        open_text(&path).map(|text| text.to_vec()).map_err(|e| e.to_string())
    }

    #[test]
    fn text_is_the_same_compressed_or_not() {
        for bytes in [b"[1]".to_vec(), gzip(b"[1]"), b"\xef\xbb\xbf[1]".to_vec(), gzip(b"\xef\xbb\xbf[1]")] {
            assert_eq!(read(&bytes).unwrap(), b"[1]");
        }
        assert_eq!(read(&[gzip(b"[1,"), gzip(b"2]")].concat()).unwrap(), b"[1,2]", "as `cat a.gz b.gz` makes");
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn damaged_data_is_refused() {
        let text: Vec<u8> = (0..1000).flat_map(|i: u32| i.to_string().into_bytes()).collect();
        let whole = gzip(&text);
        assert_eq!(read(&whole).unwrap(), text);
        assert!(read(&whole[..whole.len() / 2]).unwrap_err().contains("ends in the middle"));
        assert!(read(&whole[..whole.len() - 3]).unwrap_err().contains("ends in the middle"));
        let mut changed = whole.clone();
        let checksum = changed.len() - 6;
        changed[checksum] ^= 1;
        assert!(read(&changed).unwrap_err().contains("is damaged"));
    }

    #[test]
    fn no_more_is_unpacked_than_text_can_be() {
        let bomb = gzip(&[b' '; 20_000]);
        let path = Path::new("q.json.gz");
        assert_eq!(unpack(path, &bomb, 20_000).unwrap().len(), 20_000);
        let error = unpack(path, &bomb, 19_999).unwrap_err().to_string();
        assert!(
            error.contains("q.json.gz") && error.contains("more than 19999") && error.contains("gunzip"),
            "{error}"
        );
    }
}
