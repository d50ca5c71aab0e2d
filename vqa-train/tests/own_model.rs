//! A user-defined model, with a batch norm and a frozen layer, is trained, resumed, opened, asked questions and drawn.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tch::nn::{self, Module, ModuleT, VarStore};
use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Dataset, Loader, LoaderOptions};
use vqa_data::features::{ChannelStats, ElementType, Extraction, Grid, PixelGrid, list_images};
use vqa_data::files::IfExists;
use vqa_data::questions::{AnswerDict, DictConfig, SourceConfig, Split, SplitConfig, WordDict, build_dictionaries};
use vqa_data::shapes::{ShapesSpec, ShapesSplit, write_shapes};
use vqa_infer::report::Report;
use vqa_infer::{Checkpoint, SplitWithModel};
use vqa_model::run::RunDir;
use vqa_model::weights::read_tensors;
use vqa_model::{DataDims, ModelInput, ModelOutput, VqaModel};
use vqa_train::run::RunConfig;
use vqa_train::{Outcome, TrainConfig, Trainer};

const DIM: i64 = 8;

struct OwnModel {
    words: nn::Embedding,
    norm: nn::BatchNorm,
    regions: nn::Linear,
    answers: nn::Linear,
}

impl OwnModel {
    fn new(vs: &nn::Path, dims: DataDims) -> OwnModel {
        let words = nn::embedding(vs / "words", dims.n_words + 1, DIM, Default::default());
        let _ = words.ws.set_requires_grad(false);
        OwnModel {
            words,
            norm: nn::batch_norm1d(vs / "norm", dims.feature_dim, Default::default()),
            regions: nn::linear(vs / "regions", dims.feature_dim + 4, DIM, Default::default()),
            answers: nn::linear(vs / "answers", DIM, dims.n_answers, Default::default()),
        }
    }
}

impl VqaModel for OwnModel {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        let question = self.words.forward(&input.tokens).sum_dim_intlist(1, false, Kind::Float); // [B, DIM]
        let [n, k, d] = input.features.size()[..] else { unreachable!("[N, K, D]") };
        let features = self.norm.forward_t(&input.features.view([n * k, d]), train).view([n, k, d]);
        let regions = self.regions.forward(&Tensor::cat(&[features, &input.boxes / 100.0], 2)).relu();
        let regions = regions.index_select(0, &input.image_rows); // [B, K, DIM]
        let attention = regions.bmm(&question.unsqueeze(2)).squeeze_dim(2).softmax(1, Kind::Float); // [B, K]
        let attended = attention.unsqueeze(1).bmm(&regions).squeeze_dim(1); // [B, DIM]
        ModelOutput { logits: self.answers.forward(&(question * attended)), attention }
    }
}

/// A small shapes world.
struct World {
    directory: tempfile::TempDir,
    train: SplitConfig,
    val: SplitConfig,
    dataset: Arc<Dataset>,
    words: WordDict,
    answers: AnswerDict,
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    write_shapes(&data, ShapesSpec { n_train: 12, n_val: 6, seed: 3 }, &|_| {}).unwrap();
    let [train, val] = ["train", "val"].map(|name| {
        let files = ShapesSplit::files(&data, name);
        let features = directory.path().join(format!("{name}.h5"));
        let pictures = list_images(&files.images).unwrap();
        let extractor = &PixelGrid {
            grid: Grid { rows: 2, columns: 2, whole: true, patch: 2 },
            stats: ChannelStats { mean: [0.5; 3], std: [0.3; 3] },
        };
        let extraction = Extraction { extractor, element_type: ElementType::F32, shard: None, batch_size: None };
        extraction.write(&pictures, &features, IfExists::Refuse, &|_| {}).unwrap();
        SplitConfig::from(vec![SourceConfig {
            q_jsons: vec![files.questions],
            a_jsons: vec![files.annotations],
            features: Some(features),
            images: Some(data.join(files.image_template).to_string_lossy().into_owned()),
        }])
    });
    let split = Split::load(&train).unwrap();
    let (words, answers) = build_dictionaries([&split], &DictConfig { min_answer_count: 1, ..DictConfig::default() });
    let dataset = Arc::new(Dataset::open(split, &train, &words, &answers, 14).unwrap());
    World { directory, train, val, dataset, words, answers }
}

