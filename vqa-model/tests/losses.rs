//! The softmax loss where the original PyTorch code has none: questions with several labels, or without labels.

use tch::{Device, Kind, Tensor};
use vqa_data::questions::SoftTargets;
use vqa_model::loss::{bce_with_logits, dense_targets, sce_with_logits};

fn value(loss: &Tensor) -> f64 {
    loss.double_value(&[])
}

#[test]
fn questions_without_labels_do_not_count() {
    let logits = Tensor::from_slice2(&[[1.0f32, -0.5, 2.0], [0.3, 0.1, -1.0]]);
    let labelled = Tensor::from_slice2(&[[0.0f32, 0.6, 0.0]]);
    let none = Tensor::zeros([1, 3], (Kind::Float, Device::Cpu));
    let one = sce_with_logits(&logits.narrow(0, 0, 1), &labelled);
    let both = sce_with_logits(&logits, &Tensor::cat(&[&labelled, &none], 0));
    assert!((value(&one) - value(&both)).abs() < 1e-6);
    // -log softmax of the label, computed by hand, times the three answers.
    let sum = 1f64.exp() + (-0.5f64).exp() + 2f64.exp();
    assert!((value(&one) - 3.0 * (sum.ln() + 0.5)).abs() < 1e-5);

    let logits = logits.set_requires_grad(true);
    let nothing = sce_with_logits(&logits, &Tensor::cat(&[&none, &none], 0));
    nothing.backward();
    assert_eq!(value(&nothing), 0.0);
    assert_eq!(value(&logits.grad().abs().sum(Kind::Float)), 0.0);
}

#[test]
fn several_labels_share_by_their_scores() {
    let logits = Tensor::from_slice2(&[[1.0f32, -0.5, 2.0]]);
    let soft = sce_with_logits(&logits, &Tensor::from_slice2(&[[0.9f32, 0.3, 0.0]]));
    let first = sce_with_logits(&logits, &Tensor::from_slice2(&[[1.0f32, 0.0, 0.0]]));
    let second = sce_with_logits(&logits, &Tensor::from_slice2(&[[0.0f32, 1.0, 0.0]]));
    assert!((value(&soft) - 0.75 * value(&first) - 0.25 * value(&second)).abs() < 1e-6);
}

#[test]
fn sparse_targets_become_dense() {
    let mut targets = SoftTargets::default();
    targets.push([(2, 0.3), (0, 1.0)]);
    targets.push([]);
    let dense = dense_targets(&targets, 3, Device::Cpu);
    assert_eq!(dense, Tensor::from_slice2(&[[1.0f32, 0.0, 0.3], [0.0, 0.0, 0.0]]));
    // log 2 for each of three answers whose logit is 0.
    let loss = bce_with_logits(&dense.zeros_like(), &dense);
    assert!((value(&loss) - 3.0 * 2f64.ln()).abs() < 1e-6);
}
