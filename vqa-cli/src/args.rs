//! The command line: its commands and their arguments. The module `commands` implements them.

#[cfg(feature = "serve")]
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
#[cfg(feature = "torch")]
use vqa_data::config::MAX_BATCH_SIZE;
#[cfg(feature = "torch")]
use vqa_data::features::Filter;
use vqa_data::features::{ElementType, Grid, Shard};
use vqa_data::files::IfExists;
use vqa_data::questions::import::{ColumnNames, ValBy};
#[cfg(feature = "torch")]
use vqa_infer::MapStyle;
#[cfg(feature = "torch")]
use vqa_model::{backbone::ChannelOrder, feed::Precision};

/// Visual question answering: prepare data, train, score and explain models on VQA2.0.
#[derive(Debug, Parser)]
#[command(name = "vqa", version, about, arg_required_else_help = true)]
#[command(after_help = "The guide leads from a folder of pictures to answers and documents every config key: see \
        vqa-cli/guide in the source, starting with README.md.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole pipeline on a generated dataset: data, features, training, scores, attention maps
    #[cfg(feature = "torch")]
    Demo(DemoArgs),
    /// Import any dataset of questions about pictures: writes VQA2.0 files, and a config to start from
    Import(ImportArgs),
    /// Generate only the demo's dataset: images of coloured shapes, with questions and annotations in VQA2.0's formats
    Synth(SynthArgs),
    /// Inspect, convert, merge and split feature files, or extract them from images
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// Build the word and answer dictionaries, and report what a training run will see
    Prepare(PrepareArgs),
    /// Train a model
    #[cfg(feature = "torch")]
    Train(TrainArgs),
    /// Score a model: soft score, and official accuracy by answer type and question type
    #[cfg(feature = "torch")]
    Evaluate(EvaluateArgs),
    /// Answer the questions of a split, and write a results file for the evaluation server
    #[cfg(feature = "torch")]
    Predict(PredictArgs),
    /// Ask a model about a picture: the best answers, and where it looked
    #[cfg(feature = "torch")]
    Ask(AskArgs),
    /// Draw attention maps: a folder for each question, and a page to browse them
    #[cfg(feature = "torch")]
    Visualize(VisualizeArgs),
    /// Serve a web page for asking a model about pictures, and an HTTP API
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Compute the official accuracy of a results file
    Score(ScoreArgs),
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Directory to write everything to; an earlier demo in it is replaced
    #[arg(long, default_value = "demo")]
    pub out_dir: PathBuf,
    /// Number of images to draw; five in six are for training
    #[arg(long, default_value_t = 4800, value_parser = clap::value_parser!(u64).range(12..))]
    pub images: u64,
    /// Number of passes over the training questions
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Formats, detected automatically: CSV and TSV with a header, JSON lists, JSON lines, Hugging \
        Face's Parquet; VQA v1 and v2, OK-VQA and VQA-CP (questions and annotations), VizWiz, TextVQA, GQA, CLEVR, \
        Visual Genome, VQA-RAD, SLAKE, DAQUAR. Splits are taken from a column, or from train, val or test in a file's \
        name.")]
