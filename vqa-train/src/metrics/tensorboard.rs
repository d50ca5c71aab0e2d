//! Writes the curves of `metrics.jsonl` to TensorBoard's event files.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use vqa_data::Error;
use vqa_data::files::{open_input, write_atomic};

use crate::error::Result;
use crate::metrics::lines::Line;

/// The fields of `tensorflow.Event` that scalars need.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    // One of the following.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Scalar>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    value: Option<f32>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: replaces all earlier points of this event's step and of later ones.
const START: i32 = 1;

/// The suffix of our files' names. Other programs' event files are left alone.
const SUFFIX: &str = ".vqa";

/// The most bytes that an event may have. Ours have a few hundred.
const MAX_EVENT: u64 = 1 << 20;

/// An event file, open for appending.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates the event file of a directory from these lines of `metrics.jsonl`. An older file is emptied, which drops
    /// the points of steps that will be trained again; points that stay keep their time. A running TensorBoard drops
    /// the old points too. It may get stuck if a file that it is reading disappears, so the emptied file is removed
    /// only by the next call.
    pub(crate) fn replace(directory: &Path, lines: impl Iterator<Item = Line>) -> Result<EventFile> {
        fs::create_dir_all(directory).map_err(Error::io("make the directory", directory))?;
        let old = files(directory)?;
        let mut times = HashMap::new();
        for path in &old {
            times.extend(
                read_events(open_input(path)?)
                    .filter_map(|event| Some(((first_tag(&event)?, event.step), event.wall_time))),
            );
        }
        let now = since_1970();
        let wall_time = now.as_secs_f64();
        let head = Event { wall_time, file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        let start = Event { wall_time, session_log: Some(SessionLog { status: START }), ..Event::default() };
        let mut bytes = [record(&head), record(&start)].concat();
        for line in lines {
            let mut event = event(&line, wall_time);
            let known = first_tag(&event).and_then(|tag| times.get(&(tag, event.step)));
            event.wall_time = known.copied().unwrap_or(wall_time);
            bytes.extend(record(&event));
        }
        // TensorBoard reads a directory's files in the order of their names.
        let path =
            directory.join(format!("events.out.tfevents.{:010}.{:09}{SUFFIX}", now.as_secs(), now.subsec_nanos()));
        write_atomic(&path, &bytes)?;
        for path in old.iter().filter(|old| **old != path) {
            match fs::metadata(path).is_ok_and(|file| file.len() == 0) {
                true => fs::remove_file(path).map_err(Error::io("remove", path))?,
                false => fs::write(path, "").map_err(Error::io("write", path))?,
            }
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(EventFile { path, file })
    }

    /// Appends the points of a line, unbuffered.
    pub(crate) fn append(&mut self, line: &Line) -> Result<()> {
        let event = event(line, since_1970().as_secs_f64());
        Ok(self.file.write_all(&record(&event)).map_err(Error::io("write", &self.path))?)
    }
}

/// Returns our event files in a directory, in order.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(Error::io("read the directory", directory))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| is_event_file(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    Ok(files)
}

