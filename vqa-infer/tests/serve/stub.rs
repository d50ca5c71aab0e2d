//! A server running a model with known answers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use image::RgbImage;
use tch::nn::{self, VarStore};
use tch::{Device, Kind, Tensor};
use vqa_data::Result as DataResult;
use vqa_data::features::{Extractor, ExtractorInfo, ImageRegions, Prepared, RegionCount};
use vqa_data::questions::{AnswerDict, WordDict};
use vqa_infer::Checkpoint;
use vqa_infer::serve::{ServeOptions, Server};
use vqa_model::run::{CheckpointHeader, RunDir};
use vqa_model::weights::save_weights;
use vqa_model::{DataDims, ModelInput, ModelOutput, VqaModel};

/// The answers; in this order, best first, for a question without known words about a black picture.
pub const ANSWERS: [&str; 4] = ["red", "green", "blue", "grey"];

/// Records what the model and the extractor were given.
#[derive(Default)]
pub struct Seen {
    /// The number of questions in each batch.
    pub batches: Mutex<Vec<usize>>,
    /// The number of pictures extracted.
    pub extracted: AtomicUsize,
}

/// Answers with the number of known words in the question plus the red value of the picture's first pixel, modulo four,
/// and attends to the region with that index.
struct Counter {
    seen: Arc<Seen>,
    /// How long a batch of any size takes.
    delay: Duration,
    _weight: Tensor,
}

impl VqaModel for Counter {
    fn forward(&self, input: &ModelInput, _: bool) -> ModelOutput {
        let n = input.tokens.size()[0];
        self.seen.batches.lock().unwrap_or_else(PoisonError::into_inner).push(n as usize);
        std::thread::sleep(self.delay);
        let words = input.tokens.lt(3).sum_dim_intlist(1, false, Kind::Int64); // [B]
        let red = input.features.select(1, 0).select(1, 0).index_select(0, &input.image_rows).to_kind(Kind::Int64);
        let best: Tensor = (words + red).remainder(4); // [B]
        let attention = best.one_hot(4).to_kind(Kind::Float); // [B, K]
        // The logits are 4, 3, 2, 1 from the best answer on.
        let distance: Tensor =
            (Tensor::arange(4, (Kind::Int64, Device::Cpu)).unsqueeze(0) - best.unsqueeze(1)).remainder(4);
        ModelOutput { logits: (distance * -1 + 4).to_kind(Kind::Float), attention }
    }
}

/// Four regions, each a quarter of the picture, whose only feature is the red value of the first pixel.
struct FirstPixel(Arc<Seen>);

impl Extractor for FirstPixel {
    fn info(&self) -> ExtractorInfo {
        ExtractorInfo::parse(r#"{"kind": "first pixel"}"#)
    }
    fn feature_dim(&self) -> usize {
        1
    }
    fn n_regions(&self) -> RegionCount {
        RegionCount::Fixed(4)
    }
    fn prepare(&self, picture: &RgbImage) -> Result<Prepared, String> {
        let [w, h] = [picture.width(), picture.height()].map(|length| length as f32);
        let boxes = [
            [0.0, 0.0, w / 2.0, h / 2.0],
            [w / 2.0, 0.0, w, h / 2.0],
            [0.0, h / 2.0, w / 2.0, h],
            [w / 2.0, h / 2.0, w, h],
        ];
        let red = f32::from(picture.get_pixel(0, 0).0[0]);
        Ok(Prepared::Regions(ImageRegions { features: vec![red; 4], boxes: boxes.concat() }))
    }
    fn extract(&self, pictures: &[Prepared]) -> DataResult<Vec<ImageRegions>> {
        self.0.extracted.fetch_add(pictures.len(), Ordering::SeqCst);
        let regions = |picture: &Prepared| match picture {
            Prepared::Regions(regions) => regions.clone(),
            Prepared::Pixels { .. } => unreachable!("prepared by itself"),
        };
        Ok(pictures.iter().map(regions).collect())
    }
}

/// Writes the directory of a run whose dictionary has the words "a", "b" and "c".
fn write_run(directory: &Path) -> RunDir {
    let run = RunDir::new(directory);
    fs::write(run.config(), "device = \"cpu\"\n[dict]\nmax_question_len = 8\n[model]\nloss = \"softmax\"\n").unwrap();
    run.write_dictionaries(&WordDict::from_questions(["a b c"]), &AnswerDict::from_answers(ANSWERS, 1)).unwrap();
    let vs = VarStore::new(Device::Cpu);
    let _ = (vs.root() / "weight").zeros("weight", &[1]);
    let header = CheckpointHeader {
        epoch: 1,
        train_loss: 1.0,
        train_score: 50.0,
        val_score: Some(40.0),
        val_upper_bound: Some(100.0),
        dims: DataDims { n_words: 3, n_answers: 4, feature_dim: 1 },
        extractor: None,
    };
    save_weights(&vs, &run.checkpoint(1), header.to_header()).unwrap();
    run
}

/// A running server, stopped on drop.
pub struct Running {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<bool>>,
    _directory: tempfile::TempDir,
}

impl Running {
    /// Starts a server running a model that takes `delay` for each batch.
    pub fn start(delay: Duration, options: &ServeOptions) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let run = write_run(directory.path());
        let seen = Arc::new(Seen::default());
        let of_model = Arc::clone(&seen);
        let model = move |vs: nn::Path, _: &toml::Table, _| -> Box<dyn VqaModel + Send> {
            Box::new(Counter { seen: of_model, delay, _weight: (vs / "weight").zeros("weight", &[1]) })
        };
        let checkpoint = Checkpoint::open_with(&run.checkpoint(1), None, model).unwrap();
        let extractor = Box::new(FirstPixel(Arc::clone(&seen)));
        let server = Server::bind(checkpoint, Some(extractor), None, options).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let of_server = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(&of_server).unwrap());
        Running { address, seen, stop, thread: Some(thread), _directory: directory }
    }

    /// Tells the server to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits until the server has stopped, and returns whether it answered everything.
    pub fn join(&mut self) -> bool {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The model's best answer to a question with `n_words` known words about a picture with this red value.
pub fn expected(n_words: usize, red: u8) -> &'static str {
    ANSWERS[(n_words + usize::from(red)) % 4]
}

/// A PNG of one colour.
pub fn png(red: u8, width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(width, height, image::Rgb([red, 0, 0]));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