pub struct ImportArgs {
    /// Tables, JSON or Parquet files with questions and answers; give both files if annotations are separate
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Directory of the pictures, searched recursively; not needed if the files contain the pictures
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Directory to write to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Share of the training questions to set aside for validation, as in 0.1
    #[arg(long, value_name = "SHARE")]
    pub val: Option<f64>,
    /// What to set aside: whole pictures, so that none is in both splits, or single questions, whatever their pictures
    #[arg(long, value_enum, requires = "val", default_value_t = ValByArg::Image)]
    pub val_by: ValByArg,
    /// Random seed for choosing what is set aside
    #[arg(long, requires = "val", default_value_t = 1)]
    pub seed: u64,
    /// Names of a table's columns, if they are not recognised: question=Q,answer=A,image=I; also question_id, image_id,
    /// question_type, answer_type, split
    #[arg(long, value_name = "NAMES")]
    pub columns: Option<ColumnNames>,
    /// Leave out ragged rows and questions whose picture is missing, instead of stopping
    #[arg(long)]
    pub skip_bad: bool,
    #[command(flatten)]
    pub force: ForceArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `--val-by`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ValByArg {
    Image,
    Question,
}

impl From<ValByArg> for ValBy {
    fn from(by: ValByArg) -> ValBy {
        match by {
            ValByArg::Image => ValBy::Image,
            ValByArg::Question => ValBy::Question,
        }
    }
}

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Directory to write to
    #[arg(long)]
    pub out: PathBuf,
    /// Number of images to draw; five in six are for training
    #[arg(long, default_value_t = 4800, value_parser = clap::value_parser!(u64).range(2..))]
    pub images: u64,
    /// Random seed; the same seed gives the same dataset
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// Summarise a feature file: shape, type, layout, images, range of values, NaN
    Inspect(InspectArgs),
    /// Convert TSV files (bottom-up-attention, LXMERT), folders of .npz (openvqa) or other HDF5 files to a feature file
    Convert(ConvertArgs),
    /// Extract features from images: with a pretrained network, or the pixels of a grid's cells
    Extract(Box<ExtractArgs>),
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// HDF5 file
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("outputs").required(true).args(["out", "split"]))]
#[command(after_help = "An unfinished output is named OUT.partial. After a kill, Ctrl-C or a full disk, the same \
        command resumes it.")]
pub struct ConvertArgs {
    /// TSV files, folders of .npz, or HDF5 files, in order; shards of one job are sorted
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// HDF5 file to write
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Keep only the images listed in this file: ids or names, one per line, or a JSON list
    #[arg(long, value_name = "IDS.txt", conflicts_with = "split")]
    pub ids: Option<PathBuf>,
    /// Write the images listed in a file of ids to a separate file; can be repeated, and the input is read only once
    #[arg(long, value_name = "IDS.txt=OUT.h5", value_parser = parse_split, conflicts_with = "out")]
    pub split: Vec<(PathBuf, PathBuf)>,
    /// Skip malformed or repeated images, and listed images that are missing, instead of stopping
    #[arg(long)]
    pub skip_bad: bool,
    #[command(flatten)]
    pub element_type: ElementTypeArgs,
    /// Convert only part I of N, counted from 1, to OUT.shard-I-of-N.h5; converting all shards merges them
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    #[command(flatten)]
    pub force: ForceArgs,
    /// Print JSON: the files written, and the images skipped
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ForceArgs {
    /// Replace an existing, finished file of the same name
    #[arg(long)]
    force: bool,
}

impl ForceArgs {
    /// What to do with a finished file of an output's name.
    pub fn if_exists(&self) -> IfExists {
        if self.force { IfExists::Replace } else { IfExists::Refuse }
    }
}

#[derive(Debug, Args)]
pub struct ElementTypeArgs {
    /// Store float16, at half the size
    #[arg(long)]
    pub f16: bool,
    /// Store float32, even if the input is float16
    #[arg(long, conflicts_with = "f16")]
    pub f32: bool,
}

impl ElementTypeArgs {
    /// The requested type, if any.
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
        _ => Err("expected IDS.txt=OUT.h5, as in val_ids.txt=val36.h5".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "An unfinished output is named OUT.partial. After a kill, Ctrl-C or a full disk, the same \
        command resumes it; if memory was full, the same with smaller batches.")]
pub struct ExtractArgs {
    /// Directory of pictures (JPEG, PNG, WebP, GIF, BMP, TIFF) whose names end in the image id, in sub-directories too;
    /// or a JSON file {"image id": "path"}, whose paths are relative to its directory
    #[arg(long, value_name = "DIR|images.json")]
    pub images: PathBuf,
    /// HDF5 file to write
    #[arg(long)]
    pub out: PathBuf,
    /// Rows and columns of cells, as in 4x4; required unless --like gives them, or a backbone has its own
    #[arg(long, value_name = "RxC", value_parser = parse_grid, required_unless_present_any = ["like", "backbone"])]
    pub grid: Option<(u32, u32)>,
    /// Make the whole image a region too
    #[arg(long)]
    pub whole: bool,
    /// Side in pixels that each region is resized to, without a backbone (default 16)
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=i64::from(Grid::MOST_PATCH)))]
    #[arg(conflicts_with = "backbone")]
    pub patch: Option<u32>,
    #[command(flatten)]
    pub backbone: BackboneArgs,
    /// Extract with the settings of another feature file, that of the training images: the same backbone, grid, mean
    /// and so on
    #[arg(long, value_name = "OTHER.h5")]
    pub like: Option<PathBuf>,
    /// Leave out pictures that cannot be read, or have no image id in their names, instead of stopping
    #[arg(long)]
    pub skip_bad: bool,
    #[command(flatten)]
    pub element_type: ElementTypeArgs,
    /// Extract only part I of N, counted from 1, to OUT.shard-I-of-N.h5; `features convert` merges the shards
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    #[command(flatten)]
    pub force: ForceArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A network that makes the features.