/// Whether this is the name of one of our event files.
pub(crate) fn is_event_file(name: &str) -> bool {
    name.starts_with("events.out.tfevents.") && name.ends_with(SUFFIX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the points of a line, as an event: a step line's are placed at the step, an epoch line's at the epoch.
fn event(line: &Line, wall_time: f64) -> Event {
    let (step, values) = match line {
        Line::Step(step) => (
            step.step,
            vec![
                ("step/loss", Some(step.loss)),
                ("step/score", Some(step.score)),
                ("step/lr", Some(step.lr)),
                ("step/samples_per_s", Some(step.samples_per_s)),
                ("step/data_share", Some(step.data_share())),
            ],
        ),
        Line::Epoch(epoch) => (
            epoch.epoch,
            vec![
                ("epoch/train_loss", Some(epoch.train_loss)),
                ("epoch/train_score", Some(epoch.train_score)),
                ("epoch/val_loss", epoch.val_loss),
                ("epoch/val_score", epoch.val_score),
                ("epoch/val_upper_bound", epoch.val_upper_bound),
            ],
        ),
    };
    let scalar = |(tag, value): (&str, Option<f64>)| Some(Scalar { tag: tag.to_owned(), value: Some(value? as f32) });
    let values = values.into_iter().filter_map(scalar).collect();
    Event { wall_time, step: step as i64, summary: Some(Summary { values }), ..Event::default() }
}

fn first_tag(event: &Event) -> Option<String> {
    Some(event.summary.as_ref()?.values.first()?.tag.clone())
}

/// Encodes an event as a TFRecord: its length and the event itself, each followed by a checksum.
fn record(event: &Event) -> Vec<u8> {
    let event = event.encode_to_vec();
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &event, &checksum(&event)].concat()
}

/// Returns the "masked" CRC-32C of a TFRecord.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Reads the events of a file up to the first damaged one. Only one event at a time is in memory.
fn read_events(file: impl Read) -> impl Iterator<Item = Event> {
    let mut file = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut read = |n: u64| {
            let mut bytes = Vec::new();
            (&mut file).take(n).read_to_end(&mut bytes).ok()?;
            let mut sum = [0; 4];
            file.read_exact(&mut sum).ok()?;
            (bytes.len() as u64 == n && sum == checksum(&bytes)).then_some(bytes)
        };
        // The length has a checksum of its own, so nothing else can be mistaken for one.
        let length = u64::from_le_bytes(read(8)?.try_into().ok()?);
        Event::decode(&*read(Some(length).filter(|&length| length <= MAX_EVENT)?)?).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The expected bytes are those that TensorBoard's own writer produces for these events.
    #[test]
    fn records_are_tensorboards() {
        let head = Event { wall_time: 1.5, file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        assert_eq!(
            hex(&record(&head)),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        );
        let start = Event { wall_time: 1.5, session_log: Some(SessionLog { status: START }), ..Event::default() };
        assert_eq!(hex(&record(&start)), "0d000000000000003c37b83409000000000000f83f3a020801b718825c");
        let line = r#"{"kind": "epoch", "epoch": 7, "train_loss": 0.5, "train_score": 0.0, "seconds": 1.0}"#;
        assert_eq!(
            hex(&record(&event(&Line::parse_all(line).next().unwrap(), 2.25))),
            "40000000000000002817f49509000000000000024010072a330a170a1065706f63682f747261696e5f6c6f7373150000003f\
             0a180a11\
             65706f63682f747261696e5f73636f72651500000000820a1893"
        );
    }

    /// Returns tag, step and time of all points in a directory.
    fn points(directory: &Path) -> Vec<(String, i64, f64)> {
        let bytes: Vec<u8> = files(directory).unwrap().iter().flat_map(|path| fs::read(path).unwrap()).collect();
        read_events(&*bytes).filter_map(|event| Some((first_tag(&event)?, event.step, event.wall_time))).collect()
    }

    #[test]
    fn a_resumed_run_has_every_point_once_with_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let line = |epoch: u64| {
            let text =
                format!(r#"{{"kind": "epoch", "epoch": {epoch}, "train_loss": 1, "train_score": 2, "seconds": 3}}"#);
            Line::parse_all(&text).next().unwrap()
        };
        let mut file = EventFile::replace(at, [].into_iter()).unwrap();
        (1..=3).for_each(|epoch| file.append(&line(epoch)).unwrap());
        // An event that a crash cut short, and another program's file.
        file.file.write_all(&record(&event(&line(4), 0.0))[..20]).unwrap();
        fs::write(at.join("events.out.tfevents.1.other"), "").unwrap();
        let before = points(at);
        assert_eq!(before.len(), 3);

        let mut file = EventFile::replace(at, [line(1), line(2)].into_iter()).unwrap();
        file.append(&line(3)).unwrap();
        let after = points(at);
        assert_eq!(after[..2], before[..2], "the time of a point stays");
        assert_eq!((after.len(), after[2].1), (3, 3));
        assert!(after[2].2 > before[2].2, "the last one is trained again");
        drop(EventFile::replace(at, [line(1)].into_iter()).unwrap());
        assert_eq!((points(at).len(), files(at).unwrap().len()), (1, 2), "an empty one, and the one before it is gone");
        assert!(at.join("events.out.tfevents.1.other").exists());
    }

    /// Something else under the name of an event file is neither read nor waited for.
    #[test]
    fn other_things_are_no_event_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("events.out.tfevents.1.1{SUFFIX}"));
        // A terabyte of zeros, which takes no disk space.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        drop(EventFile::replace(directory.path(), [].into_iter()).unwrap());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = EventFile::replace(directory.path(), [].into_iter()).unwrap_err().to_string();
        assert!(error.contains("a device, not a file") && error.contains("tfevents.1.1"), "{error}");
    }
}
