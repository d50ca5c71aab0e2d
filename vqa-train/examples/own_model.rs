//! Trains, resumes, scores and explains a model of your own, on the data that `make demo` creates.
//!
//!     cargo run --release -p vqa-train --example own_model -- demo

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::nn::{self, Module, ModuleT, VarStore};
use tch::{Device, Kind};
use vqa_data::batches::{Dataset, Loader, LoaderOptions};
use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};
use vqa_data::shapes::ShapesSplit;
use vqa_infer::report::Report;
use vqa_infer::{Checkpoint, SplitWithModel};
use vqa_model::run::RunDir;
use vqa_model::{DataDims, ModelInput, ModelOutput, VqaModel};
use vqa_train::run::RunConfig;
use vqa_train::{Event, TrainConfig, Trainer};

/// A bag of words that attends to the regions, by their features and their positions.
struct BagOfWords {
    /// Random and frozen: only the layer after it learns.
    words: nn::Embedding,
    question: nn::Linear,
    /// Has a running mean and variance, which are saved although no gradient changes them.
    norm: nn::BatchNorm,
    regions: nn::Linear,
    answers: nn::Linear,
}

impl BagOfWords {
    fn new(vs: &nn::Path, dims: DataDims) -> BagOfWords {
        const DIM: i64 = 128;
        let words = nn::embedding(vs / "words", dims.n_words + 1, DIM, Default::default());
        let _ = words.ws.set_requires_grad(false);
        BagOfWords {
            words,
            question: nn::linear(vs / "question", DIM, DIM, Default::default()),
            norm: nn::batch_norm1d(vs / "norm", dims.feature_dim, Default::default()),
            regions: nn::linear(vs / "regions", dims.feature_dim + 4, DIM, Default::default()),
            answers: nn::linear(vs / "answers", DIM, dims.n_answers, Default::default()),
        }
    }
}

impl VqaModel for BagOfWords {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        let words = self.words.forward(&input.tokens).sum_dim_intlist(1, false, Kind::Float); // [B, DIM]
        let question = self.question.forward(&words).tanh();
        let [n, k, d] = input.features.size()[..] else { unreachable!("[N, K, D]") };
        let features = self.norm.forward_t(&input.features.view([n * k, d]), train).view([n, k, d]);
        let boxes = &input.boxes / input.boxes.amax([1, 2], true); // [N, K, 4], 0 to 1
        let regions = self.regions.forward(&tch::Tensor::cat(&[features, boxes], 2)).relu(); // [N, K, DIM]
        let regions = regions.index_select(0, &input.image_rows); // [B, K, DIM]
        let attention = regions.bmm(&question.unsqueeze(2)).squeeze_dim(2).softmax(1, Kind::Float); // [B, K]
        let attended = attention.unsqueeze(1).bmm(&regions).squeeze_dim(1); // [B, DIM]
        ModelOutput { logits: self.answers.forward(&(question * attended)), attention }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let demo = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: own_model DEMO_DIRECTORY")?);
    let (train, val) = (split(&demo, "train"), split(&demo, "val"));
    let train_split = Split::load(&train)?;
    let (words, answers) = build_dictionaries([&train_split], &DictConfig::default());
    let dataset = Arc::new(Dataset::open(train_split, &train, &words, &answers, 14)?);
    let loader = Loader::new(dataset.clone(), LoaderOptions { batch_size: 256, ..LoaderOptions::default() });

    // The files that must be beside a checkpoint.
    let run = RunDir::new(demo.join("own_model"));
    let mut config = RunConfig { out_dir: run.path().to_owned(), ..RunConfig::default() };
    config.train.batch_size = 256;
    run.write_config(&config, "")?;
    run.write_dictionaries(&words, &answers)?;

    // The second round creates the model anew, and resumes where the first one ended.
    for n_epochs in [2, 4] {
        let vs = VarStore::new(Device::Cpu);
        let model = BagOfWords::new(&vs.root(), DataDims::of(&dataset));
        let settings = TrainConfig { n_epochs, ..config.train.clone() };
        Trainer::new(&model, &vs, &settings, &loader, &run).run(&mut |event| {
            if let Event::Epoch(epoch) = event {
                println!("epoch {} loss {:.2} score {:.1}", epoch.epoch, epoch.train_loss, epoch.train_score);
            }
        })?;
    }

    let make =
        |vs: nn::Path, _: &toml::Table, dims| -> Box<dyn VqaModel + Send> { Box::new(BagOfWords::new(&vs, dims)) };
    let checkpoint = Checkpoint::open_with(&run.checkpoint(4), None, make)?;
    let asked = SplitWithModel::new(checkpoint, Split::load(&val)?, &val, "val".to_owned(), None)?;
    let answered = asked.answer_all(&mut |_| {})?;
    let accuracy = answered.accuracy(&asked.dataset().split().annotations);
    println!("val: soft score {:.2}, official accuracy {:.2}", answered.soft_score, accuracy.overall);
    let mut report = Report::new(demo.join("own_model_maps"), "Where a bag of words looks", Vec::new());
    asked.explain(&[0, 1, 2, 3], true, &mut report, &|_| {})?;
    println!("open {}", report.finish()?.display());
    Ok(())
}

/// Returns a split of the demo's data.
fn split(demo: &Path, name: &str) -> SplitConfig {
    let files = ShapesSplit::files(&demo.join("data"), name);
    SplitConfig::from(vec![SourceConfig {
        q_jsons: vec![files.questions],
        a_jsons: vec![files.annotations],
        features: Some(demo.join(format!("{name}.h5"))),
        images: Some(demo.join("data").join(files.image_template).to_string_lossy().into_owned()),
    }])
}
