//! Opens input files, whatever their content.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a regular file for reading. Anything else is refused: opening a named pipe without a writer would block
/// forever, and a device never ends.
///
/// # Errors
///
/// When the file is missing, cannot be read, or is not a regular file.
pub fn open_input(path: &Path) -> Result<File> {
    // Checked before opening, since that is when a pipe blocks.
    let kind = std::fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    if !kind.is_file() {
        let kind = match kind {
            kind if kind.is_dir() => "a directory",
            kind if kind.is_fifo() => "a pipe",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        };
        return Err(Error::wrong_format(path, format!("{kind}, not a file: give the path of a regular file")));
    }
    File::open(path).map_err(Error::io("read", path))
}

/// Reads a small text, such as a config or a list of ids: [`read_text_within`] with a limit of 256 MiB, a hundred times
/// VQA2.0's image ids.
///
/// # Errors
///
/// Those of [`read_text_within`].
pub fn read_text(path: &Path) -> Result<String> {
    read_text_within(256 << 20, path)
}

/// Reads a text of at most `max_bytes` bytes. It may also come from a pipe that this process already has, such as a
/// shell's `<(…)` or `/dev/stdin`: small texts may be generated on the fly, and are read only once.
///
/// # Errors
///
/// When the file is missing, cannot be read, is too large, or is not UTF-8.
pub fn read_text_within(max_bytes: u64, path: &Path) -> Result<String> {
    let is_ours = ["/dev/stdin", "/dev/fd", "/proc/self/fd"].iter().any(|ours| path.starts_with(ours));
    let is_pipe = is_ours && std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
    let file = if is_pipe { File::open(path).map_err(Error::io("read", path))? } else { open_input(path)? };
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > max_bytes {
        let problem =
            format!("more than {} MiB, too long for the text expected here: is it the right file?", max_bytes >> 20);
        return Err(Error::wrong_format(path, problem));
    }
    let not_text = |error| Error::wrong_format(path, "not UTF-8 text: is it the right file?").because(error);
    String::from_utf8(bytes).map_err(not_text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_files_are_opened_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let pipe = at.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = at.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, kind) in
            [(at, "directory"), (&pipe, "pipe"), (&socket, "socket"), (Path::new("/dev/zero"), "device")]
        {
            for error in [open_input(path).unwrap_err(), read_text(path).unwrap_err()] {
                assert!(error.to_string().contains(&format!("a {kind}, not a file")), "{error}");
            }
        }
        let text = at.join("text");
        std::fs::write(&text, b"\xff\xfe").unwrap();
        assert!(read_text(&text).unwrap_err().to_string().contains("not UTF-8 text"));
        assert!(matches!(read_text(&at.join("nowhere")), Err(Error::NotFound { .. })));
        // A sparse file that claims a terabyte is not read to its end.
        File::create(&text).unwrap().set_len(1 << 40).unwrap();
        assert!(read_text(&text).unwrap_err().to_string().contains("more than 256 MiB"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_of_this_process_is_read() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"1\n2\n").unwrap();
        drop(writer);
        assert_eq!(read_text(format!("/dev/fd/{}", reader.as_raw_fd()).as_ref()).unwrap(), "1\n2\n");
    }
}
