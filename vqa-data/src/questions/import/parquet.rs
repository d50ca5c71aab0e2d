//! Hugging Face's Parquet: a table that contains its pictures.

use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};
use crate::files::damage::catch_damage;
use crate::files::input::open_input;
use crate::questions::import::columns::{ColumnNames, Columns, find_columns};
use crate::questions::import::embedded::{Embedded, Problem};
use crate::questions::import::rows::Rows;
use crate::questions::import::table::push_values;

/// Rows that are decoded at a time. They are few, since each may contain a picture.
const AT_A_TIME: usize = 16;

/// Reads a table. If its image column has bytes, alone or as `{bytes, path}`, the pictures are written; otherwise it
/// has the names of pictures elsewhere.
///
/// # Errors
///
/// When it is damaged, compressed with an unsupported codec, or lacks a column, or when its image column has something
/// other than pictures.
pub(super) fn read_parquet(path: &Path, given: &ColumnNames, embedded: &mut Embedded, rows: &mut Rows) -> Result<()> {
    // What was read before a panic is dropped with the import.
    let read = catch_damage(|| read_rows(path, given, embedded, rows));
    read.unwrap_or_else(|| Err(Error::damaged(path, "damaged Parquet: fetch the file again")))
}

fn read_rows(path: &Path, given: &ColumnNames, embedded: &mut Embedded, rows: &mut Rows) -> Result<()> {
    let damaged = |error: ParquetError| Error::damaged(path, in_words(&error)).because(error);
    let reader = SerializedFileReader::new(open_input(path)?).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    let names: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let columns = find_columns(path, &names, given)?;
    let wanted = columns.names();
    // Columns that are not wanted, which may hold pictures, are not decoded.
    let fields = schema.get_fields().iter().filter(|field| wanted.contains(&field.name())).cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(damaged)?;
    let mut number = 0;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let descriptor = Arc::new(SchemaDescriptor::new(projection.clone().into()));
        let decoded = TreeBuilder::new().with_batch_size(AT_A_TIME).as_iter(descriptor, &*group).map_err(damaged)?;
        for row in decoded {
            number += 1;
            let of_row = |problem: String| Error::damaged(path, format!("row {number}: {problem}"));
            push(&columns, &row.map_err(damaged)?, number, embedded, rows).map_err(|problem| match problem {
                RowProblem::Said(problem) => of_row(problem),
                RowProblem::Error(error) => error,
            })?;
        }
    }
    Ok(())
}

enum RowProblem {
    Said(String),
    Error(Error),
}

/// Adds a row, and writes its picture.
fn push(columns: &Columns, row: &Row, number: u64, embedded: &mut Embedded, rows: &mut Rows) -> Result<(), RowProblem> {
    let mut values = Map::new();
    for (name, field) in row.get_column_iter() {
        let value = match field {
            Field::Group(image) if *name == columns.image => Value::String(picture(image, embedded)?),
            Field::Bytes(bytes) if *name == columns.image => Value::String(add(embedded, bytes.data(), None)?),
            other => value_of(other).map_err(|what| RowProblem::Said(format!("\"{name}\" has {what}")))?,
        };
        values.insert(name.clone(), value);
    }
    push_values(columns, &values, number, rows).map_err(RowProblem::Said)
}

/// Writes the picture of a `{bytes, path}` and returns its name. Without bytes, the picture is elsewhere, at that path.
fn picture(image: &Row, embedded: &mut Embedded) -> Result<String, RowProblem> {
    let (mut bytes, mut had) = (None, None);
    for (name, field) in image.get_column_iter() {
        match (name.as_str(), field) {
            ("bytes", Field::Bytes(found)) => bytes = Some(found),
            ("path", Field::Str(found)) => had = Some(found.as_str()),
            _ => {}
        }
    }
    match (bytes, had) {
        (Some(bytes), had) => add(embedded, bytes.data(), had),
        (None, Some(had)) => Ok(had.to_owned()),
        (None, None) => Err(RowProblem::Said("no picture: the image column has neither bytes nor a path".to_owned())),
    }
}

