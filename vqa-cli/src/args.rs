//! What can be typed. What it does is in `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vqa_data::features::{ElementType, Shard};

/// Visual question answering: prepare data, train, score and explain models on VQA2.0.
#[derive(Debug, Parser)]
#[command(name = "vqa", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole job on a generated dataset: data, features, training, scores, attention maps; minutes on two cores
    #[cfg(feature = "torch")]
    Demo(DemoArgs),
    /// Write the demo's dataset alone: pictures of coloured shapes, questions and annotations in VQA2.0's formats
    Synth(SynthArgs),
    /// Look into feature files; make them from other forms, merge and split them; make them from pictures
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// Make the word and answer dictionaries, and report what a training run will see
    Prepare(PrepareArgs),
    /// Train a model
    #[cfg(feature = "torch")]
    Train(TrainArgs),
    /// Score a model: soft score, and official accuracy by answer type and question type
    #[cfg(feature = "torch")]
    Evaluate(EvaluateArgs),
    /// Answer the questions of a split, in the evaluation server's format
    #[cfg(feature = "torch")]
    Predict(PredictArgs),
    /// Draw where a model looks: a folder for each question, and a page over all of them
    #[cfg(feature = "torch")]
    Visualize(VisualizeArgs),
    /// Official accuracy of a results file
    Score(ScoreArgs),
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where everything goes; an earlier demo there is replaced
    #[arg(long, default_value = "demo")]
    pub out_dir: PathBuf,
    /// Pictures to draw, five in six for training
    #[arg(long, default_value_t = 4800, value_parser = clap::value_parser!(u64).range(12..))]
    pub images: u64,
    /// Passes over the training questions
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,
}

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// The directory to write to
    #[arg(long)]
    pub out: PathBuf,
    /// Pictures to draw, five in six for training
    #[arg(long, default_value_t = 4800, value_parser = clap::value_parser!(u64).range(2..))]
    pub images: u64,
    /// Fixes everything
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// Sum up a feature file: shape, type, layout, images, range of values, NaN
    Inspect(InspectArgs),
    /// Make a feature file from TSV files (bottom-up-attention, LXMERT), folders of .npz (openvqa), or other HDF5 files
    Convert(ConvertArgs),
    /// Make a feature file from pictures without a detector: the cells of a grid, as standardised pixels
    Extract(ExtractArgs),
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The HDF5 file
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("outputs").required(true).args(["out", "split"]))]
#[command(after_help = "Until it is whole, an output is OUT.partial. After a kill, Ctrl-C or a full disk the same \
        command resumes it.")]
