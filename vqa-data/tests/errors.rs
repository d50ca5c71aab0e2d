//! Errors that a program can match, with the error of the underlying library.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use vqa_data::Error;
use vqa_data::files::AtomicDir;
use vqa_data::questions::{SourceConfig, Split, SplitConfig, WordDict, read_questions, read_results};

/// Writes a file with this content. It is deleted with the directory.
fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

#[test]
fn a_missing_file() {
    let error = read_questions(Path::new("/nowhere/q.json")).unwrap_err();
    assert!(matches!(&error, Error::NotFound { path, .. } if path == Path::new("/nowhere/q.json")), "{error:?}");
    assert!(error.is_retryable());
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert_eq!(error.to_string(), "cannot read /nowhere/q.json: no such file or directory; check the path");
}

/// Each kind of error of the operating system, by its errno on Linux.
#[test]
fn the_operating_system_refuses() {
    let error = |errno| Error::io("write", Path::new("f.h5"))(io::Error::from_raw_os_error(errno));
    let [missing, memory, full, permission] = [2, 12, 28, 13].map(error);
    assert!(matches!(missing, Error::NotFound { .. }));
    assert!(matches!(memory, Error::OutOfMemory { .. }), "{memory:?}");
    assert!(memory.to_string().starts_with("cannot write f.h5: out of memory: "));
    assert!(matches!(&full, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{full:?}");
    assert!(matches!(&permission, Error::Io { .. }));
    for error in [missing, memory, full, permission] {
        assert!(error.is_retryable() && error.source().unwrap().is::<io::Error>());
    }
}

#[test]
fn json_cut_short() {
    let (_directory, path) = file("q.json", b"{\"questions\": [\n{\"image_id\": 1, \"quest");
    let error = read_questions(&path).unwrap_err();
    assert!(matches!(&error, Error::Json { source, .. } if source.is_eof() && source.line() == 2), "{error:?}");
    assert!(error.source().unwrap().is::<serde_json::Error>() && !error.is_retryable());
    assert!(error.to_string().contains("line 2 column 22"), "{error}");
}

#[test]
fn a_file_of_another_kind() {
    let (_directory, annotations) = file("a.json", b"{\"annotations\": []}");
    assert!(matches!(read_questions(&annotations).unwrap_err(), Error::WrongFormat { source: None, .. }));
    let (_directory, object) = file("r.json", b"{}");
    let error = read_results(&object).unwrap_err();
    assert!(matches!(error, Error::WrongFormat { .. }), "{error:?}");
    assert!(error.source().unwrap().is::<serde_json::Error>());
    assert!(matches!(read_questions(Path::new("/")).unwrap_err(), Error::WrongFormat { .. }));
}

#[test]
fn files_that_do_not_fit_and_ids_that_are_there_twice() {
    let (directory, q) = file("q.json", br#"{"questions": [{"image_id": 1, "question": "why?", "question_id": 2}]}"#);
    let a = directory.path().join("a.json");
    std::fs::write(&a, r#"{"annotations": [{"question_id": 3, "answers": [{"answer": "so"}]}]}"#).unwrap();
    let load = |q_jsons: &[&PathBuf]| {
        let q_jsons = q_jsons.iter().map(|&path| path.clone()).collect();
        Split::load(&vec![SourceConfig { q_jsons, a_jsons: vec![a.clone()], ..SourceConfig::default() }].into())
    };
    let error = load(&[&q]).unwrap_err();
    assert!(matches!(&error, Error::Mismatch { paths, .. } if *paths == [q.clone(), a.clone()]), "{error:?}");
    assert!(error.source().is_none() && !error.is_retryable());
    let error = load(&[&q, &q]).unwrap_err();
    assert!(matches!(&error, Error::Duplicate { paths, .. } if *paths == [q.clone(), q.clone()]), "{error:?}");
    let words = directory.path().join("words.json");
    std::fs::write(&words, r#"["a", "b", "a"]"#).unwrap();
    assert!(matches!(WordDict::load(&words).unwrap_err(), Error::Duplicate { paths, .. } if paths == [words]));
}

#[test]
fn what_cannot_be_used() {
    assert!(matches!(Split::load(&SplitConfig::default()).unwrap_err(), Error::Invalid { .. }));
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(AtomicDir::create(directory.path()).unwrap_err(), Error::Exists { .. }));
}

/// An error from a custom region source keeps its type, and its own source.
#[test]
fn errors_from_outside() {
    let error = Error::other(io::Error::other("the database is closed"));
    assert_eq!(error.to_string(), "the database is closed");
    assert!(!error.is_retryable());
    assert!(matches!(error, Error::Other(inner) if inner.is::<io::Error>()));
    let error = Error::transient(io::Error::other("too little memory"));
    assert_eq!(error.to_string(), "too little memory");
    assert!(error.is_retryable());
    assert!(matches!(error, Error::Transient(inner) if inner.is::<io::Error>()));
}

#[cfg(feature = "hdf5")]
mod feature_files {
    use super::*;
    use vqa_data::features::{FeatureFile, FeatureTable, FeatureWriter};
    use vqa_data::files::IfExists;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h5").join(name)
    }

    #[test]
    fn cut_short() {
        let bytes = std::fs::read(fixture("f32.h5")).unwrap();
        let (_directory, path) = file("f.h5", &bytes[..bytes.len() / 2]);
        let error = FeatureFile::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Damaged { path: at, .. } if *at == path), "{error:?}");
        assert!(error.to_string().contains("shorter than its header says"), "{error}");
        // HDF5's own message, which gives the lengths.
        let source = error.source().unwrap().to_string();
        assert!(source.contains("truncated file"), "{source}");
    }

    #[test]
    fn of_another_kind() {
        let error = FeatureFile::open(fixture("../make_fixtures.py")).unwrap_err();
        assert!(matches!(error, Error::WrongFormat { source: Some(_), .. }), "{error:?}");
        let error = FeatureFile::open(fixture("other.h5")).unwrap_err();
        assert!(matches!(error, Error::WrongFormat { .. }), "{error:?}");
    }

    #[test]
    fn that_do_not_fit() {
        for name in ["box_mismatch.h5", "few_ids.h5"] {
            let error = FeatureFile::open(fixture(name)).unwrap_err();
            assert!(matches!(&error, Error::Mismatch { paths, .. } if *paths == [fixture(name)]), "{error:?}");
        }
        assert!(matches!(FeatureFile::open(fixture("twin_ids.h5")).unwrap_err(), Error::Duplicate { .. }));
    }

    #[test]
    fn being_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.h5");
        let _writer = FeatureWriter::create(&path, FeatureTable::default(), IfExists::Refuse).unwrap();
        let error = FeatureWriter::create(&path, FeatureTable::default(), IfExists::Refuse).unwrap_err();
        assert!(matches!(&error, Error::InUse { path: at, .. } if *at == path), "{error:?}");
        let error = FeatureFile::open(FeatureWriter::partial_path(&path)).unwrap_err();
        assert!(matches!(&error, Error::Unfinished { destination, .. } if *destination == path), "{error:?}");
    }
}

#[cfg(feature = "images")]
#[test]
fn an_image_cut_short() {
    use vqa_data::features::read_image;
    use vqa_data::shapes::{ShapesSpec, ShapesSplit, write_shapes};

    let directory = tempfile::tempdir().unwrap();
    write_shapes(directory.path(), ShapesSpec { n_train: 1, n_val: 0, seed: 1 }, &|_| {}).unwrap();
    let images = std::fs::read_dir(ShapesSplit::files(directory.path(), "train").images).unwrap();
    let path = images.into_iter().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..40]).unwrap();
    let error = read_image(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { source: Some(_), .. }), "{error:?}");
    let text = directory.path().join("notes");
    std::fs::write(&text, "no image").unwrap();
    // Its first bytes tell, so no decoder is tried.
    let error = read_image(&text).unwrap_err();
    assert!(matches!(error, Error::WrongFormat { source: None, .. }), "{error:?}");
}