#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct BackboneArgs {
    /// Pretrained network to extract features with: mobilenet-v2, efficientnet-lite0, -lite1, -lite2, or a TorchScript
    /// file. A feature map is pooled into 5x7 cells and the whole image, unless --grid says otherwise
    #[arg(long, value_name = "NAME|model.pt")]
    pub backbone: Option<String>,
    /// File of the network's weights, if it is not where `make setup` puts it
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Height and width that images are resized to (default 224x320 for the networks that are built in)
    #[arg(long, value_name = "HxW", value_parser = parse_size, requires = "backbone")]
    pub size: Option<(u32, u32)>,
    /// Factor for pixel values of 0 to 255 (default 1/255 for TorchScript files, for which model.toml beside model.pt
    /// may set this and the options below)
    #[arg(long, value_name = "X", requires = "backbone")]
    pub scale: Option<f64>,
    /// Value then subtracted from each channel (default ImageNet's mean, 0.485,0.456,0.406)
    #[arg(long, value_name = "R,G,B", value_parser = parse_channels, requires = "backbone")]
    pub mean: Option<[f64; 3]>,
    /// Value that each channel is then divided by (default ImageNet's deviation, 0.229,0.224,0.225)
    #[arg(long, value_name = "R,G,B", value_parser = parse_channels, requires = "backbone")]
    pub deviation: Option<[f64; 3]>,
    /// Order of the channels (default RGB)
    #[arg(long, value_name = "RGB|BGR", value_parser = parse_channel_order, requires = "backbone")]
    pub channel_order: Option<ChannelOrder>,
    /// Resampling filter for resizing images, as in Pillow (default: the one that the network was trained with)
    #[arg(long, value_name = "bilinear|bicubic", value_parser = parse_filter, requires = "backbone")]
    pub filter: Option<Filter>,
    /// Boxes of a detector to keep in each image, best first: a number, or the fewest and the most (default 10-100)
    #[arg(long, value_name = "N|MIN-MAX", value_parser = parse_boxes, requires = "backbone")]
    pub boxes: Option<(usize, usize)>,
    /// Lowest score at which a detector's boxes beyond the minimum number are kept (default 0.2)
    #[arg(long, value_name = "S", value_parser = parse_score, requires = "backbone")]
    pub min_score: Option<f64>,
    /// Images in a batch (default 16 on a CPU, 64 on a GPU, 1 for a detector)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub batch_size: Option<u64>,
    /// Device of the network: auto, cpu, cuda or cuda:1 (default auto)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Number format of the network's arithmetic: fp32, tf32 or bf16 (default fp32, or that of --like)
    #[arg(long, value_name = "PRECISION", value_parser = parse_precision)]
    pub precision: Option<Precision>,
}

#[cfg(feature = "torch")]
impl BackboneArgs {
    /// The first option given that only a network uses, of those that do not require `--backbone`.
    pub fn option_of_network(&self) -> Option<&'static str> {
        let BackboneArgs { weights, batch_size, device, precision, .. } = self;
        let given = [
            (weights.is_some(), "--weights"),
            (batch_size.is_some(), "--batch-size"),
            (device.is_some(), "--device"),
            (precision.is_some(), "--precision"),
        ];
        given.into_iter().find_map(|(is_given, option)| is_given.then_some(option))
    }
}

/// What this build has not.
#[cfg(not(feature = "torch"))]
#[derive(Debug, Args)]
pub struct BackboneArgs {
    /// Pretrained network, in a `vqa` with libtorch
    #[arg(long, hide = true)]
    pub backbone: Option<String>,
}

