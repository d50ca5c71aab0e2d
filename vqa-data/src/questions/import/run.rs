//! An import from start to finish.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;
use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::files::atomic::{IfExists, create_directory, try_directory};
use crate::questions::annotations::Symbol;
use crate::questions::import::answers::{ANNOTATORS, most_frequent, ten};
use crate::questions::import::columns::ColumnNames;
use crate::questions::import::config_file::{Choices, annotations_file, config_text, max_question_len, questions_file};
use crate::questions::import::embedded::DIRECTORY;
use crate::questions::import::form::{ReadFiles, read_files};
use crate::questions::import::image_numbers::ImageNumbers;
use crate::questions::import::partition::{ValBy, draw};
use crate::questions::import::pictures::{Ambiguous, Picture, Pictures};
use crate::questions::import::report::{ImportReport, Skipped, SplitCounts};
use crate::questions::import::rows::Rows;
use crate::questions::import::split_name::SplitName;
use crate::questions::import::upper_bound::{FirstChoiceCounts, choose};
use crate::questions::import::write::{
    PendingFiles, QuestionsToWrite, relative, write_annotations, write_images, write_questions,
};

const IMAGES: &str = "images.json";
const CONFIG: &str = "config.toml";

/// What the config names that later commands write.
const FEATURES: &str = "features.h5";
const WORDS: &str = "words.json";
const ANSWERS: &str = "answers.json";

/// An import: which files to read, and what to make of them. See the [module](crate::questions::import).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Import {
    /// Tables, JSON files, and whatever else contains the questions.
    pub files: Vec<PathBuf>,
    /// The directory of the pictures, unless they are inside the files.
    pub images: Option<PathBuf>,
    /// The directory to write to.
    pub out: PathBuf,
    /// What columns hold, for tables whose column names do not tell.
    pub columns: ColumnNames,
    /// The share of the training data that is drawn for validation, above 0 and below 1.
    pub val: Option<f64>,
    /// Whether pictures or questions are drawn.
    pub val_by: ValBy,
    /// Seed of the draw.
    pub seed: u64,
    /// Whether ragged rows and questions without pictures are left out, instead of being errors.
    pub skip_bad: bool,
    /// What happens to files that exist already.
    pub if_exists: IfExists,
}

