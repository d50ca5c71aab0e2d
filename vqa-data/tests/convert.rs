//! Conversion from every form that circulates: TSV files as bottom-up-attention and LXMERT write them, openvqa's
//! archives, other HDF5 files (all made by `data/make_fixtures.py`), sound and broken; shards; resuming.

use std::path::{Path, PathBuf};

use vqa_data::Result;
use vqa_data::features::{Check, Collection, ElementType, FeatureFile, Output, RegionSource, Shard};
use vqa_data::files::IfExists;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h5").join(name)
}

fn open(names: &[&str]) -> Collection {
    let paths: Vec<PathBuf> = names.iter().map(|name| fixture(name)).collect();
    Collection::open(&paths, Check::Index, &|_| {}).unwrap()
}

fn output(path: &Path, image_ids: Option<&[u64]>) -> Output {
    let image_ids = image_ids.map(|ids| ids.iter().copied().collect());
    Output { path: path.to_owned(), image_ids, if_exists: IfExists::Replace }
}

fn convert(collection: &Collection, out: &Path, element_type: ElementType) -> Result<()> {
    collection.convert(&[output(out, None)], element_type, None, &|_| {})
}

/// The features and boxes of every image of a file.
fn content(file: &FeatureFile) -> Vec<(u64, Vec<f32>, Vec<f32>)> {
    let images = file.image_ids().iter().enumerate();
    images
        .map(|(row, &id)| {
            let n = file.n_regions(row);
            let (mut features, mut boxes) = (vec![0.0; n * file.feature_dim()], vec![0.0; n * 4]);
            file.read(row, &mut features, &mut boxes).unwrap();
            (id, features, boxes)
        })
        .collect()
}

fn n_files(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// What is converted is what h5py wrote of the same numbers.
#[test]
fn every_form_gives_the_same_file() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.h5");
    for (input, h5, sized) in [
        ("fixed.tsv", "f32.h5", true),
        ("lxmert.tsv", "f32.h5", true),
        ("adaptive.tsv", "adaptive.h5", true),
        ("npz", "f32.h5", true),
        ("f32.h5", "f32.h5", false),
        ("gzip.h5", "f32.h5", false),
        ("chunked.h5", "f32.h5", false),
        ("big_endian.h5", "f32.h5", false),
        ("f64.h5", "f32.h5", false),
        ("userblock.h5", "f32.h5", false),
        ("pickle2.hdf5", "f32.h5", false),
        ("adaptive.h5", "adaptive.h5", false),
        ("adaptive_gzip.h5", "adaptive.h5", false),
        ("empty.h5", "empty.h5", false),
    ] {
        let collection = open(&[input]);
        assert_eq!(collection.element_type(), ElementType::F32, "{input}");
        convert(&collection, &out, ElementType::F32).unwrap();
        let (ours, theirs) = (FeatureFile::open(&out).unwrap(), FeatureFile::open(fixture(h5)).unwrap());
        assert_eq!(ours.shape()[0], theirs.shape()[0], "{input}");
        assert_eq!(content(&ours), content(&theirs), "{input}");
        assert_eq!(
            ours.image_sizes().unwrap(),
            (sized || input == "empty.h5").then(|| vec![[640, 480]; ours.n_images()])
        );
        assert!(ours.n_images() == 0 || ours.layout().contains("float32, contiguous, memory-mapped"));
    }
    let halves = content(&FeatureFile::open(fixture("f16.h5")).unwrap());
    for (input, preferred) in [("fixed.tsv", ElementType::F32), ("f16.h5", ElementType::F16)] {
        assert_eq!(open(&[input]).element_type(), preferred);
        convert(&open(&[input]), &out, ElementType::F16).unwrap();
        assert_eq!(content(&FeatureFile::open(&out).unwrap()), halves);
    }
    assert_eq!(n_files(directory.path()), 1);
}

/// Where there are as many numbers as regions, an archive's `x` is [D, K], as openvqa has it.
#[test]
fn square_archives_are_read_as_openvqa_writes_them() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.h5");
    convert(&open(&["square_npz"]), &out, ElementType::F32).unwrap();
    let all = content(&FeatureFile::open(fixture("f32.h5")).unwrap());
    let square = content(&FeatureFile::open(out).unwrap());
    assert_eq!(square.len(), 2);
    for ((id, features, boxes), (wanted_id, wanted, wanted_boxes)) in square.iter().zip(&all) {
        // Four of the five numbers of each region.
        let wanted: Vec<f32> = wanted.chunks(5).flat_map(|region| &region[..4]).copied().collect();
        assert_eq!((id, features, boxes), (wanted_id, &wanted, wanted_boxes));
    }
}

