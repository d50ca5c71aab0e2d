//! The most attended boxes of a picture, numbered.

use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use crate::attention_map::draw_frame;

/// How many boxes are framed at most.
pub(crate) const N_NUMBERED: usize = 10;

/// The shorter side of the smallest picture that has room for the numbers.
const SMALLEST: u32 = 240;

/// Colours by rank, from the most attended: red, growing lighter.
pub(crate) const COLORS: [[u8; 3]; N_NUMBERED] = [
    [226, 81, 65],
    [232, 112, 58],
    [238, 138, 55],
    [242, 160, 60],
    [245, 179, 72],
    [247, 195, 92],
    [248, 207, 115],
    [248, 217, 138],
    [248, 225, 160],
    [248, 232, 181],
];

/// The indices of the boxes that are framed and numbered, the most attended first; ties keep their order.
pub(crate) fn ranked(boxes: &[[f32; 4]], attention: &[f32]) -> Vec<usize> {
    let n = boxes.len().min(attention.len());
    let mut ranked: Vec<usize> = (0..n).filter(|&i| attention[i] > 0.0).collect();
    ranked.sort_by(|&a, &b| attention[b].total_cmp(&attention[a]));
    ranked.truncate(N_NUMBERED);
    ranked
}

/// Frames the most attended boxes, and numbers them by rank. Lines and digits scale with the picture; a picture whose
/// shorter side has fewer than 240 pixels is enlarged by a whole factor until it has, unless it is a narrow strip.
pub(crate) fn numbered_boxes(picture: &RgbImage, boxes: &[[f32; 4]], attention: &[f32]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (shorter, longer) = (width.min(height), width.max(height));
    if shorter == 0 {
        return picture.clone();
    }
    // A long narrow strip must not become huge.
    let factor = SMALLEST.div_ceil(shorter).min((4 * SMALLEST / longer).max(1));
    let mut drawn = match factor {
        1 => picture.clone(),
        factor => resize(picture, width * factor, height * factor, FilterType::CatmullRom),
    };
    let ranked = ranked(boxes, attention);
    // Keeps odd corners within a range in which integer arithmetic is safe.
    let corners = |i: usize| boxes[i].map(|corner| (corner * factor as f32).clamp(-1e6, 1e6) as i64);
    // Digits stay legible when the picture is shown at a third of its size.
    let unit = i64::from((shorter * factor / 120).max(1));
    // The most attended box is drawn last, on top.
    for (rank, &i) in ranked.iter().enumerate().rev() {
        let half = if rank == 0 { unit + unit / 2 } else { unit / 2 };
        draw_frame(&mut drawn, corners(i), half + 1 + half / 3, Rgb([30, 30, 30]));
        draw_frame(&mut drawn, corners(i), half, Rgb(COLORS[rank]));
    }
    let labels = place_labels(&drawn, &ranked.iter().map(|&i| corners(i)).collect::<Vec<_>>(), unit);
    for (rank, at) in labels.into_iter().enumerate().rev() {
        draw_label(&mut drawn, at, rank + 1, unit, Rgb(COLORS[rank]));
    }
    drawn
}

/// The top left corner of each box's label. A label goes to the first corner of its box that no label of a higher rank
/// occupies, or else to the position on the top or bottom edge where it hides the least of them.
fn place_labels(picture: &RgbImage, boxes: &[[i64; 4]], unit: i64) -> Vec<[i64; 2]> {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let mut taken: Vec<[i64; 4]> = Vec::new();
    for (rank, &[x1, y1, x2, y2]) in boxes.iter().enumerate() {
        let [w, h] = label_size(rank + 1, unit);
        let (left, right) = (x1.clamp(0, (width - w).max(0)), (x2 - w).clamp(0, (width - w).max(0)));
        let (top, bottom) = (y1.clamp(0, (height - h).max(0)), (y2 - h).clamp(0, (height - h).max(0)));
        let between = |a: i64, b: i64| (1..4).map(move |part| a + (b - a) * part / 4);
        let corners = [[left, top], [right, top], [left, bottom], [right, bottom]];
        let along_edges = between(left, right).flat_map(|x| [[x, top], [x, bottom]]);
        let places = corners.into_iter().chain(along_edges);
        let hidden = |&[x, y]: &[i64; 2]| -> i64 {
            let with = |&[a, b, c, d]: &[i64; 4]| (c.min(x + w) - a.max(x)).max(0) * (d.min(y + h) - b.max(y)).max(0);
            taken.iter().map(with).sum()
        };
        // Of equal positions `min_by_key` returns the first.
        let [x, y] = places.min_by_key(hidden).unwrap_or([left, top]);
        taken.push([x, y, x + w, y + h]);
    }
    taken.into_iter().map(|[x, y, ..]| [x, y]).collect()
}

