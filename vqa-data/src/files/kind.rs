//! Recognises, by their first bytes, files that were given in place of others.

/// A kind of file that people mistake for another, or save in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    what: &'static str,
    remedy: &'static str,
}

impl Kind {
    /// Returns the part of an error message that says what the file is where `wanted` was expected, and what to do.
    pub(crate) fn instead_of(&self, wanted: &str) -> String {
        format!("{}, not {wanted}: {}", self.what, self.remedy)
    }
}

/// Returns the kind of a file that begins with these bytes, if it is one that often ends up in place of a text.
pub(crate) fn kind_of(bytes: &[u8]) -> Option<Kind> {
    const UNPACK: &str = "unpack it";
    const UTF_8: &str = "save it as UTF-8";
    const AS_JSON: &str = "write it as JSON in Python, with json.dump";
    const KINDS: [(&[u8], &str, &str); 16] = [
        (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
        (b"PK\x03\x04", "a zip archive", UNPACK),
        (b"PK\x05\x06", "an empty zip archive", "fetch it again"),
        (b"BZh", "compressed with bzip2", UNPACK),
        (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
        (b"\x93NUMPY", "a NumPy array", "give the text file that it was made from"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "give another file"),
        (b"%PDF-", "a PDF document", "give another file"),
        (b"\xff\xfe", "UTF-16 text", UTF_8),
        (b"\xfe\xff", "UTF-16 text", UTF_8),
        (b"\x80", "a Python pickle", AS_JSON),
        (b"(lp", "a Python pickle", AS_JSON),
        (b"(dp", "a Python pickle", AS_JSON),
        (b"ccollections\n", "a Python pickle", AS_JSON),
    ];
    if let Some(&(_, what, remedy)) = KINDS.iter().find(|(start, ..)| bytes.starts_with(start)) {
        return Some(Kind { what, remedy });
    }
    is_web_page(bytes)
        .then_some(Kind { what: "a web page", remedy: "download the file again, from the address of the file itself" })
}

/// Whether a text begins like HTML or XML.
fn is_web_page(bytes: &[u8]) -> bool {
    const STARTS: [&[u8]; 6] = [b"<!doctype", b"<html", b"<head", b"<body", b"<!--", b"<?xml"];
    let text = bytes.trim_ascii_start();
    STARTS.iter().any(|start| text.get(..start.len()).is_some_and(|first| first.eq_ignore_ascii_case(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let what = |bytes: &[u8]| kind_of(bytes).map(|kind| kind.what);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
        assert_eq!(what(pointer), Some("a Git LFS pointer"));
        assert_eq!(what(b"\n <!DOCTYPE html><html>"), Some("a web page"));
        assert_eq!(what(b"<HTML>"), Some("a web page"));
        for text in ["", "{}", "[1]", "<unk> 0.1 0.2", "version 1", "the 0.1 0.2", "P 1"] {
            assert_eq!(what(text.as_bytes()), None, "{text}");
        }
    }
}
