use std::collections::HashSet;
use std::path::Path;
use std::slice;
use std::time::Instant;

use anyhow::{Result, bail};
use vqa_data::Error;
use vqa_data::evaluator::{Accuracy, blind_guesses};
use vqa_data::features::{ChannelStats, ElementType, Extraction, Grid, PixelGrid, list_images};
use vqa_data::files::{IfExists, write_atomic};
use vqa_data::questions::Split;
use vqa_data::shapes::ShapesSplit;
use vqa_infer::report::Report;
use vqa_model::run::RunDir;

use crate::args::{DemoArgs, SplitArgs};
use crate::commands::{answering, features, prepare, synth, train};
use crate::config::Config;
use crate::process_group::ProcessGroup;
use crate::progress::ProgressBar;
use crate::terminal::{print, say};

/// Marks a directory as the demo's own; other directories are left alone.
const MARKER: &str = ".vqa-demo";

/// What the demo writes, and replaces when run again.
const WRITTEN: [&str; 8] = ["data", "train.h5", "val.h5", "config.toml", "words.json", "answers.json", "run", "maps"];

/// Cells as large as a large shape, plus the full image as a region.
const GRID: Grid = Grid { rows: 4, columns: 5, whole: true, patch: 16 };

/// Number of questions on the page.
const N_SHOWN: usize = 60;

pub fn run(args: &DemoArgs) -> Result<()> {
    let started = Instant::now();
    let at = &args.out_dir;
    make_directory(at)?;
    let step = |command: &str| say!("\n$ {command}");
    let dir = at.display();

    step(&format!("vqa synth --out {dir}/data --images {}", args.images));
    synth::write(&at.join("data"), args.images, 1)?;

    let (rows, columns, patch) = (GRID.rows, GRID.columns, GRID.patch);
    step(&format!(
        "vqa features extract --images {dir}/data/images/train --out {dir}/train.h5 --grid {rows}x{columns} \
         --whole --patch {patch}"
    ));
    let train_images = list_images(&ShapesSplit::files(&at.join("data"), "train").images)?;
    let progress = ProgressBar::new("measure", "images", train_images.len() as u64);
    let stats = ChannelStats::measure(&train_images, &|n| progress.add(n))?;
    drop(progress);
    let extractor = &PixelGrid { grid: GRID, stats };
    let extraction = Extraction { extractor, element_type: ElementType::F32, shard: None, batch_size: None };
    features::extract::write(&train_images, &extraction, &at.join("train.h5"), IfExists::Refuse)?;
    step(&format!("vqa features extract --images {dir}/data/images/val --out {dir}/val.h5 --like {dir}/train.h5"));
    let val_images = list_images(&ShapesSplit::files(&at.join("data"), "val").images)?;
    features::extract::write(&val_images, &extraction, &at.join("val.h5"), IfExists::Refuse)?;

    let config_path = at.join("config.toml");
    write_atomic(&config_path, config_text(args.epochs).as_bytes())?;
    let config = Config::load(&config_path, &[])?;
    step(&format!("vqa prepare --config {dir}/config.toml"));
    let prepared = prepare::prepare(&config)?;
    say!("{} words, {} answers", prepared.n_words, prepared.n_answers);

    step(&format!("vqa train --config {dir}/config.toml"));
    train::train(&config, false, &ProcessGroup::alone())?;

    let checkpoint = RunDir::new(at.join("run")).checkpoint(args.epochs);
    step(&format!("vqa evaluate --checkpoint {} --data val", checkpoint.display()));
    let val = SplitArgs { data: "val".to_owned(), config: None, device: None, batch_size: None };
    let val = answering::open(slice::from_ref(&checkpoint), &val)?;
    let annotations = &val.dataset().split().annotations;
    let answers = answering::answer_all(&val)?;
    let model = answers.accuracy(annotations);
    let seen = Split::load(config.split("train")?)?.annotations;
    let blind = Accuracy::of(&blind_guesses(&seen, annotations), annotations)?;

    step(&format!(
        "vqa visualize --checkpoint {} --data val --out-dir {dir}/maps   # here one question per image",
        checkpoint.display()
    ));
    let notes = vec![
        format!(
            "{} unseen images, {} questions: the trained model answers {:.1} % correctly, the best guess \
             without looking {:.1} %.",
            val_images.len(),
            annotations.len(),
            model.overall,
            blind.overall
        ),
        "Left: the image. Right: where the model looked; the framed cell has the highest weight.".to_owned(),
    ];
    let scores = answering::scores(&val, &answers)?;
    let mut report = Report::new(at.join("maps"), "vqa: the shapes world", notes).scores(scores);
    answering::explain(&val, &shown(val.dataset().split()), true, &mut report)?;
    let page = report.finish()?;

    print(&format!(
        "\n{}\ndone in {:.0} s; open {} to see where the model looks",
        comparison(&blind, &model),
        started.elapsed().as_secs_f64(),
        page.display()
    ))
}

