//! Writes and removes the folder of a question.

use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use image::RgbImage;
use vqa_data::Error;
use vqa_data::features::read_upright_jpeg;
use vqa_data::files::write_atomic;

use crate::error::Result;
use crate::picture_file::encode_jpeg;
use crate::report::explained::ExplainedQuestion;

/// The files of a folder: question and answers, the picture, and the attention map.
const FILES: [&str; 3] = ["qa.txt", "original.jpg", "topdown_att.jpg"];

/// The text of `qa.txt`: question, ground truth and answer, in the seed's format.
pub(super) fn qa_text(explained: &ExplainedQuestion) -> String {
    let mut text = format!("{}\n", explained.question);
    if let Some((most, _)) = explained.annotators.first() {
        let _ = writeln!(text, "gt: {most}");
    }
    let _ = writeln!(text, "answer: {}", explained.answer);
    text
}

/// The bytes of the picture's own file if it is a JPEG that needs no EXIF rotation to be shown upright; otherwise the
/// picture, re-encoded as a JPEG.
pub(super) fn original_jpeg(path: &Path, picture: &RgbImage) -> Result<Vec<u8>> {
    read_upright_jpeg(path)?.map_or_else(|| encode_jpeg(path, picture), Ok)
}

/// Writes the files of a folder, each atomically.
pub(super) fn write_folder(folder: &Path, contents: [&[u8]; 3]) -> Result<()> {
    remove_temporaries(folder, &FILES)?;
    for (name, bytes) in FILES.iter().zip(contents) {
        write_atomic(&folder.join(name), bytes)?;
    }
    Ok(())
}

/// Whether a folder has all of its files.
pub(super) fn is_complete(folder: &Path) -> bool {
    FILES.iter().all(|name| folder.join(name).is_file())
}

/// Removes the files of a folder, and the folder itself unless there is anything else in it.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    // The target of a symbolic link was not created by the report.
    if !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    remove_temporaries(folder, &FILES)?;
    FILES.iter().try_for_each(|name| remove_file(&folder.join(name)))?;
    match fs::remove_dir(folder) {
        Err(error) if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => {
            Err(Error::io("remove", folder)(error).into())
        }
        _ => Ok(()),
    }
}

/// Removes the temporary files that a killed process left behind while writing `files` in a directory.
pub(super) fn remove_temporaries(directory: &Path, files: &[&str]) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let is_temporary = name.ends_with(".tmp") && files.iter().any(|file| name.starts_with(&format!(".{file}.")));
        if is_temporary {
            remove_file(&directory.join(name))?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error).into()),
        _ => Ok(()),
    }
}
