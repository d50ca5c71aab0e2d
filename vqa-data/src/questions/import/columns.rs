//! Which column of a table holds what.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Question,
    Answer,
    Image,
    QuestionId,
    ImageId,
    QuestionType,
    AnswerType,
    Split,
}

impl Role {
    const ALL: [Role; 8] = [
        Role::Question,
        Role::Answer,
        Role::Image,
        Role::QuestionId,
        Role::ImageId,
        Role::QuestionType,
        Role::AnswerType,
        Role::Split,
    ];

    fn name(self) -> &'static str {
        match self {
            Role::Question => "question",
            Role::Answer => "answer",
            Role::Image => "image",
            Role::QuestionId => "question_id",
            Role::ImageId => "image_id",
            Role::QuestionType => "question_type",
            Role::AnswerType => "answer_type",
            Role::Split => "split",
        }
    }

    /// Usual names of such a column, in lower case, the likeliest first.
    fn known_names(self) -> &'static [&'static str] {
        match self {
            Role::Question => &["question", "questions", "question_text", "query", "q", "sent"],
            Role::Answer => &["answers", "answer", "multiple_choice_answer", "answer_text", "label", "a"],
            Role::Image => &[
                "image",
                "image_path",
                "image_file",
                "image_filename",
                "image_name",
                "img",
                "img_path",
                "img_name",
                "filename",
                "file_name",
                "picture",
                "photo",
                "path",
                "image_id",
                "imageid",
                "img_id",
            ],
            Role::QuestionId => &["question_id", "questionid", "qid"],
            Role::ImageId => &["image_id", "imageid", "img_id"],
            Role::QuestionType => &["question_type"],
            Role::AnswerType => &["answer_type"],
            Role::Split => &["split", "set", "set_name", "subset"],
        }
    }
}

/// All names by which columns are recognised.
pub(super) fn known_names() -> BTreeSet<&'static str> {
    Role::ALL.into_iter().flat_map(Role::known_names).copied().collect()
}

/// The column names that the user gave: `question=Q,answer=A,image=I`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnNames(Vec<(Role, String)>);

impl ColumnNames {
    /// Whether no names were given.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names that were given.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(_, name)| name.as_str()).collect()
    }
}

impl FromStr for ColumnNames {
    type Err = String;

    fn from_str(text: &str) -> Result<ColumnNames, String> {
        let mut names = Vec::new();
        for part in text.split(',') {
            let known = || Role::ALL.map(Role::name).join(", ");
            let (role, name) = part
                .split_once('=')
                .ok_or_else(|| format!("\"{part}\": expected question=NAME,answer=NAME,image=NAME"))?;
            let role = Role::ALL.into_iter().find(|known| known.name() == role.trim());
            let role = role.ok_or_else(|| format!("\"{part}\": a column is one of {}", known()))?;
            if names.iter().any(|(of, _)| *of == role) {
                return Err(format!("\"{part}\": the {} column is named twice", role.name()));
            }
            names.push((role, name.trim().to_owned()));
        }
        Ok(ColumnNames(names))
    }
}

/// The columns of a table by what they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    pub question: String,
    /// `None` in a table of questions to be answered.
    pub answer: Option<String>,
    pub image: String,
    pub question_id: Option<String>,
    pub image_id: Option<String>,
    pub question_type: Option<String>,
    pub answer_type: Option<String>,
    pub split: Option<String>,
}

impl Columns {
    /// Finds the columns among those of a table.
    ///
    /// # Errors
    ///
    /// When a column that the user named, or that of the question or of the picture, is missing. The message lists the
    /// columns that exist.
    pub(super) fn find(there: &[String], given: &ColumnNames) -> Result<Columns, String> {
        let listed = || there.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        if let Some((_, missing)) = given.0.iter().find(|(_, name)| !there.contains(name)) {
            return Err(format!("no column \"{missing}\": its columns are {}", listed()));
        }
        let find = |role: Role| {
            let given = given.0.iter().find(|(of, _)| *of == role).map(|(_, name)| name);
            let known = || {
                let is = |name: &&String, known: &str| name.trim().eq_ignore_ascii_case(known);
                role.known_names().iter().find_map(|known| there.iter().find(|name| is(name, known)))
            };
            given.or_else(known).cloned()
        };
        let need = |role: Role| {
            find(role).ok_or_else(|| {
                format!(
                    "no {0} column: its columns are {1}; say which it is with --columns {0}=NAME",
                    role.name(),
                    listed()
                )
            })
        };
        let image = need(Role::Image)?;
        Ok(Columns {
            question: need(Role::Question)?,
            answer: find(Role::Answer),
            image_id: find(Role::ImageId).filter(|name| *name != image),
            image,
            question_id: find(Role::QuestionId),
            question_type: find(Role::QuestionType),
            answer_type: find(Role::AnswerType),
            split: find(Role::Split),
        })
    }

    /// The names of all columns that were found.
    pub(super) fn names(&self) -> Vec<&str> {
        let optional =
            [&self.answer, &self.question_id, &self.image_id, &self.question_type, &self.answer_type, &self.split];
        let needed = [self.question.as_str(), self.image.as_str()];
        needed.into_iter().chain(optional.into_iter().flatten().map(String::as_str)).collect()
    }
}

/// [`Columns::find`], with an error that names the file.
pub(super) fn find_columns(path: &std::path::Path, there: &[String], given: &ColumnNames) -> Result<Columns> {
    Columns::find(there, given).map_err(|problem| Error::wrong_format(path, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(there: &[&str], given: &str) -> Result<Columns, String> {
        let there: Vec<String> = there.iter().map(|name| (*name).to_owned()).collect();
        let given = if given.is_empty() { ColumnNames::default() } else { given.parse()? };
        Columns::find(&there, &given)
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let columns = find(&["Image", "Question", "answer", "image_id", "qid"], "").unwrap();
        assert_eq!((&*columns.question, &*columns.image), ("Question", "Image"));
        assert_eq!(columns.names(), ["Question", "Image", "answer", "qid", "image_id"]);
        let columns = find(&["question", "answer", "image_id"], "").unwrap();
        assert_eq!((&*columns.image, columns.image_id), ("image_id", None));
        let columns = find(&["Q", "Ans", "file", "question"], "answer=Ans,image=file").unwrap();
        assert_eq!((&*columns.question, columns.answer.as_deref(), &*columns.image), ("question", Some("Ans"), "file"));
        assert_eq!(find(&["q", "img"], "").unwrap().answer, None);
    }

    #[test]
    fn missing_columns_are_named_with_those_that_are_there() {
        for (there, given, words) in [
            (&["text", "image"][..], "", "no question column: its columns are \"text\", \"image\"; say which"),
            (&["question", "x"], "", "no image column"),
            (&["question", "x"], "image=y", "no column \"y\": its columns are \"question\", \"x\""),
            (&["question"], "colour=y", "a column is one of question, answer, image"),
            (&["question"], "question", "expected question=NAME"),
        ] {
            let problem = find(there, given).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
