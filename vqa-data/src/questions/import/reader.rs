//! Texts that are streamed, and never held in memory in full.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::files::input::open_input;
use crate::files::kind::kind_of;

/// Bytes that are read at a time, and that are looked at to recognise a file.
pub(super) const AT_A_TIME: usize = 1 << 18;

/// Opens a text, which may be compressed with gzip, and skips the byte order mark that Windows editors put at its
/// start.
///
/// # Errors
///
/// When it cannot be read, is empty, or is something else that people mistake for a text.
pub(super) fn open_reader(path: &Path) -> Result<Box<dyn BufRead>> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let of_io = || Error::io("read", path);
    let mut plain = BufReader::with_capacity(AT_A_TIME, open_input(path)?);
    let mut reader: Box<dyn BufRead> = match plain.fill_buf().map_err(of_io())?.starts_with(b"\x1f\x8b") {
        true => Box::new(BufReader::with_capacity(AT_A_TIME, MultiGzDecoder::new(plain))),
        false => Box::new(plain),
    };
    let beginning = reader.fill_buf().map_err(of_io())?;
    if let Some(kind) = kind_of(beginning) {
        return Err(Error::wrong_format(path, kind.instead_of("CSV, JSON or Parquet")));
    }
    if beginning.is_empty() {
        return Err(Error::wrong_format(path, "is empty: is it the right file?"));
    }
    if beginning.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(reader)
}

/// The first bytes of a text.
pub(super) fn beginning(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_reader(path)?.take(AT_A_TIME as u64).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// The first bytes of any file, as they are.
pub(super) fn magic(path: &Path) -> Result<[u8; 4]> {
    let mut bytes = [0; 4];
    let mut file: File = open_input(path)?;
    let mut n = 0;
    while n < bytes.len() {
        match file.read(&mut bytes[n..]).map_err(Error::io("read", path))? {
            0 => break,
            read => n += read,
        }
    }
    Ok(bytes)
}