pub struct ConvertArgs {
    /// TSV files, folders of .npz, or HDF5 files, in order; shards of one job are put in order
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// The HDF5 file to write
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Keep only the images whose ids are in this file, one on each line
    #[arg(long, value_name = "IDS.txt", conflicts_with = "split")]
    pub ids: Option<PathBuf>,
    /// Write the images of a list of ids to a file of their own; can be given several times, and the input is read once
    #[arg(long, value_name = "IDS.txt=OUT.h5", value_parser = parse_split, conflicts_with = "out")]
    pub split: Vec<(PathBuf, PathBuf)>,
    /// Leave out malformed images, images that come again, and listed images that are not there, instead of stopping
    #[arg(long)]
    pub skip_bad: bool,
    #[command(flatten)]
    pub element_type: ElementTypeArgs,
    /// Convert only the I-th of N parts, from 1 on, to OUT.shard-I-of-N.h5; converting all of these merges them
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Print JSON: the files written, and what was left out
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ElementTypeArgs {
    /// Store float16: half the size
    #[arg(long)]
    pub f16: bool,
    /// Store float32, also where the input is float16
    #[arg(long, conflicts_with = "f16")]
    pub f32: bool,
}

impl ElementTypeArgs {
    /// The type that is wished for, if one is.
    pub fn get(&self) -> Option<ElementType> {
        match (self.f16, self.f32) {
            (true, _) => Some(ElementType::F16),
            (_, true) => Some(ElementType::F32),
            _ => None,
        }
    }
}

fn parse_split(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((ids, out)) if !ids.is_empty() && !out.is_empty() => Ok((ids.into(), out.into())),
        _ => Err("IDS.txt=OUT.h5 is wanted, as in val_ids.txt=val36.h5".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Until it is whole, the output is OUT.partial. After a kill, Ctrl-C or a full disk the same \
        command resumes it.")]
pub struct ExtractArgs {
    /// Directory of .jpg and .png files whose names end in the image id
    #[arg(long)]
    pub images: PathBuf,
    /// The HDF5 file to write
    #[arg(long)]
    pub out: PathBuf,
    /// Rows and columns of cells, as in 4x4; wanted unless --like gives them
    #[arg(long, value_name = "RxC", value_parser = parse_grid, required_unless_present = "like")]
    pub grid: Option<(u32, u32)>,
    /// Make the whole picture a region too
    #[arg(long)]
    pub whole: bool,
    /// Side in pixels that each region is resized to (16 if not given)
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub patch: Option<u32>,
    /// Take grid, patch, mean and deviation from the file of the training pictures
    #[arg(long, value_name = "OTHER.h5")]
    pub like: Option<PathBuf>,
    #[command(flatten)]
    pub element_type: ElementTypeArgs,
    /// Extract only the I-th of N parts, from 1 on, to OUT.shard-I-of-N.h5; `features convert` of all of these merges
    /// them
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn parse_grid(text: &str) -> Result<(u32, u32), String> {
    let parse = || {
        let (rows, columns) = text.split_once(['x', 'X'])?;
        Some((rows.parse().ok()?, columns.parse().ok()?))
    };
    match parse() {
        Some((rows, columns)) if (1..=256).contains(&rows) && (1..=256).contains(&columns) => Ok((rows, columns)),
        _ => Err("rows x columns is wanted, 1 to 256 each, as in 4x4".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct PrepareArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The config file (TOML); paths in it are relative to its directory
    #[arg(long)]
    pub config: PathBuf,
    /// Change a key of the config, as in train.n_epochs=3; can be given several times. Paths are relative to the
    /// working directory, as all others on the command line
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("KEY=VALUE is wanted, as in train.n_epochs=3".to_owned()),
    }
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Resume the run in out_dir from where it was last saved
    #[arg(long)]
    pub resume: bool,
    /// Initialise from the weights of a .safetensors or .pth file of the same model, as --set model.init=FILE does
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Read everything, try some steps, and report what the run would take; nothing is left in out_dir
    #[arg(long)]
    pub dry_run: bool,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The checkpoint; its config and dictionaries are beside it
    #[arg(long)]
    pub checkpoint: PathBuf,
    /// The split, by its name in the config
    #[arg(long)]
    pub data: String,
    /// A config file to take the splits from, instead of the run's
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:1, instead of the run's
    #[arg(long)]
    pub device: Option<String>,
    /// Questions in a batch, instead of the run's
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch_size: Option<u64>,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Write the answers too, in the evaluation server's format
    #[arg(long, value_name = "OUT.json")]
    pub results: Option<PathBuf>,
    /// Score the model again where every image's questions are asked about another image of the split, drawn by the
    /// run's seed: what is left without looking. JSON then has "blind": {"seed", "soft_score", "accuracy"} too
    #[arg(long)]
    pub blind: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The results file to write
    #[arg(long)]
    pub out: PathBuf,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct VisualizeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Batches to draw
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub n_batches: u64,
    /// Where to make the folder RUN_model_N_SPLIT_visualization
    #[arg(long)]
    pub out_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The questions file
    #[arg(long)]
    pub questions: PathBuf,
    /// The annotations file
    #[arg(long)]
    pub annotations: PathBuf,
    /// The results: a list of {"question_id": …, "answer": …}
    #[arg(long)]
    pub results: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