/// The same numbers as other programs write them.
#[test]
fn tsv_files_are_read_as_they_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("in.tsv"), directory.path().join("out.h5"));
    let expected = content(&FeatureFile::open(fixture("f32.h5")).unwrap());
    let write = |name: &str, line_break: &str, change: &dyn Fn(usize, &str) -> String| {
        let text = std::fs::read_to_string(fixture(name)).unwrap();
        let lines = text.lines().map(|line| {
            let columns: Vec<String> = line.split('\t').enumerate().map(|(i, column)| change(i, column)).collect();
            columns.join("\t") + line_break
        });
        lines.collect::<String>()
    };
    // Bytes that nobody decoded: what Python 3 prints of them.
    let bytes = |column: &str| format!("b'{column}'");
    let floats = |i: usize, x: &str| if (1..4).contains(&i) { format!("{x}.0") } else { x.to_owned() };
    let names = |i: usize, x: &str| if i == 0 { format!("val2014/COCO_val2014_{x:0>12}.jpg") } else { x.to_owned() };
    let all = |i: usize, x: &str| if i < 4 { format!("{x}.0") } else { bytes(x) };
    for (text, words) in [
        (write("fixed.tsv", "\n", &floats), "floats"),
        (write("fixed.tsv", "\n", &names), "names"),
        (write("fixed.tsv", "\n", &all), "floats and bytes"),
        (write("fixed.tsv", "\r\n", &all), "floats and bytes, from Windows"),
        (write("fixed.tsv", "\n", &all).trim_end().to_owned(), "floats and bytes, no last line break"),
        (write("lxmert.tsv", "\n", &|i, x| if i < 3 || i == 7 { x.to_owned() } else { bytes(x) }), "LXMERT and bytes"),
        (format!("\u{feff}{}", write("fixed.tsv", "\n", &|_, x| x.to_owned())), "a mark of UTF-8"),
    ] {
        std::fs::write(&path, text).unwrap();
        for check in [Check::Index, Check::Everything] {
            let collection = Collection::open(std::slice::from_ref(&path), check, &|_| {}).unwrap();
            assert_eq!(collection.bad_images(), [], "{words}");
            convert(&collection, &out, ElementType::F32).unwrap();
            let file = FeatureFile::open(&out).unwrap();
            assert_eq!(content(&file), expected, "{words}");
            assert_eq!(file.image_sizes().unwrap(), Some(vec![[640, 480]; 3]), "{words}");
        }
    }
    let problem = |text: String| {
        std::fs::write(&path, text).unwrap();
        Collection::open(std::slice::from_ref(&path), Check::Index, &|_| {}).err().unwrap().to_string()
    };
    let hash = |i: usize, x: &str| if i == 0 { format!("003a8ae2ef43b9{x}") } else { x.to_owned() };
    let error = problem(write("fixed.tsv", "\n", &hash));
    assert!(error.contains("in.tsv: line 1: ") && error.contains("the image id is \"003a8ae2ef43b910\""), "{error}");
    let halved = |i: usize, x: &str| if i == 1 { "640.5".to_owned() } else { x.to_owned() };
    assert!(problem(write("fixed.tsv", "\n", &halved)).contains("the width is \"640.5\""));
    let cut = write("fixed.tsv", "\n", &all).lines().next().unwrap().trim_end_matches('\'').to_owned();
    assert!(problem(cut).contains("features is a b'…' without an end"));
}

#[test]
fn lists_of_images_make_files_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let collection = open(&["adaptive.tsv"]);
    // One list has an image of the other, and both are in the order of the input.
    let outputs = [output(&at("a.h5"), Some(&[30, 10])), output(&at("b.h5"), Some(&[20, 10]))];
    assert_eq!(collection.n_wanted(&outputs, None).unwrap(), 3);
    collection.convert(&outputs, ElementType::F32, None, &|_| {}).unwrap();
    let all = content(&FeatureFile::open(fixture("adaptive.h5")).unwrap());
    for (name, rows) in [("a.h5", [0, 2]), ("b.h5", [0, 1])] {
        assert_eq!(content(&FeatureFile::open(at(name)).unwrap()), rows.map(|row| all[row].clone()), "{name}");
    }
    let unknown = [output(&at("c.h5"), Some(&[10, 11, 12]))];
    let error = collection.convert(&unknown, ElementType::F32, None, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("2 of the 3 images listed for it are not in the input (image ids 11, 12)"), "{error}");
    assert_eq!(n_files(directory.path()), 2);
}

