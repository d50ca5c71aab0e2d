//! Properties of the model that can be checked without a reference implementation.

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::batches::Batch;
use vqa_model::baseline::{AttentionConfig, AttentionKind, Baseline, ModelConfig};
use vqa_model::device::parse_device;
use vqa_model::weights::{Header, load_weights, read_header, save_weights};
use vqa_model::{DataDims, ModelInput, VqaModel};

const DIMS: DataDims = DataDims { n_words: 20, n_answers: 7, feature_dim: 6 };

fn small(kind: AttentionKind) -> ModelConfig {
    ModelConfig {
        hid_dim: 8,
        topdown_att: AttentionConfig { kind, hid_dim: 8, dropout: 0.2 },
        ..ModelConfig::default()
    }
}

/// One question about each of several images with these numbers of regions.
fn batch(n_regions: &[usize]) -> Batch {
    let k = n_regions.iter().copied().max().unwrap();
    let d = DIMS.feature_dim as usize;
    let mut features = vec![0.0; n_regions.len() * k * d];
    for (image, &n) in n_regions.iter().enumerate() {
        for (i, x) in features[image * k * d..][..n * d].iter_mut().enumerate() {
            *x = ((image * 31 + i * 7) % 13) as f32 / 6.0 - 1.0;
        }
    }
    Batch {
        questions: (0..n_regions.len()).collect(),
        question_ids: (0..n_regions.len() as u64).collect(),
        image_ids: (0..n_regions.len() as u64).collect(),
        tokens: (0..n_regions.len() as i64 * 3).map(|i| i % 20).collect(),
        max_len: 3,
        features: features.into(),
        boxes: vec![0.0; n_regions.len() * k * 4],
        n_regions: n_regions.to_vec(),
        image_rows: (0..n_regions.len() as i64).collect(),
        max_regions: k,
        feature_dim: d,
        ..Batch::default()
    }
}

#[test]
fn padding_regions_get_no_attention_and_change_nothing() {
    for kind in [AttentionKind::Product, AttentionKind::Concat] {
        tch::manual_seed(2);
        let vs = VarStore::new(Device::Cpu);
        let model = Baseline::new(vs.root(), &small(kind), DIMS);
        let batch = batch(&[2, 5, 0, 3]);
        let together = model.forward(&ModelInput::from_batch(&batch, Device::Cpu, Kind::Float), false);
        assert!(!bool::try_from(together.logits.isnan().any()).unwrap(), "an image without regions is no NaN");
        for (i, &n) in batch.n_regions.iter().enumerate().filter(|&(_, &n)| n > 0) {
            let attention = together.attention.get(i as i64);
            assert_eq!(attention.narrow(0, n as i64, 5 - n as i64).abs().sum(Kind::Float).double_value(&[]), 0.0);
            assert!((attention.sum(Kind::Float).double_value(&[]) - 1.0).abs() < 1e-6);
            // The same question and image alone, without padding.
            let features = Tensor::from_slice(&batch.features).view([4, 5, 6]).get(i as i64).narrow(0, 0, n as i64);
            let alone = ModelInput {
                tokens: Tensor::from_slice(&batch.tokens[i * 3..i * 3 + 3]).unsqueeze(0),
                features: features.unsqueeze(0),
                boxes: Tensor::zeros([1, n as i64, 4], (Kind::Float, Device::Cpu)),
                image_rows: Tensor::from_slice(&[0i64]),
                padding: None,
                dropout: None,
                order: None,
            };
            let off = (model.forward(&alone, false).logits.get(0) - together.logits.get(i as i64)).abs().max();
            assert!(off.double_value(&[]) < 1e-5, "{kind:?} {i}");
        }
    }
}