/// Width and height of a label in pixels.
fn label_size(number: usize, unit: i64) -> [i64; 2] {
    let n_digits = number.to_string().len() as i64;
    [(6 * n_digits + 3) * unit, 11 * unit]
}

/// A dark number on the colour of its box's frame.
fn draw_label(picture: &mut RgbImage, [x, y]: [i64; 2], number: usize, unit: i64, color: Rgb<u8>) {
    let [w, h] = label_size(number, unit);
    fill(picture, [x, y, x + w, y + h], color);
    for (i, digit) in number.to_string().bytes().enumerate() {
        for (row, bits) in DIGITS[usize::from(digit - b'0')].into_iter().enumerate() {
            for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                let left = x + (2 + 6 * i as i64 + column) * unit;
                let top = y + (2 + row as i64) * unit;
                fill(picture, [left, top, left + unit, top + unit], Rgb([20, 20, 20]));
            }
        }
    }
}

fn fill(picture: &mut RgbImage, [x1, y1, x2, y2]: [i64; 4], color: Rgb<u8>) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    for y in y1.max(0)..y2.min(height) {
        for x in x1.max(0)..x2.min(width) {
            picture.put_pixel(x as u32, y as u32, color);
        }
    }
}

/// The digits, seven rows of five pixels each.
const DIGITS: [[u8; 7]; 10] = [
    [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
    [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
    [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
    [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110],
    [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
    [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
    [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
    [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
    [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
];

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    #[test]
    fn ten_boxes_are_ranked_and_their_labels_lie_apart() {
        let picture = RgbImage::new(640, 480);
        // All share one corner, as the regions of a grid and the full picture do.
        let boxes: Vec<[f32; 4]> =
            (0..12).map(|i| [0.0, 0.0, 60.0 + 40.0 * i as f32, 50.0 + 30.0 * i as f32]).collect();
        let attention: Vec<f32> = (0..12).map(|i| (i * 5 % 12) as f32 / 66.0).collect();
        let order = ranked(&boxes, &attention);
        assert_eq!(order.len(), N_NUMBERED);
        assert!(order.is_sorted_by_key(|&i| Reverse((attention[i] * 1e4) as u32)));
        let corners: Vec<[i64; 4]> = order.iter().map(|&i| boxes[i].map(|corner| corner as i64)).collect();
        let places = place_labels(&picture, &corners, 2);
        for (a, &[x, y]) in places.iter().enumerate() {
            for (b, &[other_x, other_y]) in places.iter().enumerate().skip(a + 1) {
                let [w, h] = label_size(10, 2);
                assert!((x - other_x).abs() >= w - 12 || (y - other_y).abs() >= h, "{} lies on {}", a + 1, b + 1);
            }
        }
    }

    #[test]
    fn small_pictures_are_enlarged_and_large_ones_are_not() {
        let size = |width, height| numbered_boxes(&RgbImage::new(width, height), &[], &[]).dimensions();
        assert_eq!(size(64, 64), (256, 256));
        assert_eq!(size(240, 300), (240, 300));
        assert_eq!(size(4000, 3000), (4000, 3000));
        assert_eq!(size(900, 3), (900, 3));
    }
}