/// Byte for byte, not only in their datasets.
#[test]
fn merged_shards_are_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let (whole, merged) = (directory.path().join("whole.h5"), directory.path().join("merged.h5"));
    for input in ["adaptive.tsv", "npz", "f16.h5"] {
        let collection = open(&[input]);
        let element_type = collection.element_type();
        convert(&collection, &whole, element_type).unwrap();
        // More shards than images: some are empty.
        for count in [1, 2, 5] {
            let mut shards: Vec<PathBuf> = Vec::new();
            for shard in (1..=count).map(|index| Shard::new(index, count).unwrap()) {
                collection.convert(&[output(&merged, None)], element_type, Some(shard), &|_| {}).unwrap();
                shards.push(shard.path(&merged));
            }
            shards.reverse();
            let pieces = Collection::open(&shards, Check::Index, &|_| {}).unwrap();
            convert(&pieces, &merged, pieces.element_type()).unwrap();
            assert!(read(&merged) == read(&whole), "{input}, {count} shards");
            if count == 5 {
                let error =
                    |paths: &[PathBuf]| Collection::open(paths, Check::Index, &|_| {}).err().unwrap().to_string();
                assert!(error(&shards[1..]).contains("one of 5 shards, of which 5 is missing"));
                assert!(error(&shards[3..]).contains("of which 3, 4, 5 are missing"));
                assert!(error(&[&shards[..], &shards[..1]].concat()).contains("is shard 5 of 5, and so is"));
                assert!(
                    error(&[&shards[..], &[fixture("f32.h5")]].concat()).contains("merge only the shards of one job")
                );
            }
        }
    }
}

#[test]
fn shards_of_different_jobs_are_not_merged() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("f.h5");
    let collection = open(&["fixed.tsv"]);
    let shards = [1, 2].map(|index| Shard::new(index, 2).unwrap());
    let write = |shard: Shard, ids: Option<&[u64]>, element_type| {
        collection.convert(&[output(&whole, ids)], element_type, Some(shard), &|_| {}).unwrap();
    };
    let error = || {
        let paths = shards.map(|shard| shard.path(&whole));
        Collection::open(&paths, Check::Index, &|_| {}).err().map(|e| e.to_string()).unwrap_or_default()
    };
    write(shards[0], None, ElementType::F32);
    write(shards[1], Some(&[10, 20]), ElementType::F32);
    assert!(error().contains("shard-2-of-2.h5: not one of 2 shards of 3 images"), "{}", error());
    write(shards[1], None, ElementType::F16);
    assert!(error().contains("does not fit the other shards"), "{}", error());
    write(shards[1], None, ElementType::F32);
    assert_eq!(error(), "");
}

/// An image that is broken at first, and sound the second time.
#[test]
fn a_broken_image_does_not_stand_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("in.tsv"), directory.path().join("out.h5"));
    let text = std::fs::read_to_string(fixture("fixed.tsv")).unwrap();
    let first = text.lines().next().unwrap();
    std::fs::write(&path, format!("{}!!!=\n{text}", &first[..first.len() - 4])).unwrap();
    let collection = Collection::open(std::slice::from_ref(&path), Check::Everything, &|_| {}).unwrap();
    assert_eq!((collection.bad_images().len(), collection.bad_images()[0].line), (1, Some(1)));
    convert(&collection, &out, ElementType::F32).unwrap();
    assert_eq!(FeatureFile::open(&out).unwrap().image_ids(), [10, 20, 30]);
    let error = collection.convert(&[output(&path, None)], ElementType::F32, None, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("is also an input"), "{error}");
}