/// Trains from where the run stands to the end of an epoch, as a separate process would.
fn train_to(world: &World, run: &RunDir, n_epochs: u64) {
    try_train_to(world, run, n_epochs).unwrap();
}

/// Held while training: libtorch's generator belongs to the process, so only one run at a time can use it.
static TRAINING: Mutex<()> = Mutex::new(());

fn try_train_to(world: &World, run: &RunDir, n_epochs: u64) -> vqa_train::Result<Outcome> {
    let _training = TRAINING.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let model = OwnModel::new(&vs.root(), DataDims::of(&world.dataset));
    let config = TrainConfig { n_epochs, batch_size: 16, ..TrainConfig::default() };
    let loader = Loader::new(world.dataset.clone(), LoaderOptions { batch_size: 16, ..LoaderOptions::default() });
    Trainer::new(&model, &vs, &config, &loader, run).run(&mut |_| {})
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    read_tensors(path).unwrap().into_iter().collect()
}

#[test]
fn a_model_of_ones_own_goes_all_the_way() {
    let world = world();
    let at = world.directory.path();
    let [whole, resumed] = ["whole", "resumed"].map(|name| RunDir::new(at.join(name)));
    train_to(&world, &whole, 3);
    train_to(&world, &resumed, 1);
    train_to(&world, &resumed, 3);
    let bytes = [&whole, &resumed].map(|run| std::fs::read(run.checkpoint(3)).unwrap());
    assert!(bytes[0] == bytes[1], "a resumed run comes to the same checkpoint");

    let [first, last] = [1, 3].map(|epoch| tensors(&whole.checkpoint(epoch)));
    assert!(first["words.weight"].equal(&last["words.weight"]), "a frozen layer stays as it is");
    for name in ["norm.running_mean", "norm.running_var", "regions.weight"] {
        assert!(!first[name].equal(&last[name]), "{name} moves");
    }

    let config = RunConfig { out_dir: whole.path().to_owned(), ..RunConfig::default() };
    whole.write_config(&config, "").unwrap();
    whole.write_dictionaries(&world.words, &world.answers).unwrap();
    let make = |vs: nn::Path, _: &toml::Table, dims| -> Box<dyn VqaModel + Send> { Box::new(OwnModel::new(&vs, dims)) };
    let open = || Checkpoint::open_with(&whole.checkpoint(3), Some(Device::Cpu), make).unwrap();
    for (config, n) in [(&world.train, 12), (&world.val, 6)] {
        let split = Split::load(config).unwrap();
        let asked = SplitWithModel::new(open(), split, config, "a split".to_owned(), None).unwrap();
        let answered = asked.answer_all(&mut |_| {}).unwrap();
        assert!(answered.answers.len() > n && answered.soft_score > 0.0, "{answered:?}");
        let mut report = Report::new(at.join("maps"), "maps", Vec::new());
        asked.explain(&[0, 1], true, &mut report, &|_| {}).unwrap();
        assert_eq!(report.len(), 2);
    }
    let error = Checkpoint::open(&whole.checkpoint(3), Some(Device::Cpu)).unwrap_err().to_string();
    assert!(error.contains("weights of another model"), "{error}");
}

/// A state with a flipped bit is refused, wherever in the tensors it is.
#[test]
fn a_flipped_bit_is_found() {
    let world = world();
    let run = RunDir::new(world.directory.path().join("run"));
    train_to(&world, &run, 1);
    let state = std::fs::read(run.state()).unwrap();
    let header_len = u64::from_le_bytes(state[..8].try_into().unwrap()) as usize;
    let values = 8 + header_len;
    // In the first tensor, in the middle, in the last value.
    for place in [values, values + (state.len() - values) / 2, state.len() - 1] {
        let mut damaged = state.clone();
        damaged[place] ^= 1;
        std::fs::write(run.state(), damaged).unwrap();
        let error = try_train_to(&world, &run, 2).unwrap_err();
        assert!(matches!(error, vqa_train::Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("state.safetensors: it is damaged"), "{error}");
    }
    std::fs::write(run.state(), state).unwrap();
    try_train_to(&world, &run, 2).unwrap();
}
