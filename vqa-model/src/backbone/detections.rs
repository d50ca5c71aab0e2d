//! What a detector finds in a picture, and which boxes are kept.

use tch::{Device, Kind, Tensor};

/// What a detector finds in a picture, on the CPU.
#[derive(Debug)]
pub struct Detections {
    /// [N, 4] float32: x1 y1 x2 y2, in pixels of the network's input.
    pub boxes: Tensor,
    /// [N, D] float32.
    pub features: Tensor,
    /// [N, S] float32: a box's score for each of S classes, excluding the background; S is 1 if the detector does not
    /// tell classes apart.
    pub scores: Tensor,
}

/// Which boxes of a detector are kept, chosen as in bottom-up-attention: for each class, overlapping boxes are reduced
/// to the one with the best score (non-maximum suppression). Boxes whose best remaining score is high enough are kept,
/// best first, but at least `min_boxes` and at most `max_boxes`, whatever their scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// The score that a box must reach.
    pub min_score: f64,
    /// The intersection over union above which two boxes are considered the same object.
    pub max_overlap: f64,
    /// The fewest boxes to keep: if fewer reach `min_score`, the next best are kept too. A picture with fewer boxes
    /// keeps all of them.
    pub min_boxes: usize,
    /// The most boxes to keep.
    pub max_boxes: usize,
}

impl Selection {
    /// Keeps 10 to 100 boxes, as in bottom-up-attention's adaptive features, with the same thresholds.
    pub fn adaptive() -> Selection {
        Selection { min_score: 0.2, max_overlap: 0.3, min_boxes: 10, max_boxes: 100 }
    }

    /// Keeps this many boxes in each picture.
    pub fn fixed(n_boxes: usize) -> Selection {
        Selection { min_boxes: n_boxes, max_boxes: n_boxes, ..Selection::adaptive() }
    }

    /// Returns the boxes to keep, best first, with their best scores after suppression, [N, 1]: -infinity for a box that
    /// is suppressed in every class.
    pub fn select(&self, detections: &Detections) -> Detections {
        let boxes = rows::<4>(&detections.boxes);
        let n_classes = detections.scores.size().get(1).map_or(0, |&n| n as usize);
        let by_class = Vec::<f32>::try_from(detections.scores.transpose(0, 1).contiguous().view([-1]))
            .expect("a flat float tensor on the CPU");
        // Scores may be negative; a box that is suppressed in every class has none.
        let mut best = vec![f32::NEG_INFINITY; boxes.len()];
        if !boxes.is_empty() {
            for scores in by_class.chunks(boxes.len()).take(n_classes) {
                for kept in suppress(&boxes, scores, self.max_overlap) {
                    best[kept] = best[kept].max(scores[kept]);
                }
            }
        }
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        // The sort is stable: boxes with equal scores stay in the detector's order.
        order.sort_by(|&a, &b| best[b].total_cmp(&best[a]));
        let n_good = order.iter().filter(|&&i| f64::from(best[i]) >= self.min_score).count();
        order.truncate(n_good.clamp(self.min_boxes, self.max_boxes.max(self.min_boxes)));
        let index = Tensor::from_slice(&order.iter().map(|&i| i as i64).collect::<Vec<_>>());
        let scores: Vec<f32> = order.iter().map(|&i| best[i]).collect();
        Detections {
            boxes: detections.boxes.index_select(0, &index),
            features: detections.features.index_select(0, &index),
            scores: Tensor::from_slice(&scores).view([-1, 1]),
        }
    }
}

/// Returns the rows of a float tensor [N, M].
fn rows<const M: usize>(tensor: &Tensor) -> Vec<[f32; M]> {
    let flat = tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    let values = Vec::<f32>::try_from(flat).expect("a flat float tensor on the CPU");
    values.chunks_exact(M).map(|row| row.try_into().expect("chunks of M")).collect()
}