impl Import {
    /// Reads everything, and writes the files if all is well.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or its form is unknown; when a picture is missing, or a name fits several; when no
    /// question is left, or none to train on has an answer; when a file that would be written exists already.
    pub fn run(&self) -> Result<ImportReport> {
        if let Some(share) = self.val.filter(|&share| !(share > 0.0 && share < 1.0)) {
            return Err(Error::invalid(format!("--val {share}: expected a share above 0 and below 1, as in 0.1")));
        }
        for name in output_names() {
            self.if_exists.check(&self.out.join(name))?;
        }
        try_directory(&self.out)?;
        let read = read_files(&self.files, &self.columns, self.skip_bad, &self.out)?;
        let pictures = self.pictures(&read)?;
        let mut skipped = ragged(&read);
        let of_image = self.find(&read, &pictures, &mut skipped)?;
        let ReadFiles { files, mut rows, embedded, .. } = read;

        let kept = KeptRows::new(&rows, &of_image)?;
        self.draw_val(&mut rows, &kept, &of_image)?;
        let numbers = number_images(&rows, &kept, &of_image, &pictures);
        let image_id = |row: usize| numbers.ids[&of_image[rows.image(row) as usize].expect("kept rows have pictures")];
        let numbered_questions = !have_own_ids(&rows, &kept);
        let question_id = |row: usize| match rows.question_id(row).filter(|_| !numbered_questions) {
            Some(id) => id,
            None => kept.rows.partition_point(|&other| (other as usize) < row) as u64 + 1,
        };
        let mut of_splits: BTreeMap<SplitName, Vec<u32>> = BTreeMap::new();
        for &row in &kept.rows {
            of_splits.entry(rows.split(row as usize)).or_default().push(row);
        }

        let first_choice = |row: usize| rows.first_choice(row).unwrap_or_else(|| most_frequent(rows.given(row)));
        let answered = || kept.rows.iter().map(|&row| row as usize).filter(|&row| !rows.given(row).is_empty());
        let mut counted = FirstChoiceCounts::new(rows.answers().len());
        answered().for_each(|row| counted.add(first_choice(row)));
        let upper_bounds = counted.bounds(answered().map(|row| ten(rows.given(row))));
        let min_answer_count = choose(&upper_bounds);
        let (n_answers, n_answers_once) = counted.n_answers();

        let n_given = |wanted: fn(usize) -> bool| answered().filter(|&row| wanted(rows.given(row).len())).count();
        let without_questions = (0..pictures.len() as Picture).filter(|picture| !numbers.ids.contains_key(picture));
        let mut report = ImportReport {
            files,
            n_questions: kept.rows.len(),
            n_images: numbers.ids.len(),
            n_answers,
            n_answers_once,
            splits: IndexMap::new(),
            n_one_answer: n_given(|n| n == 1),
            n_few_answers: n_given(|n| n > 1 && n < ANNOTATORS),
            n_more_answers: n_given(|n| n > ANNOTATORS),
            upper_bounds: upper_bounds.to_vec(),
            min_answer_count,
            n_duplicate_rows: n_duplicates(&rows, &kept),
            n_without_answer: kept.n_without_answer,
            n_empty_questions: rows.n_empty_questions(),
            vanished_answers: rows.answers().vanished().to_vec(),
            skipped,
            images_without_questions: without_questions.map(|picture| pictures.name(picture).to_owned()).collect(),
            n_numbered_images: numbers.assigned.len(),
            numbered_questions,
            written: Vec::new(),
            config: self.out.join(CONFIG),
            images: self.out.join(IMAGES),
        };

        create_directory(&self.out)?;
        let mut waiting = PendingFiles::default();
        let made_from = report.files.iter().map(|read| format!("{} ({})", name_of(&read.file), read.form));
        let made_from = made_from.collect::<Vec<_>>().join(", ");
        for (&split, numbers) in &of_splits {
            let written = QuestionsToWrite { rows: &rows, numbers, question_id: &question_id, image_id: &image_id };
            let has_answers = !rows.given(numbers[0] as usize).is_empty();
            let images: HashSet<u64> = numbers.iter().map(|&row| image_id(row as usize)).collect();
            let counts = SplitCounts { n_questions: numbers.len(), n_images: images.len(), has_answers };
            report.splits.insert(split.name(), counts);
            let name = split.name();
            waiting
                .write(&self.out.join(questions_file(split)), |out| write_questions(out, name, &made_from, &written))?;
            if has_answers {
                waiting.write(&self.out.join(annotations_file(split)), |out| {
                    write_annotations(out, name, &made_from, &written, &first_choice)
                })?;
            }
        }
        let paths = self.image_paths(&numbers, &pictures)?;
        waiting.write(&report.images, |out| write_images(out, paths.iter().map(|(&id, path)| (id, path.as_path()))))?;
        let max_len = max_question_len(kept.rows.iter().map(|&row| rows.question(row as usize)));
        let splits: Vec<_> = of_splits.keys().map(|&split| (split, report.splits[split.name()].has_answers)).collect();
        let choices = Choices {
            min_answer_count,
            max_question_len: max_len,
            has_one_answer: answered().all(|row| rows.given(row).iter().all(|&answer| answer == rows.given(row)[0])),
        };
        let config = config_text(&self.out, &splits, &choices);
        waiting.write(&report.config, |out| out.write_all(config.as_bytes()))?;
        embedded.finish()?;
        report.written = waiting.finish()?;
        self.warn_of_leftovers(&report.written);
        Ok(report)
    }

    /// Warns of files in the directory that come from an earlier import, of other data perhaps: its pictures may have
    /// had other ids, and its questions other words.
    fn warn_of_leftovers(&self, written: &[PathBuf]) {
        let left = |name: &str| self.out.join(name).exists();
        let features = [FEATURES]
            .into_iter()
            .filter(|name| left(name))
            .map(|name| format!("{name} (extract it again with --force: pictures may have other ids now)"));
        let dictionaries = [WORDS, ANSWERS]
            .into_iter()
            .filter(|name| left(name))
            .map(|name| format!("{name} (build it again with `vqa prepare`, or remove it)"));
        let unwritten = output_names().filter(|name| left(name) && !written.contains(&self.out.join(name)));
        let others = unwritten.map(|name| format!("{name} (not part of this import)"));
        let all: Vec<String> = features.chain(dictionaries).chain(others).collect();
        if !all.is_empty() {
            tracing::warn!("{}: files of an earlier import are left: {}", self.out.display(), all.join(", "));
        }
    }