#[cfg(feature = "torch")]
fn parse_size(text: &str) -> Result<(u32, u32), String> {
    /// Of a side in pixels: more would be a typing error.
    const SIDES: std::ops::RangeInclusive<u32> = 1..=8192;
    let parse = || {
        let (height, width) = text.split_once(['x', 'X'])?;
        Some((height.parse().ok()?, width.parse().ok()?))
    };
    match parse() {
        Some((height, width)) if SIDES.contains(&height) && SIDES.contains(&width) => Ok((height, width)),
        _ => Err("expected HEIGHTxWIDTH in pixels, 1 to 8192 each, as in 224x320".to_owned()),
    }
}

#[cfg(feature = "torch")]
fn parse_channels(text: &str) -> Result<[f64; 3], String> {
    let values: Result<Vec<f64>, _> = text.split(',').map(|value| value.trim().parse()).collect();
    let values = values.ok().and_then(|values| values.try_into().ok());
    values.ok_or_else(|| "expected three numbers, as in 0.485,0.456,0.406".to_owned())
}

#[cfg(feature = "torch")]
fn parse_score(text: &str) -> Result<f64, String> {
    let score = text.parse().ok().filter(|score: &f64| score.is_finite());
    score.ok_or_else(|| "expected a number, as in 0.2".to_owned())
}

#[cfg(feature = "torch")]
fn parse_channel_order(text: &str) -> Result<ChannelOrder, String> {
    match text {
        "RGB" => Ok(ChannelOrder::Rgb),
        "BGR" => Ok(ChannelOrder::Bgr),
        _ => Err("expected RGB or BGR".to_owned()),
    }
}

#[cfg(feature = "torch")]
fn parse_precision(text: &str) -> Result<Precision, String> {
    match text {
        "fp32" => Ok(Precision::Fp32),
        "tf32" => Ok(Precision::Tf32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("expected fp32, tf32 or bf16".to_owned()),
    }
}

#[cfg(feature = "torch")]
fn parse_filter(text: &str) -> Result<Filter, String> {
    match text {
        "bilinear" => Ok(Filter::Bilinear),
        "bicubic" => Ok(Filter::Bicubic),
        _ => Err("expected bilinear or bicubic".to_owned()),
    }
}

#[cfg(feature = "torch")]
fn parse_boxes(text: &str) -> Result<(usize, usize), String> {
    let parse = || {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        Some((min.parse().ok()?, max.parse().ok()?))
    };
    match parse() {
        Some((min, max)) if min <= max && (1..=10_000).contains(&max) => Ok((min, max)),
        _ => Err("expected a number of boxes, or the fewest and the most, as in 36 or 10-100".to_owned()),
    }
}

fn parse_grid(text: &str) -> Result<(u32, u32), String> {
    let parse = || {
        let (rows, columns) = text.split_once(['x', 'X'])?;
        Some((rows.parse().ok()?, columns.parse().ok()?))
    };
    match parse() {
        Some((rows, columns))
            if (1..=Grid::MOST_CELLS).contains(&rows) && (1..=Grid::MOST_CELLS).contains(&columns) =>
        {
            Ok((rows, columns))
        }
        _ => Err("expected ROWSxCOLUMNS, 1 to 256 each, as in 4x4".to_owned()),
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
    /// Config file (TOML); paths in it are relative to its directory
    #[arg(long)]
    pub config: PathBuf,
    /// Override a key of the config, as in train.n_epochs=3; can be repeated. Paths are relative to the config's
    /// directory, like those in it; model.init, like --init, may also be in the working directory
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, as in train.n_epochs=3".to_owned()),
    }
}

/// When a run is resumed.
#[cfg(feature = "torch")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Resume {
    /// Always.
    Always,
    /// If something was saved.
    Auto,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Resume the run in out_dir from its last saved state; with `auto`, or under a launcher that restarts processes,
    /// start from scratch if nothing was saved
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub resume: Option<Resume>,
    /// Initialise from weights of the same model, in a safetensors or torch.save file; short for --set model.init=FILE
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Read everything, try a few steps, and report the time, memory and disk space the run would need; leaves nothing
    /// in out_dir
    #[arg(long)]
    pub dry_run: bool,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Checkpoint, with the config and dictionaries of its run beside it; or the directory of a run, for its best
    /// epoch. Repeat it to answer as an ensemble, by the mean of the logits
    #[arg(long, required = true)]
    pub checkpoint: Vec<PathBuf>,
    #[command(flatten)]
    pub split: SplitArgs,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct SplitArgs {
    /// Name of the split in the config
    #[arg(long)]
    pub data: String,
    /// Config file to take the split from, instead of the run's
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:1, instead of the run's
    #[arg(long)]
    pub device: Option<String>,
    /// Questions per batch, instead of the run's
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_BATCH_SIZE as u64))]
    pub batch_size: Option<u64>,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Also write the answers, as a results file for the evaluation server
    #[arg(long, value_name = "OUT.json")]
    pub results: Option<PathBuf>,
    /// Score the model again with every question asked about another image of the split, drawn with the run's seed:
    /// what it can answer without looking. JSON then has "blind": {"seed", "soft_score", "accuracy"} too
    #[arg(long)]
    pub blind: bool,
    /// Answer again without the K regions that the model looked at most, and without K random ones; report how often
    /// the answer changes, and how far its probability falls
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub occlude: Option<u64>,
    /// Number of random draws for --occlude
    #[arg(long, default_value_t = 5, requires = "occlude", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub draws: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Results file to write
    #[arg(long)]
    pub out: PathBuf,
    /// Write the best K answers to each question with their probabilities instead, as JSON lines:
    /// {"question_id": …, "answers": [{"answer": …, "score": …}, …]}, best first
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub top: Option<u64>,
}

