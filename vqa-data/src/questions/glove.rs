//! Pretrained word vectors.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use memchr::{memchr, memchr_iter, memchr2};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::files::kind::kind_of;
use crate::files::text::open_text;
use crate::message::shorten;
use crate::questions::dictionary::WordDict;

/// Vectors for the words of a dictionary, from a text file like `glove.6B.300d.txt`.
#[derive(Debug, Clone, PartialEq)]
pub struct WordVectors {
    dim: usize,
    /// [n_words, dim], zero for missing words.
    values: Vec<f32>,
    missing: Vec<u32>,
}

impl WordVectors {
    /// Reads the vectors of the dictionary's words in one parallel pass. Each line has a word and its values, separated
    /// by spaces, as GloVe, fastText and word2vec write them; the file may be compressed with gzip. If a word appears
    /// twice, the last line counts, as when Python fills a dict. `progress` is called with the number of bytes of the
    /// file just read.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or has another form, or the line of a word in the dictionary is malformed.
    pub fn read(path: &Path, words: &WordDict, progress: &(dyn Fn(u64) + Sync)) -> Result<WordVectors> {
        /// Bytes per task of the thread pool.
        const PIECE: usize = 8 << 20;
        WordVectors::read_in_pieces(path, words, PIECE, progress)
    }

    fn read_in_pieces(
        path: &Path,
        words: &WordDict,
        piece: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<WordVectors> {
        let n_stored = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        let bytes = &open_text(path)?[..];
        let (start, dim) = dimension(bytes).map_err(|problem| Error::wrong_format(path, problem))?;
        // A piece consists of the lines that begin in it.
        let starts: Vec<usize> = (start..bytes.len()).step_by(piece).collect();
        let pieces = starts.par_iter().map(|&from| {
            let end = (from + piece).min(bytes.len());
            let mut found = Vec::new();
            let mut at = if from == start { start } else { line_end(bytes, from - 1) + 1 };
            while at < end {
                let line_end = line_end(bytes, at);
                let vector = find(&bytes[at..line_end], words, dim).map_err(|problem| {
                    let line = memchr_iter(b'\n', &bytes[..at]).count() + 1;
                    Error::damaged(path, format!("line {line}: {problem}"))
                })?;
                found.extend(vector);
                at = line_end + 1;
            }
            progress(((end - from) as u128 * u128::from(n_stored) / bytes.len() as u128) as u64);
            Ok(found)
        });
        let mut values = vec![0.0; words.len() * dim];
        let mut is_missing = vec![true; words.len()];
        for (id, vector) in pieces.collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            values[id as usize * dim..][..dim].copy_from_slice(&vector);
            is_missing[id as usize] = false;
        }
        let missing = (0..).zip(is_missing).filter_map(|(id, is_missing)| is_missing.then_some(id)).collect();
        Ok(WordVectors { dim, values, missing })
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All vectors in order of the words' ids, [n_words, dim]; zero where a word is missing.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Ids of the words that the file lacks, in ascending order.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }
}

/// The end of the line that `at` is in.
fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |found| at + found)
}

/// Returns where the vectors begin, after the line of counts that word2vec writes first, and their length. Some words
/// of glove.840B contain spaces, so the length is the most frequent one in the first lines.
fn dimension(bytes: &[u8]) -> Result<(usize, usize), String> {
    /// How many lines are looked at, and how many bytes of each.
    const N_LINES: usize = 1000;
    const LONGEST: usize = 1 << 20;
    let wanted = "text with a word and its vector on each line";
    if let Some(kind) = kind_of(bytes) {
        return Err(kind.instead_of(wanted));
    }
    let lines = bytes.split(|&byte| byte == b'\n').map(|line| fields(&line[..line.len().min(LONGEST)]));
    let is_count = |field: &&[u8]| std::str::from_utf8(field).is_ok_and(|field| field.parse::<u64>().is_ok());
    let first: Vec<&[u8]> = fields(&bytes[..line_end(bytes, 0).min(LONGEST)]).collect();
    let has_counts = first.len() == 2 && first.iter().all(is_count);
    let start = if has_counts { (line_end(bytes, 0) + 1).min(bytes.len()) } else { 0 };
    let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
    let mut has_numbers = false;
    for line in lines.skip(usize::from(has_counts)).take(N_LINES) {
        let values: Vec<&[u8]> = line.skip(1).collect();
        *lengths.entry(values.len()).or_default() += 1;
        has_numbers |= !values.is_empty() && values.iter().all(|value| number(value).is_some());
    }
    // Among equally frequent lengths, the shortest: spaces in words make lines longer.
    let most = lengths.into_iter().filter(|&(len, _)| len > 0).max_by_key(|&(len, n)| (n, Reverse(len)));
    match most {
        Some((dim, _)) if has_numbers => Ok((start, dim)),
        _ => Err(format!("not a file of word vectors: expected {wanted}")),
    }
}

/// The fields of a line, separated by spaces or tabs.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

