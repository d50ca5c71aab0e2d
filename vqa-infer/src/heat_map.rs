//! A heat map over a picture.

use image::{Rgb, RgbImage};

use crate::attention_map::{SpreadAttention, draw_frame, most_attended};

/// Matplotlib's "inferno" at every eighth of its range. Its lightness grows evenly, so it also works in greyscale and
/// for colour-blind viewers.
const INFERNO: [[u8; 3]; 9] = [
    [0, 0, 4],
    [31, 12, 72],
    [85, 15, 109],
    [136, 34, 106],
    [186, 54, 85],
    [227, 89, 51],
    [249, 140, 10],
    [249, 201, 50],
    [252, 255, 164],
];

/// Opacity of the colours where nothing is attended, and where most is.
const OPACITY: [f64; 2] = [0.35, 0.6];

/// Colour of the frame around the most attended box.
const FRAME: Rgb<u8> = Rgb([255, 255, 255]);

/// Draws the attention as colours over a picture. It is spread over the pixels as in
/// [`attention_map`](crate::attention_map::attention_map), but the blur scales with the picture: finer on small
/// pictures, smoother on large ones.
pub(crate) fn heat_map(picture: &RgbImage, boxes: &[[f32; 4]], attention: &[f32]) -> RgbImage {
    let size = (picture.width() as usize, picture.height() as usize);
    let shorter = size.0.min(size.1);
    let map = SpreadAttention::new(size, boxes, attention, (shorter / 20).max(2), |relative| relative.powf(0.8));
    let table: Vec<([f64; 3], f64)> = (0..=255).map(|i| shade(f64::from(i) / 255.0)).collect();
    let mut drawn = picture.clone();
    map.for_each_row(&mut drawn, |pixels, weights| {
        for (pixel, &weight) in pixels.chunks_exact_mut(3).zip(weights) {
            let (color, opacity) = table[(weight * 255.0).round() as usize % 256];
            for (value, color) in pixel.iter_mut().zip(color) {
                *value = (f64::from(*value) * (1.0 - opacity) + color * opacity).round() as u8;
            }
        }
    });
    if let Some(most) = most_attended(boxes, attention) {
        let half = (shorter / 300) as i64;
        let corners = boxes[most].map(|corner| corner as i64);
        // Black beside white is visible on any background, but would hide too much of a small picture.
        if shorter >= 150 {
            draw_frame(&mut drawn, corners, half + 1 + half / 2, Rgb([0, 0, 0]));
        }
        draw_frame(&mut drawn, corners, half, FRAME);
    }
    drawn
}

/// The colour of a weight from 0 to 1, and its opacity.
fn shade(weight: f64) -> ([f64; 3], f64) {
    let at = weight * (INFERNO.len() - 1) as f64;
    let first = (at as usize).min(INFERNO.len() - 2);
    let part = at - first as f64;
    let mix = |c: usize| f64::from(INFERNO[first][c]) * (1.0 - part) + f64::from(INFERNO[first + 1][c]) * part;
    ([mix(0), mix(1), mix(2)], OPACITY[0] * (1.0 - weight) + OPACITY[1] * weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lightness(pixel: &Rgb<u8>) -> u32 {
        let [r, g, b] = pixel.0.map(u32::from);
        299 * r + 587 * g + 114 * b
    }

    #[test]
    fn what_is_attended_more_is_lighter() {
        let picture = RgbImage::from_pixel(400, 100, Rgb([120, 120, 120]));
        let boxes: Vec<[f32; 4]> = (0..4).map(|i| [i as f32 * 100.0, 0.0, i as f32 * 100.0 + 100.0, 100.0]).collect();
        let drawn = heat_map(&picture, &boxes, &[0.0, 0.1, 0.3, 0.6]);
        let found = [50, 150, 250, 350].map(|x| lightness(drawn.get_pixel(x, 50)));
        assert!(found.is_sorted_by(|a, b| a + 10_000 < *b), "{found:?}");
    }
}