    /// The pictures in the directory, and those that were inside the files.
    fn pictures(&self, read: &ReadFiles) -> Result<Pictures> {
        let mut paths = Vec::new();
        if let Some((directory, names)) = read.embedded.pictures() {
            if directory.exists() && self.if_exists == IfExists::Refuse {
                let problem = "already exists: choose another --out, or add the pictures to those in it with --force";
                return Err(Error::exists(directory, problem));
            }
            paths.extend(names.map(|name| (name.to_owned(), directory.join(name))));
        }
        match &self.images {
            Some(images) if paths.is_empty() => Pictures::search(images),
            Some(images) => {
                let outside = Pictures::search(images)?;
                let others =
                    (0..outside.len() as Picture).map(|i| (outside.name(i).to_owned(), outside.path(i).to_owned()));
                paths.extend(others);
                Ok(Pictures::new(paths))
            }
            None if paths.is_empty() => {
                let problem = "there are no pictures in these files: give their directory with --images DIR";
                Err(Error::invalid(problem))
            }
            None => Ok(Pictures::new(paths)),
        }
    }

    /// Finds the picture for each name in the data. With `skip_bad`, rows whose pictures are missing are added to
    /// `skipped`; otherwise they are an error.
    fn find(&self, read: &ReadFiles, pictures: &Pictures, skipped: &mut Vec<Skipped>) -> Result<Vec<Option<Picture>>> {
        let names: Vec<&str> = read.rows.image_names().iter().collect();
        let mut of_image = Vec::with_capacity(names.len());
        for name in &names {
            let found = pictures.find(name).map_err(|Ambiguous([first, second])| {
                let problem = format!(
                    "\"{name}\" in the data matches both {first} and {second}: give the directory of the right one, or \
                     put more of the path into the data"
                );
                Error::Duplicate { paths: self.images.iter().cloned().collect(), message: problem }
            })?;
            of_image.push(found);
        }
        let rows = &read.rows;
        let missing: Vec<usize> = (0..rows.len()).filter(|&row| of_image[rows.image(row) as usize].is_none()).collect();
        let name_of_row = |row: usize| names[rows.image(row) as usize];
        let place = |row: usize| {
            let (file, place) = rows.place(row);
            let file = &read.started[file];
            let form = read.files.iter().find(|read| &read.file == file).map_or("", |read| &read.form);
            let is_text = ["CSV", "TSV", "DAQUAR"].iter().any(|text| form.starts_with(text));
            format!("{}, {} {place}", file.display(), if is_text { "line" } else { "entry" })
        };
        if self.skip_bad {
            skipped.extend(
                missing
                    .into_iter()
                    .map(|row| Skipped { place: place(row), problem: format!("no picture \"{}\"", name_of_row(row)) }),
            );
            return Ok(of_image);
        }
        let Some(&first) = missing.first() else { return Ok(of_image) };
        let distinct: HashSet<Symbol> = missing.iter().map(|&row| rows.image(row)).collect();
        let directory = self.images.as_deref().map_or("these files".to_owned(), |images| images.display().to_string());
        Err(Error::Mismatch {
            paths: self.files.clone(),
            message: format!(
                "{}: picture \"{}\" is not in {directory}; {} of {} questions are about {} pictures that are missing \
                 (there are {}, such as {}): add them, or leave those questions out with --skip-bad",
                place(first),
                name_of_row(first),
                missing.len(),
                rows.len(),
                distinct.len(),
                pictures.len(),
                pictures.name(0)
            ),
        })
    }

    /// Draws questions for validation from those to train on.
    fn draw_val(&self, rows: &mut Rows, kept: &KeptRows, of_image: &[Option<Picture>]) -> Result<()> {
        let Some(share) = self.val else { return Ok(()) };
        let of_split = |split: SplitName, rows: &Rows| {
            let of_kept = kept.rows.iter().map(|&row| row as usize);
            of_kept.filter(|&row| rows.split(row) == split).collect::<Vec<usize>>()
        };
        if !of_split(SplitName::Val, rows).is_empty() {
            let problem = "the data has questions for validation already: leave out --val, or the file with them";
            return Err(Error::invalid(problem));
        }
        let train = of_split(SplitName::Train, rows);
        let key = |row: usize| match self.val_by {
            ValBy::Image => u64::from(of_image[rows.image(row) as usize].unwrap_or(Picture::MAX)),
            ValBy::Question => row as u64,
        };
        let what = match self.val_by {
            ValBy::Image => "picture",
            ValBy::Question => "row",
        };
        let keys: BTreeSet<u64> = train.iter().map(|&row| key(row)).collect();
        let drawn = draw(&keys, share, self.seed, what)?;
        let of_val: Vec<usize> = train.into_iter().filter(|&row| drawn.contains(&key(row))).collect();
        of_val.into_iter().for_each(|row| rows.set_split(row, SplitName::Val));
        Ok(())
    }