/// Creates the directory, after removing an earlier demo.
fn make_directory(at: &Path) -> Result<()> {
    if at.exists() && std::fs::read_dir(at).map_err(Error::io("read the directory", at))?.next().is_some() {
        if !at.join(MARKER).exists() {
            bail!("{}: not empty, and not from an earlier demo: choose another --out-dir", at.display());
        }
        for path in WRITTEN.map(|name| at.join(name)).iter().filter(|path| path.exists()) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.map_err(Error::io("remove", path))?;
        }
    }
    Ok(write_atomic(&at.join(MARKER), b"Made by `vqa demo`, which replaces its files here when it runs again.\n")?)
}

/// The demo's config file: a small model, so that it trains in minutes.
fn config_text(epochs: u64) -> String {
    let split = |name: &str| {
        let files = ShapesSplit::files(Path::new("data"), name);
        format!(
            "[[data.{name}.composition]]\nq_jsons = [\"{}\"]\na_jsons = [\"{}\"]\n\
             features = \"{name}.h5\"\nimages = \"data/{}\"\n",
            files.questions.display(),
            files.annotations.display(),
            files.image_template
        )
    };
    format!(
        "out_dir = \"run\"\n\n{}\n{}\n\
         [model]\nhid_dim = 256\n[model.lm]\nword_emb_dim = 100\n[model.topdown_att]\nhid_dim = 256\n\
         [model.mlp]\nhid_dim = 512\ndropout = 0.3\n\n\
         [train]\nn_epochs = {epochs}\nbatch_size = 256\n[train.optim]\nlr = 0.003\n",
        split("train"),
        split("val")
    )
}

/// One question about each of the first images, cycling through the question types.
fn shown(split: &Split) -> Vec<usize> {
    let mut types: Vec<&str> = split.annotations.iter().map(|annotation| annotation.question_type).collect();
    types.sort_unstable();
    types.dedup();
    let mut images = HashSet::new();
    let mut shown: Vec<usize> = Vec::new();
    for (i, annotation) in split.annotations.iter().enumerate() {
        let wanted = types[shown.len() % types.len()];
        if shown.len() < N_SHOWN && annotation.question_type == wanted && images.insert(split.questions[i].image_id) {
            shown.push(i);
        }
    }
    shown
}

/// Accuracy by answer type, of the blind guess and of the model.
fn comparison(blind: &Accuracy, model: &Accuracy) -> String {
    let mut text = format!("{:<22} {:>8}", "official accuracy", "all");
    for name in model.per_answer_type.keys() {
        text.push_str(&format!(" {name:>8}"));
    }
    for (title, accuracy) in [("best blind guess", blind), ("trained model", model)] {
        text.push_str(&format!("\n{title:<22} {:>8.2}", accuracy.overall));
        for value in accuracy.per_answer_type.values() {
            text.push_str(&format!(" {value:>8.2}"));
        }
    }
    text
}