fn add(embedded: &mut Embedded, bytes: &[u8], had: Option<&str>) -> Result<String, RowProblem> {
    embedded.add(bytes, had).map_err(|problem| match problem {
        Problem::NoPicture => RowProblem::Said("the image column has bytes that are not a picture".to_owned()),
        Problem::Error(error) => RowProblem::Error(error),
    })
}

/// Converts a field to JSON. The error says what the field is instead.
fn value_of(field: &Field) -> Result<Value, &'static str> {
    let float = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => float(f64::from(*value)),
        Field::Double(value) => float(*value),
        Field::Str(text) => text.as_str().into(),
        // Older versions of pandas do not mark text as such.
        Field::Bytes(bytes) => bytes.as_utf8().map_err(|_| "bytes that are not text")?.into(),
        Field::ListInternal(list) => list.elements().iter().map(value_of).collect::<Result<_, _>>()?,
        Field::Group(group) => {
            let fields = group.get_column_iter().map(|(name, field)| Ok((name.clone(), value_of(field)?)));
            Value::Object(fields.collect::<Result<_, &'static str>>()?)
        }
        _ => return Err("values of an unsupported type"),
    })
}

/// The library's message with a remedy.
fn in_words(error: &ParquetError) -> String {
    let message = error.to_string();
    match message.contains("compression codec") || message.contains("Disabled feature") {
        true => format!(
            "its compression is not supported ({message}): Hugging Face uses snappy; write it again with \
             `table.to_parquet(FILE, compression=\"snappy\")`"
        ),
        false => format!("not readable as Parquet ({message}): fetch the file again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::import::form::{ReadFiles, read_files};
    use crate::questions::import::forms::json_form::tests::row;

    /// Reads a file written by pyarrow (`tests/data/parquet/make_fixtures.py`).
    fn read(name: &str, out: &Path) -> Result<ReadFiles, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parquet").join(name);
        read_files(&[path], &ColumnNames::default(), false, out).map_err(|error| error.to_string())
    }

    #[test]
    fn pictures_are_written_once() {
        let out = tempfile::tempdir().unwrap();
        let read_all = read("validation-00000-of-00001.parquet", out.path()).unwrap();
        assert_eq!(read_all.files[0].form, "Parquet");
        let rows = &read_all.rows;
        assert_eq!(rows.len(), 3);
        let name = "COCO_val2014_000000000042.png";
        assert_eq!(row(rows, 0), format!("val {name}(-) What color is it?(420) red|red|pink - -"));
        assert_eq!(row(rows, 1), format!("val {name}(-) Is it red?(421) yes - -"));
        assert!(row(rows, 2).ends_with(".png(-) How many?(70) 2 - -"));
        assert_eq!(read_all.embedded.pictures().unwrap().1.count(), 2);
        read_all.embedded.finish().unwrap();
        assert!(std::fs::read(out.path().join("images").join(name)).unwrap().starts_with(b"\x89PNG"));
        let of_dicts = read("train_gzip.parquet", out.path()).unwrap();
        assert_eq!(row(&of_dicts.rows, 0), "train 7.png(-) What color?(-) blue|navy - -");
        let names = read("names.parquet", out.path()).unwrap();
        assert_eq!(row(&names.rows, 0), "train 7.png(-) What?(-) blue - -");
        assert!(names.embedded.pictures().is_none());
    }

    #[test]
    fn parquet_without_pictures_is_named() {
        let out = tempfile::tempdir().unwrap();
        for (name, words) in [
            ("no_image.parquet", "no image column: its columns are \"question\", \"answer\""),
            ("no_picture.parquet", "row 1: the image column has bytes that are not a picture"),
            ("zstd.parquet", "its compression is not supported"),
        ] {
            let problem = read(name, out.path()).map(|_| ()).unwrap_err();
            assert!(problem.contains(name) && problem.contains(words), "{problem}");
        }
        let path = out.path().join("cut.parquet");
        std::fs::write(&path, b"PAR1 cut").unwrap();
        let problem =
            read_files(&[path], &ColumnNames::default(), false, out.path()).map(|_| ()).unwrap_err().to_string();
        assert!(problem.contains("not readable as Parquet"), "{problem}");
    }
}