#[test]
fn bad_images_are_named_or_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.h5");
    let tsv = open(&["bad.tsv"]);
    let found = |collection: &Collection| -> Vec<(Option<usize>, String)> {
        collection.bad_images().iter().map(|bad| (bad.line, bad.problem.clone())).collect()
    };
    let mut expected = vec![
        (2, "2 columns"),
        (3, "image 10 again, first on line 1"),
        (4, "features has"),
        (6, "the image id is \"x\""),
        (8, "boxes has 64 bytes, but 5 boxes need 80"),
    ];
    let check = |found: &[(Option<usize>, String)], expected: &[(usize, &str)]| {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((line, problem), (expected_line, words)) in found.iter().zip(expected) {
            assert!(*line == Some(*expected_line) && problem.contains(words), "{line:?} {problem}");
        }
    };
    check(&found(&tsv), &expected);
    assert_eq!(tsv.n_images(), 4);
    // Base64 is looked into when it is decoded, or when everything is.
    let error = convert(&tsv, &out, ElementType::F32).unwrap_err().to_string();
    assert!(error.contains("bad.tsv: line 10: features is not base64"), "{error}");
    assert_eq!(n_files(directory.path()), 0);
    let thorough = Collection::open(&[fixture("bad.tsv")], Check::Everything, &|_| {}).unwrap();
    expected.push((10, "features is not base64"));
    check(&found(&thorough), &expected);
    convert(&thorough, &out, ElementType::F32).unwrap();
    assert_eq!(FeatureFile::open(&out).unwrap().image_ids(), [10, 20, 30]);

    let twice = open(&["fixed.tsv", "lxmert.tsv"]);
    assert_eq!((twice.n_images(), twice.bad_images().len()), (3, 3));
    assert!(twice.bad_images()[0].problem.contains("image 10 again, first on line 1 of"));
    let nan = Collection::open(&[fixture("nan.h5")], Check::Everything, &|_| {}).unwrap();
    assert_eq!((nan.n_images(), nan.bad_images().len()), (1, 2));
    assert!(nan.bad_images()[0].to_string().ends_with("nan.h5: image 20 has NaN or infinite features or boxes"));

    let archives = Collection::open(&[fixture("bad_npz")], Check::Everything, &|_| {}).unwrap();
    let problems = found(&archives);
    for (number, words) in [
        (0, "bbox is missing"),
        (1, "x has shape [5, 4], not [values, 3] or [3, values]"),
        (2, "x holds '<c16'"),
        (3, "NaN"),
        (4, "is not a complete .npz archive"),
        (5, "image 7 has 3 values per region, but earlier ones have 5"),
        (6, "does not end in an image id"),
    ] {
        let problem = problems.get(number).map(|(_, problem)| problem.as_str()).unwrap_or_default();
        assert!(problem.contains(words), "{problems:?}");
    }
    assert_eq!((archives.n_images(), problems.len()), (1, 7));
}

#[test]
fn other_things_are_refused() {
    let error = |names: &[&str]| {
        let paths: Vec<PathBuf> = names.iter().map(|name| fixture(name)).collect();
        Collection::open(&paths, Check::Index, &|_| {}).err().unwrap().to_string()
    };
    assert!(error(&["nowhere.tsv"]).contains("no such file"));
    assert!(error(&["../../data"]).contains("no .npz files in it"));
    assert!(error(&["../make_fixtures.py"]).contains("line 1: no usable image in it; 1 columns"));
    assert!(error(&["bad_npz/notes.txt"]).contains("no usable image in it"));
    assert!(error(&["f32.h5", "fixed.tsv"]).contains("fixed.tsv: not an HDF5 file, unlike other inputs"));
    assert!(error(&["other.h5"]).contains("no dataset \"image_features\""));
}

/// However a file is cut off or damaged: images are set aside or converting fails, and nothing else happens.
#[test]
fn damaged_files_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("a.tsv"), directory.path().join("out.h5"));
    let original = std::fs::read(fixture("lxmert.tsv")).unwrap();
    let mut n_written = 0;
    for place in (1..original.len()).step_by(23) {
        let mut changed = original.clone();
        changed[place] = b"\t\n=A9\xff"[place % 6];
        for bytes in [&changed[..], &original[..place]] {
            std::fs::write(&path, bytes).unwrap();
            if let Ok(collection) = Collection::open(std::slice::from_ref(&path), Check::Index, &|_| {}) {
                n_written += usize::from(convert(&collection, &out, ElementType::F32).is_ok());
            }
            // Whoever looks at everything can use what is left.
            if let Ok(collection) = Collection::open(std::slice::from_ref(&path), Check::Everything, &|_| {}) {
                convert(&collection, &out, ElementType::F32).unwrap();
            }
        }
    }
    assert!(n_written > 0);
}

/// Looking at the ends of lines finds the lines that looking at every byte finds.
#[test]
fn the_index_does_not_depend_on_how_closely_it_looks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many.tsv");
    let line = std::fs::read_to_string(fixture("adaptive.tsv")).unwrap();
    let lines: Vec<&str> = line.lines().collect();
    for line_break in ["\n", "\r\n", "\n\n", "\r\n\r\n"] {
        let mut text = String::new();
        for i in 0..200 {
            let (_, rest) = lines[i * i % 3].split_once('\t').unwrap();
            text.push_str(&format!("{}\t{rest}{line_break}", 1000 + i));
        }
        for whole in [true, false] {
            let end = if whole { text.len() } else { text.len() - line_break.len() };
            std::fs::write(&path, &text[..end]).unwrap();
            let read = |check| {
                let collection = Collection::open(std::slice::from_ref(&path), check, &|_| {}).unwrap();
                assert!(collection.bad_images().is_empty(), "{:?}", collection.bad_images());
                let out = directory.path().join("out.h5");
                convert(&collection, &out, ElementType::F32).unwrap();
                content(&FeatureFile::open(out).unwrap())
            };
            let quick = read(Check::Index);
            assert_eq!(quick.len(), 200);
            assert_eq!(quick, read(Check::Everything));
        }
    }
}