/// Non-maximum suppression: goes through the boxes from best to worst, and keeps each that does not overlap a kept one
/// too much. Returns the indices of the kept boxes.
fn suppress(boxes: &[[f32; 4]], scores: &[f32], max_overlap: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        if kept.iter().all(|&j| overlap(&boxes[i], &boxes[j]) <= max_overlap) {
            kept.push(i);
        }
    }
    kept
}

/// Intersection over union.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f64 {
    let area = |x1: f32, y1: f32, x2: f32, y2: f32| f64::from((x2 - x1).max(0.0)) * f64::from((y2 - y1).max(0.0));
    let both = area(a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3]));
    let either = area(a[0], a[1], a[2], a[3]) + area(b[0], b[1], b[2], b[3]) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detections(boxes: &[[f32; 4]], scores: &[&[f32]]) -> Detections {
        let n = boxes.len() as i64;
        Detections {
            boxes: Tensor::from_slice(&boxes.concat()).view([n, 4]),
            features: Tensor::arange(n, (Kind::Float, Device::Cpu)).view([n, 1]),
            scores: Tensor::from_slice(&scores.concat()).view([n, scores[0].len() as i64]),
        }
    }

    fn kept(selection: Selection, detections: &Detections) -> Vec<i64> {
        let selected = selection.select(detections);
        assert_eq!(selected.boxes.size()[0], selected.scores.size()[0]);
        Vec::<f64>::try_from(selected.features.view([-1]).to_kind(Kind::Double))
            .unwrap()
            .into_iter()
            .map(|x| x as i64)
            .collect()
    }

    /// The first two have an intersection over union of 0.9 / 1.1; the third overlaps neither.
    const BOXES: [[f32; 4]; 3] = [[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [50.0, 50.0, 60.0, 60.0]];

    #[test]
    fn of_overlapping_boxes_the_best_is_kept() {
        let selection = Selection { min_score: 0.2, max_overlap: 0.5, min_boxes: 1, max_boxes: 100 };
        let found = detections(&BOXES, &[&[0.6], &[0.9], &[0.3]]);
        assert_eq!(kept(selection, &found), [1, 2]);
        assert_eq!(kept(Selection { max_overlap: 0.9, ..selection }, &found), [1, 0, 2]);
        assert_eq!(kept(Selection { min_score: 0.5, ..selection }, &found), [1]);
        // Overlapping boxes of different classes are both kept.
        let found = detections(&BOXES, &[&[0.6, 0.0], &[0.1, 0.9], &[0.0, 0.1]]);
        assert_eq!(kept(selection, &found), [1, 0]);
    }

    #[test]
    fn the_number_of_boxes_has_bounds() {
        let selection = Selection { min_score: 0.2, max_overlap: 0.5, min_boxes: 2, max_boxes: 2 };
        let found = detections(&BOXES, &[&[0.1], &[0.15], &[0.05]]);
        // Suppressed boxes come last.
        assert_eq!(kept(selection, &found), [1, 2]);
        assert_eq!(kept(Selection { min_boxes: 10, max_boxes: 100, ..selection }, &found), [1, 2, 0]);
        // Scores need not be positive; suppressed boxes do not reach any.
        let found = detections(&BOXES, &[&[-3.0], &[-1.0], &[-2.0]]);
        assert_eq!(kept(selection, &found), [1, 2]);
        assert_eq!(kept(Selection { min_score: -9.0, max_boxes: 100, ..selection }, &found), [1, 2]);
        let found = detections(&BOXES, &[&[0.7], &[0.1], &[0.8]]);
        assert_eq!(kept(Selection { min_boxes: 1, max_boxes: 1, ..selection }, &found), [2]);
        let none = Detections {
            boxes: Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)),
            features: Tensor::zeros([0, 1], (Kind::Float, Device::Cpu)),
            scores: Tensor::zeros([0, 3], (Kind::Float, Device::Cpu)),
        };
        assert_eq!(kept(Selection::adaptive(), &none), [0i64; 0]);
        assert_eq!(Selection::fixed(36).max_boxes, 36);
    }
}
