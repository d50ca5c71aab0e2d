//! Answers questions about one picture.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::RgbImage;
use vqa_data::features::{FeatureFile, ImageRegions, RegionSource, read_image};
use vqa_infer::{Answerer, AttentionMapStyle, Checkpoint, Reply, attention_map, most_attended, write_picture};
use vqa_model::device::parse_device;

use crate::args::AskArgs;
use crate::commands::predict::ScoredAnswer;
use crate::terminal::{print, say, show};

pub fn run(args: &AskArgs) -> Result<()> {
    let (picture, question) = match (&args.picture, &args.question) {
        // With features, the picture may be left out, so the only argument is the question.
        (Some(only), None) if args.features.is_some() => (None, Some(only.to_string_lossy().into_owned())),
        (picture, question) => (picture.as_deref(), question.clone()),
    };
    if let Some(map) = &args.map {
        if picture.is_none() {
            bail!("--map {} draws on the picture: give one, before the question", map.display());
        }
        args.force.if_exists().check(map)?;
    }
    // A picture that cannot be read is reported before anything slow. With features, a picture is needed only to draw
    // on.
    let wanted = picture.filter(|_| args.features.is_none() || args.map.is_some());
    let pixels = wanted.map(read_image).transpose()?;
    let (checkpoint, regions) = look(args, pixels.as_ref())?;
    let answer = |question: &str, map: Option<&Path>| -> Result<()> {
        let reply = checkpoint.ask(&regions, &[question], args.top as usize)?.remove(0);
        if !reply.unknown_words.is_empty() {
            say!("not in the model's dictionary, so read as padding: {}", reply.unknown_words.join(", "));
        }
        if let (Some(map), Some(pixels)) = (map, &pixels) {
            let drawn = draw(pixels, &regions, &reply);
            write_picture(map, &drawn)?;
            if !args.json {
                show(drawn);
            }
        }
        print(&if args.json { as_json(&reply)? } else { as_text(&reply, &regions) })
    };
    match question {
        Some(question) => answer(&question, args.map.as_deref()),
        None => questions_of_stdin(|n, question| {
            let map = args.map.as_deref().map(|map| numbered(map, n));
            map.as_deref().map_or(Ok(()), |map| args.force.if_exists().check(map))?;
            answer(question, map.as_deref())
        }),
    }
}

/// Loads the model, and extracts or reads the regions of the image.
fn look(args: &AskArgs, pixels: Option<&RgbImage>) -> Result<(Checkpoint, ImageRegions)> {
    let device = args.device.as_deref().map(parse_device).transpose()?;
    if let (Some(features), Some(image_id)) = (&args.features, args.image_id) {
        let checkpoint = Checkpoint::open(&args.checkpoint, device)?;
        let file = FeatureFile::open(features)?;
        checkpoint.check_source(&file)?;
        let row = file.row(image_id).with_context(|| format!("{}: no image {image_id} in it", features.display()))?;
        return Ok((checkpoint, file.regions(row)?));
    }
    let (Some(pixels), Some(picture)) = (pixels, &args.picture) else { bail!("name a picture to ask about") };
    let answerer = Answerer::open(&args.checkpoint, args.weights.as_deref(), device)?;
    let regions = answerer.regions(pixels).with_context(|| picture.display().to_string())?;
    Ok((answerer.into_parts().0, regions))
}

/// Reads a question from each line of standard input, and answers it before reading the next. Blank lines are skipped;
/// the others are counted from 1.
fn questions_of_stdin(mut answer: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    /// Far more than any question has.
    const MAX_LINE: u64 = 1 << 16;
    let is_dialogue = std::io::stdin().is_terminal();
    let mut stdin = std::io::stdin().lock();
    let (mut line, mut n) = (Vec::new(), 0);
    loop {
        if is_dialogue {
            // Ignored: if the prompt cannot be written, nobody is reading it.
            let _ = write!(std::io::stderr(), "question (empty to end): ").and_then(|()| std::io::stderr().flush());
        }
        line.clear();
        let read = stdin.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).context("cannot read stdin")?;
        if read as u64 == MAX_LINE {
            bail!("a line of stdin has more than {MAX_LINE} bytes: write one question per line");
        }
        let question = String::from_utf8_lossy(&line);
        match question.trim() {
            "" if read == 0 || is_dialogue => break,
            "" => {}
            question => {
                n += 1;
                answer(n, question)?;
            }
        }
    }
    if n == 0 && !is_dialogue {
        bail!("there is no question on stdin: write one per line, or give one as the last argument");
    }
    Ok(())
}

/// `map.jpg` of the third question is `map_3.jpg`.
fn numbered(map: &Path, n: usize) -> PathBuf {
    let mut name = map.file_stem().unwrap_or_default().to_owned();
    name.push(format!("_{n}"));
    if let Some(extension) = map.extension() {
        name.push(".");
        name.push(extension);
    }
    map.with_file_name(name)
}

/// Draws where the model looked.
fn draw(pixels: &RgbImage, regions: &ImageRegions, reply: &Reply) -> RgbImage {
    let boxes: Vec<[f32; 4]> = regions.corners().collect();
    attention_map(pixels, &boxes, &reply.attention, &AttentionMapStyle::default())
}

/// The answers as a JSON list, best first.
fn as_json(reply: &Reply) -> Result<String> {
    let answers = reply.answers.iter().map(|(answer, score)| ScoredAnswer { answer, score: *score });
    Ok(serde_json::to_string(&answers.collect::<Vec<_>>())?)
}

/// One line for each answer, and one that says where the model looked.
fn as_text(reply: &Reply, regions: &ImageRegions) -> String {
    const BAR: f32 = 30.0;
    let width = reply.answers.iter().map(|(answer, _)| answer.chars().count()).max().unwrap_or(0).max(8);
    let mut lines: Vec<String> = reply
        .answers
        .iter()
        .map(|(answer, score)| {
            let bar = "█".repeat((score * BAR).round() as usize);
            format!("{answer:<width$} {:>5.1} % {bar}", 100.0 * score).trim_end().to_owned()
        })
        .collect();
    let boxes: Vec<[f32; 4]> = regions.corners().collect();
    if let Some(most) = most_attended(&boxes, &reply.attention) {
        let [x1, y1, x2, y2] = boxes[most];
        lines.push(format!(
            "looked most at x {x1:.0} to {x2:.0}, y {y1:.0} to {y2:.0} ({:.0} % of the attention)",
            100.0 * reply.attention[most]
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of regions with equal attention the first is named, which is also the one that the map frames.
    #[test]
    fn of_equal_regions_the_first_is_named() {
        let boxes = vec![0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 4.4, 5.0, 6.0, 7.0, 8.0, 9.0];
        let regions = ImageRegions { features: Vec::new(), boxes };
        let attention = vec![0.2, 0.4, 0.4];
        let reply = Reply { answers: vec![("red".to_owned(), 0.5)], attention, unknown_words: Vec::new() };
        let text = as_text(&reply, &regions);
        assert_eq!(text.lines().last(), Some("looked most at x 2 to 4, y 3 to 5 (40 % of the attention)"));
    }
}