    /// The paths as written to `images.json`: relative to it, unless the directory of the pictures is outside `out` and
    /// was given as an absolute path.
    fn image_paths(&self, numbers: &ImageNumbers, pictures: &Pictures) -> Result<BTreeMap<u64, PathBuf>> {
        let absolute = |path: &Path| std::fs::canonicalize(path).map_err(Error::io("read", path));
        let out = absolute(&self.out)?;
        let outside = self.images.as_deref().map(|images| absolute(images).map(|at| (images, at))).transpose()?;
        let path_of = |picture: Picture| {
            let path = pictures.path(picture);
            match &outside {
                Some((images, at)) => match path.strip_prefix(images) {
                    Ok(below) if images.is_relative() || at.starts_with(&out) => relative(&out, &at.join(below)),
                    Ok(_) => path.to_owned(),
                    Err(_) => Path::new(DIRECTORY).join(pictures.name(picture)),
                },
                None => Path::new(DIRECTORY).join(pictures.name(picture)),
            }
        };
        Ok(numbers.ids.iter().map(|(&picture, &image_id)| (image_id, path_of(picture))).collect())
    }
}

/// The names of all files that an import may write.
fn output_names() -> impl Iterator<Item = String> {
    let of_splits = SplitName::ALL.into_iter().flat_map(|split| [questions_file(split), annotations_file(split)]);
    of_splits.chain([IMAGES, CONFIG].map(str::to_owned))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Ragged rows that were left out.
fn ragged(read: &ReadFiles) -> Vec<Skipped> {
    let skipped = |(path, ragged): &(PathBuf, crate::questions::import::delimited::RaggedRow)| Skipped {
        place: format!("{}, line {}", path.display(), ragged.line),
        problem: ragged.problem.clone(),
    };
    read.ragged.iter().map(skipped).collect()
}

/// The rows that are written, in order.
struct KeptRows {
    rows: Vec<u32>,
    n_without_answer: usize,
}

impl KeptRows {
    /// Keeps all rows with a picture and, in splits where any row has an answer, with an answer.
    fn new(rows: &Rows, of_image: &[Option<Picture>]) -> Result<KeptRows> {
        let has_picture = |row: &usize| of_image[rows.image(*row) as usize].is_some();
        let with_picture = || (0..rows.len()).filter(has_picture);
        let annotated: HashSet<SplitName, FixedState> =
            with_picture().filter(|&row| !rows.given(row).is_empty()).map(|row| rows.split(row)).collect();
        let is_train = |row: usize| rows.split(row) == SplitName::Train;
        if !annotated.contains(&SplitName::Train) && with_picture().any(is_train) {
            let problem = "no question has an answer: say which column they are in with --columns answer=NAME, or \
                give a file of questions to be answered a name with \"test\" in it";
            return Err(Error::invalid(problem));
        }
        let mut kept = KeptRows { rows: Vec::new(), n_without_answer: 0 };
        for row in with_picture() {
            match rows.given(row).is_empty() && annotated.contains(&rows.split(row)) {
                true => kept.n_without_answer += 1,
                false => kept.rows.push(row as u32),
            }
        }
        if kept.rows.is_empty() {
            return Err(Error::invalid("no question is left: the files have none, or none with a picture"));
        }
        Ok(kept)
    }
}

/// The ids of all pictures that are asked about.
fn number_images(rows: &Rows, kept: &KeptRows, of_image: &[Option<Picture>], pictures: &Pictures) -> ImageNumbers {
    let (mut used, mut of_data) = (BTreeSet::new(), HashMap::new());
    for &row in &kept.rows {
        let image = rows.image(row as usize);
        let Some(picture) = of_image[image as usize] else { continue };
        if used.insert(picture) {
            let name = rows.image_names().get(image);
            let id = rows.image_id(image).or_else(|| crate::questions::whole_number::whole_number_of(name));
            of_data.extend(id.map(|id| (picture, id)));
        }
    }
    ImageNumbers::new(&used, &of_data, pictures)
}

/// Whether each question has an id that no other of its split has.
fn have_own_ids(rows: &Rows, kept: &KeptRows) -> bool {
    let mut seen = HashSet::with_hasher(FixedState::default());
    kept.rows.iter().map(|&row| row as usize).all(|row| {
        rows.question_id(row).is_some_and(|id| i64::try_from(id).is_ok() && seen.insert((rows.split(row), id)))
    })
}

/// Number of rows that repeat an earlier one.
fn n_duplicates(rows: &Rows, kept: &KeptRows) -> usize {
    let hasher = FixedState::default();
    let mut hashes: Vec<u64> = kept
        .rows
        .iter()
        .map(|&row| row as usize)
        .map(|row| hasher.hash_one((rows.image(row), rows.question(row), rows.given(row))))
        .collect();
    hashes.sort_unstable();
    let n = hashes.len();
    hashes.dedup();
    n - hashes.len()
}