/// An id of `--question-ids`, which may have a space beside it.
#[cfg(feature = "torch")]
fn parse_question_id(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| "expected a whole number".to_owned())
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
#[command(after_help = "The same command resumes an interrupted report: folders that would be drawn again unchanged \
        are kept. Folders left in the directory by an earlier report are removed if this one has no use for them; \
        nothing else is. Questions whose picture is missing or broken are left out, and listed.")]
pub struct VisualizeArgs {
    /// Checkpoint, with the config and dictionaries of its run beside it; or the directory of a run, for its best epoch
    #[arg(long)]
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub split: SplitArgs,
    /// Number of batches to draw (default 1, or all of --question-ids)
    #[arg(long, conflicts_with = "n", value_parser = clap::value_parser!(u64).range(1..))]
    pub n_batches: Option<u64>,
    /// Number of questions to draw, instead of batches
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub n: Option<u64>,
    /// Which questions to draw if there are more: the first, or a random sample
    #[arg(long, value_enum, default_value_t = SampleArg::First)]
    pub sample: SampleArg,
    /// Random seed of --sample random, instead of the run's; with the same seed, a larger --n keeps the questions of a
    /// smaller one
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Draw only questions that the model answers wrong (soft score 0) or right (a soft score above 0)
    #[arg(long, value_enum)]
    pub only: Option<OnlyArg>,
    /// Draw only questions of this answer type (yes/no) or question type ("what color is the"); can be repeated
    #[arg(long = "type", value_name = "T")]
    pub types: Vec<String>,
    /// Draw only these questions: all of them, unless --n or --n-batches limits their number
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', value_parser = parse_question_id)]
    pub question_ids: Vec<u64>,
    /// How the maps look: as in the article (unattended parts fade into white), as a heat map, or the ten most attended
    /// boxes with their ranks
    #[arg(long, value_enum, default_value_t = StyleArg::Article)]
    pub style: StyleArg,
    /// Ask each drawn question again without the region that the model looked at most, and show what it answers
    #[arg(long, value_enum, value_name = "on|off", default_value_t = OnOffArg::On)]
    pub occlude: OnOffArg,
    /// Leave out the scores at the top of the page, for which the whole split is answered twice: as it is, and blind
    #[arg(long)]
    pub no_scores: bool,
    /// Directory to create the folder RUN_model_N_SPLIT_visualization in
    #[arg(long)]
    pub out_dir: PathBuf,
}

/// `--sample`.
#[cfg(feature = "torch")]
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SampleArg {
    First,
    Random,
}

/// `--only`.
#[cfg(feature = "torch")]
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnlyArg {
    Wrong,
    Right,
}

