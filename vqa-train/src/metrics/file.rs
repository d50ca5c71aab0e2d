//! Writes `metrics.jsonl`, and the same metrics for TensorBoard and as a plot.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;
use vqa_data::files::{read_text_within, write_atomic};
use vqa_model::run::RunDir;

use crate::error::Result;
use crate::metrics::curves;
use crate::metrics::lines::Line;
use crate::metrics::tensorboard::EventFile;
use crate::position::Position;

/// The largest file that is read, enough for more than ten million lines.
const MAX_BYTES: u64 = 4 << 30;

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    /// The same metrics for TensorBoard.
    board: EventFile,
}

impl MetricsFile {
    /// Opens the metrics of a run that is at `position`, and removes lines of later steps and epochs, which will be
    /// trained again.
    pub(crate) fn open(run: &RunDir, position: Position) -> Result<MetricsFile> {
        #[derive(Deserialize)]
        #[serde(tag = "kind", rename_all = "lowercase")]
        enum WrittenAt {
            Step { step: u64 },
            Epoch { epoch: u64 },
        }
        let is_before = |line: WrittenAt| match line {
            WrittenAt::Step { step } => step <= position.step,
            // Compared by epoch: the state may have been saved after the epoch's last step but before its validation.
            WrittenAt::Epoch { epoch } => epoch <= position.epoch,
        };
        let path = run.metrics();
        let old = match read_text_within(MAX_BYTES, &path) {
            Err(vqa_data::Error::NotFound { .. }) => String::new(),
            read => read?,
        };
        let kept: String = old
            .lines()
            .filter(|line| serde_json::from_str(line).is_ok_and(is_before))
            .flat_map(|line| [line, "\n"])
            .collect();
        write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(vqa_data::Error::io("write", &path))?;
        let board = EventFile::replace(&run.tensorboard(), Line::parse_all(&kept))?;
        Ok(MetricsFile { path, file, board })
    }

    /// Appends a line, unbuffered.
    pub(crate) fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).expect("a line can be written as JSON");
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(vqa_data::Error::io("write", &self.path))?;
        self.board.append(line)
    }

    /// Flushes the lines to the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        Ok(self.file.sync_data().map_err(vqa_data::Error::io("write", &self.path))?)
    }
}

/// Plots a run's metrics to [`RunDir::curves`]. Does nothing if no epoch is finished.
///
/// # Errors
///
/// When the metrics cannot be read, or the plot cannot be written.
pub fn draw_curves(run: &RunDir) -> Result<()> {
    let path = run.metrics();
    let text = read_text_within(MAX_BYTES, &path)?;
    match curves::draw(&run.name(), Line::parse_all(&text)) {
        Some(svg) => Ok(write_atomic(&run.curves(), svg.as_bytes())?),
        None => Ok(()),
    }
}