/// Bounds as documented for `nn.Linear`, `nn.GRU` and `nn.Embedding`.
#[test]
fn parameters_start_as_in_pytorch() {
    tch::manual_seed(4);
    let vs = VarStore::new(Device::Cpu);
    Baseline::new(vs.root(), &ModelConfig::default(), DataDims { n_words: 500, n_answers: 700, feature_dim: 400 });
    let variables = vs.variables();
    let uniform = |name: &str, bound: f64| {
        let tensor = &variables[name];
        let most = tensor.abs().max().double_value(&[]);
        assert!(most <= bound && most > 0.99 * bound, "{name}: {most} of {bound}");
        let std = tensor.std(true).double_value(&[]);
        assert!((std - bound / 3f64.sqrt()).abs() < 0.1 * bound, "{name}: {std}");
    };
    uniform("v_att.v_proj.main.0.weight_v", 1.0 / 20.0);
    uniform("classifier.main.3.weight_v", 1.0 / 2048f64.sqrt());
    uniform("classifier.main.3.bias", 1.0 / 2048f64.sqrt());
    uniform("q_emb.rnn.weight_ih_l0", 1.0 / 32.0);
    uniform("q_emb.rnn.bias_hh_l0", 1.0 / 32.0);
    let g = &variables["q_net.main.0.weight_g"];
    assert!(g.size().is_empty());
    assert!((g - variables["q_net.main.0.weight_v"].norm()).abs().double_value(&[]) < 1e-4);
    let words = &variables["w_emb.emb.weight"];
    assert_eq!(words.size(), [501, 300]);
    assert!((words.narrow(0, 0, 500).std(true).double_value(&[]) - 1.0).abs() < 0.01);
    assert_eq!(words.get(500).abs().max().double_value(&[]), 0.0);
}

#[test]
fn weights_survive_the_disk_and_refuse_another_model() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model_1.safetensors");
    let vs = VarStore::new(Device::Cpu);
    Baseline::new(vs.root(), &small(AttentionKind::Product), DIMS);
    let header = Header::from([("epoch".to_owned(), "1".to_owned())]);
    save_weights(&vs, &path, header.clone()).unwrap();
    assert_eq!(read_header(&path).unwrap(), header);

    let other = VarStore::new(Device::Cpu);
    Baseline::new(other.root(), &small(AttentionKind::Product), DIMS);
    load_weights(&other, &path).unwrap();
    let theirs = other.variables();
    assert!(vs.variables().iter().all(|(name, tensor)| *tensor == theirs[name]));

    let wider = VarStore::new(Device::Cpu);
    Baseline::new(wider.root(), &small(AttentionKind::Product), DataDims { n_answers: 8, ..DIMS });
    let error = load_weights(&wider, &path).unwrap_err().to_string();
    assert!(error.contains("classifier.main.3.bias is [7] in the file and [8] here"), "{error}");
    let concat = VarStore::new(Device::Cpu);
    Baseline::new(concat.root(), &small(AttentionKind::Concat), DIMS);
    let error = load_weights(&concat, &path).unwrap_err().to_string();
    assert!(error.contains("v_att.nonlinear.main.0.bias is missing") && error.contains("more"), "{error}");

    let bytes = std::fs::read(&path).unwrap();
    let not_whole = "not a complete safetensors file";
    for (cut, words) in
        [(0, "an empty file"), (5, "neither a safetensors file"), (100, not_whole), (bytes.len() - 1, not_whole)]
    {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        for error in [load_weights(&vs, &path).unwrap_err(), read_header(&path).unwrap_err()] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

#[test]
fn devices_are_named() {
    assert_eq!(parse_device("cpu").unwrap(), Device::Cpu);
    assert!(parse_device("auto").is_ok());
    assert!(parse_device("gpu").unwrap_err().to_string().contains("\"gpu\" is unknown"));
    assert!(parse_device("cuda:99").is_err());
}

#[test]
fn pretrained_vectors_replace_all_but_the_padding() {
    let vs = VarStore::new(Device::Cpu);
    let mut config = small(AttentionKind::Product);
    config.lm.word_emb_dim = 3;
    let model = Baseline::new(vs.root(), &config, DIMS);
    let numbers: Vec<f32> = (0..DIMS.n_words * 3).map(|i| i as f32).collect();
    model.word_embedding().set_vectors(&numbers);
    let words = Tensor::from_slice(&[0i64, 19, 20]);
    let vectors: Vec<f32> = model.word_embedding().forward(&words).flatten(0, -1).try_into().unwrap();
    assert_eq!(vectors, [0.0, 1.0, 2.0, 57.0, 58.0, 59.0, 0.0, 0.0, 0.0]);
}