/// `--style`.
#[cfg(feature = "torch")]
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StyleArg {
    Article,
    Heat,
    Boxes,
}

#[cfg(feature = "torch")]
impl From<StyleArg> for MapStyle {
    fn from(style: StyleArg) -> MapStyle {
        match style {
            StyleArg::Article => MapStyle::Article,
            StyleArg::Heat => MapStyle::Heat,
            StyleArg::Boxes => MapStyle::Boxes,
        }
    }
}

/// Something that is done or not.
#[cfg(feature = "torch")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOffArg {
    On,
    Off,
}

#[cfg(feature = "torch")]
impl OnOffArg {
    pub fn is_on(self) -> bool {
        self == OnOffArg::On
    }
}

#[cfg(feature = "torch")]
#[derive(Debug, Args)]
#[command(
    after_help = "Without QUESTION, questions are read from standard input, one per line: the model is loaded once, \
        and the picture's regions are extracted once. A checkpoint records how its training features were extracted. \
        One trained on features from elsewhere does not, and can only be asked about an image in a feature file: vqa \
        ask CHECKPOINT --features F.h5 --image-id N \"QUESTION\"."
)]
pub struct AskArgs {
    /// Checkpoint, with the config and dictionaries of its run beside it; or the directory of a run, for its best epoch
    pub checkpoint: PathBuf,
    /// Picture (JPEG, PNG, WebP, GIF, BMP, TIFF); may be left out with --features
    #[arg(required_unless_present = "features")]
    pub picture: Option<PathBuf>,
    /// Question
    pub question: Option<String>,
    /// Number of answers
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub top: u64,
    /// Draw where the model looked (.jpg or .png), and show it if the terminal can show pictures; several questions
    /// give OUT_1.jpg, OUT_2.jpg and so on
    #[arg(long, value_name = "OUT.jpg")]
    pub map: Option<PathBuf>,
    /// Print JSON, one line per question: [{"answer": …, "score": …}, …], best first; a score is a probability
    #[arg(long)]
    pub json: bool,
    /// Weights of the network that extracts the regions, instead of the installed ones; or its model.pt
    #[arg(long, value_name = "FILE", conflicts_with = "features")]
    pub weights: Option<PathBuf>,
    /// Take the regions from this feature file
    #[arg(long, value_name = "F.h5", requires = "image_id")]
    pub features: Option<PathBuf>,
    /// Which image of the feature file
    #[arg(long, value_name = "N", requires = "features")]
    pub image_id: Option<u64>,
    /// Device: auto, cpu, cuda or cuda:1, instead of the run's
    #[arg(long)]
    pub device: Option<String>,
    #[command(flatten)]
    pub force: ForceArgs,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the server's address; /openapi.json there describes the API. Ctrl-C stops the server once \
        pending requests are answered."
)]
pub struct ServeArgs {
    /// Checkpoint, with the config and dictionaries of its run beside it; or the directory of a run, for its best epoch
    pub checkpoint: PathBuf,
    /// Also show the images of this split of the config, with their questions
    #[arg(long, value_name = "SPLIT")]
    pub data: Option<String>,
    /// Config file to take the split from, instead of the run's
    #[arg(long, requires = "data")]
    pub config: Option<PathBuf>,
    /// Port to listen on; 0: any free one
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Address to listen on; the default can be reached from this computer only, 0.0.0.0 from others too
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Token that every request must carry; by default a random one if other computers can reach the address
    #[arg(long)]
    pub token: Option<String>,
    /// Let people say whether an answer is right, and append that to this file, for `vqa import`
    #[arg(long, value_name = "FILE.jsonl")]
    pub collect: Option<PathBuf>,
    /// Largest number of questions that the model answers in one batch
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MAX_BATCH_SIZE as u64))]
    pub max_batch: u64,
    /// Weights of the network that the regions are made with, instead of the installed ones; or its model.pt
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:1, instead of the run's
    #[arg(long)]
    pub device: Option<String>,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Questions file
    #[arg(long)]
    pub questions: PathBuf,
    /// Annotations file
    #[arg(long)]
    pub annotations: PathBuf,
    /// Results file: a list of {"question_id": …, "answer": …}
    #[arg(long)]
    pub results: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
