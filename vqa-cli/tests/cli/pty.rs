//! Pseudo terminals, to test what a user sees. They are the only unsafe code in these tests, as the standard library
//! has none.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::thread::JoinHandle;

/// A program running on a terminal.
pub struct OnTerminal {
    pub child: Child,
    output: JoinHandle<Vec<u8>>,
}

impl OnTerminal {
    /// Starts a program that writes to a terminal with this many columns.
    pub fn start(mut command: Command, columns: u16) -> OnTerminal {
        let (mut ours, its) = open(columns);
        let child = command.stdout(its.try_clone().unwrap()).stderr(its).spawn().unwrap();
        // The command holds the other end of the terminal, and would keep it open.
        drop(command);
        let output = std::thread::spawn(move || {
            let mut output = Vec::new();
            // When the other end is closed, Linux returns EIO.
            let _ = ours.read_to_end(&mut output);
            output
        });
        OnTerminal { child, output }
    }

    /// Waits for the program to end; returns the exit code and everything that was written.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, String::from_utf8(self.output.join().unwrap()).unwrap())
    }
}

#[allow(unsafe_code)]
fn open(columns: u16) -> (File, OwnedFd) {
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut its) = (0, 0);
    let no_name = std::ptr::null_mut();
    // SAFETY: the call writes two descriptors and reads the size; null pointers mean that no name is wanted and no
    // settings are given.
    let result = unsafe { libc::openpty(&raw mut ours, &raw mut its, no_name, std::ptr::null(), &raw const size) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptors were just opened, and nothing else owns them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(its)) }
}

/// Emulates the part of a terminal that `vqa` uses.
pub struct Screen {
    pub lines: Vec<String>,
    /// Lines that were wider than the terminal, and so wrapped into the next one.
    pub wrapped: Vec<String>,
    /// Whether colours were used.
    pub coloured: bool,
}

impl Screen {
    pub fn show(output: &str, columns: usize) -> Screen {
        let mut screen = Screen { lines: Vec::new(), wrapped: Vec::new(), coloured: false };
        let mut lines: Vec<Vec<char>> = vec![Vec::new()];
        let (mut row, mut column) = (0, 0);
        let mut chars = output.chars();
        while let Some(char) = chars.next() {
            match char {
                '\r' => column = 0,
                '\n' => row += 1,
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['), "{output:?}");
                    let code: String = chars.by_ref().take_while(|char| !char.is_ascii_alphabetic()).collect();
                    // `take_while` has consumed the final letter, so take it from the text.
                    let end = output.len() - chars.as_str().len();
                    match &output[end - 1..end] {
                        "A" => row -= code.parse().unwrap_or(1).min(row),
                        "K" => lines[row].clear(),
                        "m" => screen.coloured = true,
                        other => panic!("{other}: {output:?}"),
                    }
                }
                char => {
                    if column == columns {
                        screen.wrapped.push(lines[row].iter().collect());
                        (row, column) = (row + 1, 0);
                    }
                    lines.resize(lines.len().max(row + 1), Vec::new());
                    let line = &mut lines[row];
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = char;
                    column += 1;
                }
            }
            lines.resize(lines.len().max(row + 1), Vec::new());
        }
        screen.lines = lines.into_iter().map(String::from_iter).collect();
        screen
    }
}