fn number(field: &[u8]) -> Option<f32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The vector on a line, if its word is in the dictionary.
fn find(line: &[u8], words: &WordDict, dim: usize) -> Result<Option<(u32, Vec<f32>)>, String> {
    let Some((word, rest)) = memchr2(b' ', b'\t', line).map(|space| line.split_at(space)) else { return Ok(None) };
    let Some(id) = std::str::from_utf8(word).ok().and_then(|word| words.id(word)) else { return Ok(None) };
    let values: Vec<&[u8]> = fields(rest).collect();
    if values.len() > dim {
        // Only the last `dim` fields are values, so the word contains spaces, and no word of a dictionary does.
        return Ok(None);
    }
    let name = words.words()[id as usize].as_str();
    if values.len() < dim {
        return Err(format!(
            "\"{name}\" has {} values, not {dim} (an interrupted copy or download?): fetch the file again",
            values.len()
        ));
    }
    let finite = |value: &&[u8]| {
        let text = || shorten(&String::from_utf8_lossy(value));
        number(value)
            .filter(|x| x.is_finite())
            .ok_or_else(|| format!("\"{}\" in the vector of \"{name}\" is not a number", text()))
    };
    Ok(Some((id, values.iter().map(finite).collect::<Result<_, _>>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8], words: &str) -> Result<WordVectors, String> {
        read_in_pieces(text, words, 1 << 20)
    }

    fn read_in_pieces(text: &[u8], words: &str, piece: usize) -> Result<WordVectors, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("glove.txt");
        std::fs::write(&path, text).unwrap();
        let words = WordDict::from_questions([words]);
        WordVectors::read_in_pieces(&path, &words, piece, &|_| {}).map_err(|e| e.to_string())
    }

    #[test]
    fn files_as_they_circulate() {
        let words = "the 's cat zebra dog";
        let glove = "the 0.25 -1e-2\n's 1 2\n. . . 9 9\ncat  3 4 \r\ncat of mine 9 9\ndog 5 6";
        for text in [
            glove.to_owned(),
            format!("{glove}\n"),
            format!("400000 2\n{glove}"),
            format!("dog 7 7\n{glove}"),
            glove.replace("the ", "the\t"),
            format!("\u{feff}{glove}"),
            format!(". . . . 9 9\n{glove}"),
            format!("the . the 9 9\n{glove}"),
        ] {
            let vectors = read(text.as_bytes(), words).unwrap();
            assert_eq!(vectors.dim(), 2);
            assert_eq!(vectors.values(), [0.25, -0.01, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0], "{text}");
            assert_eq!(vectors.missing(), [3]);
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
            assert_eq!(read(&gzip.finish().unwrap(), words).unwrap(), vectors);
        }
        // Words that are not UTF-8 are skipped.
        assert_eq!(read(b"a 1 2\n\xff\xfe 1 2\nb 3 4\n", "a b").unwrap().values(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn broken_files_are_explained() {
        for (text, problem) in [
            (&b""[..], "not a file of word vectors"),
            (b"PK\x03\x04...", "a zip archive, not text with a word and its vector on each line: unpack it"),
            (
                b"\x93NUMPY\x01\0v\0{'descr': '<f4'",
                "a NumPy array, not text with a word and its vector on each line: give the text file",
            ),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"<!DOCTYPE html>", "a web page"),
            (b"the\n", "not a file of word vectors"),
            (b"3 2\n", "not a file of word vectors"),
            (b"{\"the\": [1, 2]}", "not a file of word vectors"),
            (b"a 1 2\nthe 1 2\ncat 1", "glove.txt: line 3: \"cat\" has 1 values, not 2"),
            (b"a 1 2\nthe 1 x", "line 2: \"x\" in the vector of \"the\" is not a number"),
            (b"a 1 2\nthe 1 nan", "\"nan\" in the vector"),
        ] {
            let error = read(text, "the cat").unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    proptest! {
        /// Compares with plain reading, line by line, also across the borders of pieces.
        #[test]
        fn pieces_change_nothing(
            lengths in prop::collection::vec(1usize..9, 1..100), piece in 1usize..200, seed in any::<u64>()
        ) {
            let dim = 3;
            let line = |i: usize, &length: &usize| {
                let x = seed.wrapping_mul(i as u64 + 1) % 1000;
                format!("{}{} {x} {} {i}\n", "w".repeat(length), i % 10, x as f32 / 8.0)
            };
            let text: String = lengths.iter().enumerate().map(|(i, length)| line(i, length)).collect();
            let words: Vec<&str> = text.lines().step_by(2).map(|line| line.split(' ').next().unwrap()).collect();
            let dict = WordDict::from_questions([words.join(" ").as_str(), "missing"]);
            let vectors = read_in_pieces(text.as_bytes(), &format!("{} missing", words.join(" ")), piece).unwrap();
            for (id, word) in dict.words().iter().enumerate() {
                let expected = text.lines().rfind(|line| line.split(' ').next() == Some(word)).map(|line| {
                    line.split(' ').skip(1).map(|x| x.parse().unwrap()).collect::<Vec<f32>>()
                });
                prop_assert_eq!(vectors.missing().contains(&(id as u32)), expected.is_none());
                prop_assert_eq!(&vectors.values()[id * dim..][..dim], &expected.unwrap_or(vec![0.0; dim])[..]);
            }
        }
    }
}
