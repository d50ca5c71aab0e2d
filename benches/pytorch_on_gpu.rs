//! Runs the PyTorch training that `gpu.rs` compares with.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vqa_data::batches::Dataset;

/// The Python scripts of the comparison.
const SCRIPTS: [(&str, &str); 2] = [
    ("gpu.py", include_str!("python/gpu.py")),
    ("baseline.py", include_str!("../vqa-model/pytorch-reference/baseline.py")),
];

/// A Python with PyTorch, and a directory with the same questions for it.
pub struct Python {
    python: String,
    dir: PathBuf,
}

impl Python {
    /// Writes the data for Python, and `spec` to `spec.json`. Returns `None`, after a message, if there is no Python
    /// that has torch.
    pub fn new(
        python: &str,
        dir: &Path,
        dataset: &Dataset,
        spec: &serde_json::Value,
    ) -> std::io::Result<Option<Python>> {
        // Importing it would take seconds.
        let script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
        let found = Command::new(python).args(["-c", script]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            eprintln!("{} has no torch: nothing to compare with", python);
            return Ok(None);
        }
        for (name, text) in SCRIPTS {
            fs::write(dir.join(name), text)?;
        }
        let encoded = dataset.encoded();
        let rows = dataset.split().questions.iter().map(|question| (question.image_id / 3) as i32);
        write_numbers(&dir.join("tokens.i32"), encoded.tokens.iter().map(|&token| token as i32), i32::to_le_bytes)?;
        write_numbers(&dir.join("images.i32"), rows, i32::to_le_bytes)?;
        let targets = (0..dataset.len()).map(|i| encoded.targets.of(i).collect::<Vec<_>>());
        let ends = targets.clone().scan(0, |end, of| {
            *end += of.len() as i32;
            Some(*end)
        });
        write_numbers(&dir.join("ends.i32"), ends, i32::to_le_bytes)?;
        let flat = targets.flatten();
        write_numbers(&dir.join("answers.i32"), flat.clone().map(|(answer, _)| answer as i32), i32::to_le_bytes)?;
        write_numbers(&dir.join("scores.f32"), flat.map(|(_, score)| score), f32::to_le_bytes)?;
        fs::write(dir.join("spec.json"), spec.to_string())?;
        Ok(Some(Python { python: python.to_owned(), dir: dir.to_owned() }))
    }

    /// The questions a second of the fastest of PyTorch's modes, and the name of that mode.
    pub fn train(&self, features: &str, precision: &str) -> Option<(f64, String)> {
        let mut command = Command::new(&self.python);
        command.arg(self.dir.join("gpu.py")).args([features, precision]).stderr(Stdio::inherit());
        let output = command.output().ok()?;
        let figures = String::from_utf8_lossy(&output.stdout);
        let ways = figures.lines().filter_map(|line| {
            let way: serde_json::Value = serde_json::from_str(line).ok()?;
            eprintln!("PyTorch, {line}");
            Some((way["questions_per_s"].as_f64()?, way["how"].as_str()?.to_owned()))
        });
        ways.max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

fn write_numbers<T>(
    path: &Path,
    numbers: impl Iterator<Item = T>,
    to_bytes: impl Fn(T) -> [u8; 4],
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for number in numbers {
        file.write_all(&to_bytes(number))?;
    }
    file.flush()
}
