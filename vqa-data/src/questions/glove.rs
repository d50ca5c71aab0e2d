//! Pretrained word vectors.

use std::path::Path;

use memchr::{memchr, memchr_iter, memchr2};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::files::mmap::map_file;
use crate::message::shorten;
use crate::questions::dictionary::WordDict;

/// Vectors for the words of a dictionary, from a text file like `glove.6B.300d.txt`.
#[derive(Debug, Clone, PartialEq)]
pub struct WordVectors {
    dim: usize,
    /// [n_words, dim], zero for the missing.
    values: Vec<f32>,
    missing: Vec<u32>,
}

impl WordVectors {
    /// Reads the vectors of the dictionary's words in one parallel pass: a word and its values on each line,
    /// separated by spaces, as GloVe, fastText and word2vec write them. Of a word that is there twice the last line
    /// counts, as in Python. `progress` is called with the number of bytes just read.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is of another form, or the line of a word in the dictionary is malformed.
    pub fn read(path: &Path, words: &WordDict, progress: &(dyn Fn(u64) + Sync)) -> Result<WordVectors> {
        /// Bytes in one task of the thread pool.
        const PIECE: usize = 8 << 20;
        WordVectors::read_in_pieces(path, words, PIECE, progress)
    }

    fn read_in_pieces(
        path: &Path,
        words: &WordDict,
        piece: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<WordVectors> {
        let bytes = &map_file(path)?[..];
        let (start, dim) = dimension(bytes).map_err(|problem| Error::wrong_format(path, problem))?;
        // A piece is the lines that begin in it.
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
            progress((end - from) as u64);
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

    /// Ids of the words that the file lacks, rising.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }
}

/// The end of the line that `at` is in.
fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |found| at + found)
}

/// Where the vectors begin, behind a first line of counts that word2vec writes, and how long they are.
fn dimension(bytes: &[u8]) -> Result<(usize, usize), String> {
    /// No first line is longer.
    const LONGEST: usize = 1 << 20;
    let wanted = "a word and its numbers on each line are wanted";
    if bytes.starts_with(b"PK") {
        return Err(format!("a zip archive, and {wanted}: unpack it"));
    }
    let fields_at = |at: usize| {
        let line = &bytes[at..line_end(bytes, at).min(at + LONGEST)];
        std::str::from_utf8(line).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut start = 0;
    let mut fields = fields_at(start);
    if let [n, dim] = fields[..]
        && n.parse::<u64>().is_ok()
        && dim.parse::<u64>().is_ok()
    {
        start = (line_end(bytes, 0) + 1).min(bytes.len());
        fields = fields_at(start);
    }
    match fields[..] {
        [_, ref values @ ..] if !values.is_empty() && values.iter().all(|field| field.parse::<f32>().is_ok()) => {
            Ok((start, values.len()))
        }
        _ => Err(format!("no file of word vectors: {wanted}")),
    }
}

/// The vector on a line, if its word is in the dictionary.
fn find(line: &[u8], words: &WordDict, dim: usize) -> Result<Option<(u32, Vec<f32>)>, String> {
    let Some((word, rest)) = memchr2(b' ', b'\t', line).map(|space| line.split_at(space)) else { return Ok(None) };
    let Some(id) = std::str::from_utf8(word).ok().and_then(|word| words.id(word)) else { return Ok(None) };
    let rest = std::str::from_utf8(rest).map_err(|_| "the numbers are no text".to_owned())?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    if fields.len() > dim {
        // glove.840B has words with spaces in them; a dictionary has none.
        return Ok(None);
    }
    let name = words.words()[id as usize].as_str();
    if fields.len() < dim {
        return Err(format!(
            "\"{name}\" has {} numbers, and {dim} are wanted (an interrupted copy or download?): fetch the file again",
            fields.len()
        ));
    }
    let number = |field: &&str| match field.parse::<f32>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err(format!("\"{}\" in the vector of \"{name}\" is no number", shorten(field))),
    };
    Ok(Some((id, fields.iter().map(number).collect::<Result<_, _>>()?)))
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
        ] {
            let vectors = read(text.as_bytes(), words).unwrap();
            assert_eq!(vectors.dim(), 2);
            assert_eq!(vectors.values(), [0.25, -0.01, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0], "{text}");
            assert_eq!(vectors.missing(), [3]);
        }
        // Words that are not UTF-8 are skipped.
        assert_eq!(read(b"a 1 2\n\xff\xfe 1 2\nb 3 4\n", "a b").unwrap().values(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn broken_files_are_explained() {
        for (text, problem) in [
            (&b""[..], "no file of word vectors"),
            (b"PK\x03\x04...", "a zip archive"),
            (b"the\n", "no file of word vectors"),
            (b"3 2\n", "no file of word vectors"),
            (b"{\"the\": [1, 2]}", "no file of word vectors"),
            (b"a 1 2\nthe 1 2\ncat 1", "glove.txt: line 3: \"cat\" has 1 numbers, and 2 are wanted"),
            (b"a 1 2\nthe 1 x", "line 2: \"x\" in the vector of \"the\" is no number"),
            (b"a 1 2\nthe 1 nan", "\"nan\" in the vector"),
        ] {
            let error = read(text, "the cat").unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    proptest! {
        /// Against a plain reading of one line after the other, over the borders of pieces too.
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
