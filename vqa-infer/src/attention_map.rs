//! The attention map, a picture that shows where the model looked, drawn with the seed's algorithm.

use image::{Rgb, RgbImage};
use rayon::prelude::*;

/// How an attention map looks. The defaults are the seed's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionMapStyle {
    /// Exponent applied to the relative attention; values below 1 lift the weak regions.
    pub power: f64,
    /// Brightness of the background that unattended parts fade into, 0 to 1.
    pub ground: f64,
    /// How much of the blend the attention controls, 0 to 1; the rest of the picture shows through everywhere.
    pub compress: f64,
    /// Colour of the frame around the most attended box.
    pub frame: Rgb<u8>,
    /// Width of the frame in pixels, an odd number. `None` means the article's 7, and less on pictures whose shorter
    /// side has fewer than 200 pixels, where 7 would hide what it frames.
    pub frame_width: Option<u32>,
}

impl Default for AttentionMapStyle {
    fn default() -> AttentionMapStyle {
        AttentionMapStyle { power: 0.8, ground: 1.0, compress: 0.85, frame: Rgb([226, 81, 65]), frame_width: None }
    }
}

/// The factor by which the map is shrunk before it is enlarged again, which blurs it.
const BLUR: usize = 16;

/// Draws `attention` `[K]` over `boxes` `[K]`, x1 y1 x2 y2 in pixels, on a picture.
///
/// 1. Each pixel gets the highest attention of the boxes that cover it.
/// 2. This is divided by the maximum, raised to the power and compressed towards 1.
/// 3. The map is blurred: shrunk to a sixteenth and enlarged again, bilinearly.
/// 4. The picture is blended onto the background, weighted by the map.
/// 5. The most attended box gets a frame.
///
/// Boxes may reach outside the picture or be empty; only the pixels that they cover count.
pub fn attention_map(picture: &RgbImage, boxes: &[[f32; 4]], attention: &[f32], style: &AttentionMapStyle) -> RgbImage {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let weight = |relative: f64| relative.powf(style.power) * style.compress + (1.0 - style.compress);
    let map = SpreadAttention::new((width, height), boxes, attention, BLUR, weight);
    let mut drawn = picture.clone();
    map.for_each_row(&mut drawn, |pixels, weights| {
        for (pixel, &weight) in pixels.chunks_exact_mut(3).zip(weights) {
            for value in pixel {
                let blended = f64::from(*value) / 255.0 * weight + style.ground * (1.0 - weight);
                *value = (blended * 255.0) as u8;
            }
        }
    });
    if let Some(most) = most_attended(boxes, attention) {
        let half = match style.frame_width {
            Some(frame_width) => i64::from(frame_width.max(1) - 1) / 2,
            None => half_frame_width(width, height),
        };
        draw_frame(&mut drawn, boxes[most].map(|corner| corner as i64), half, style.frame);
    }
    drawn
}

/// The index of the most attended box, the first of equals; `None` if there are no boxes.
pub fn most_attended(boxes: &[[f32; 4]], attention: &[f32]) -> Option<usize> {
    let most = attention.iter().take(boxes.len()).enumerate().fold(None, |most: Option<(usize, f32)>, (i, &a)| {
        if most.is_some_and(|(_, highest)| highest >= a) { most } else { Some((i, a)) }
    });
    most.map(|(i, _)| i)
}

/// The attention of the boxes spread over the pixels of a picture and blurred. Only the shrunk map is stored; it is
/// enlarged row by row. Of the unblurred map only the pixels that shrinking samples are computed, so that the time
/// grows with the number of the picture's pixels, not with the total area of the boxes.
pub(crate) struct SpreadAttention {
    size: (usize, usize),
    small: (usize, usize),
    /// The shrunk map, row by row.
    map: Vec<f64>,
}

impl SpreadAttention {
    /// Spreads attention over a picture of this width and height. `weight` maps the attention relative to the highest
    /// to a weight; the map is shrunk by a factor of `blur`.
    pub(crate) fn new(
        size: (usize, usize),
        boxes: &[[f32; 4]],
        attention: &[f32],
        blur: usize,
        weight: impl Fn(f64) -> f64,
    ) -> SpreadAttention {
        let (width, height) = size;
        let small = ((width / blur).max(1), (height / blur).max(1));
        if width == 0 || height == 0 {
            return SpreadAttention { size, small, map: Vec::new() };
        }
        let (columns, rows) = (taps(width, small.0), taps(height, small.1));
        // Two source positions for each pixel of the shrunk map, in ascending order.
        let [xs, ys] = [&columns, &rows].map(|taps| taps.iter().flat_map(|tap| [tap.0, tap.1]).collect::<Vec<usize>>());
        let mut looked_at = vec![0.0f64; xs.len() * ys.len()];
        let mut max = 0.0f64;
        for (corners, &attention) in boxes.iter().zip(attention) {
            let clamp = |corner: f32, length: usize| (corner as i64).clamp(0, length as i64) as usize;
            let (x1, x2) = (clamp(corners[0], width), clamp(corners[2], width));
            let (y1, y2) = (clamp(corners[1], height), clamp(corners[3], height));
            if x1 >= x2 || y1 >= y2 {
                continue;
            }
            max = max.max(f64::from(attention));
            let before = |all: &[usize], end| all.partition_point(|&at| at < end);
            let within = |all: &[usize], first, end| before(all, first)..before(all, end);
            let (in_x, in_y) = (within(&xs, x1, x2), within(&ys, y1, y2));
            for row in looked_at.chunks_mut(xs.len()).take(in_y.end).skip(in_y.start) {
                row[in_x.clone()].iter_mut().for_each(|pixel| *pixel = pixel.max(f64::from(attention)));
            }
        }
        for pixel in &mut looked_at {
            // If no box covers a pixel, the attention is zero everywhere.
            *pixel = weight(if max > 0.0 { *pixel / max } else { 0.0 });
        }
        let mut map = Vec::with_capacity(small.0 * small.1);
        for (row, &(_, _, wy)) in looked_at.chunks(2 * xs.len()).zip(&rows) {
            let (first, second) = row.split_at(xs.len());
            for (i, &(_, _, wx)) in columns.iter().enumerate() {
                let along = |row: &[f64]| row[2 * i] * (1.0 - wx) + row[2 * i + 1] * wx;
                map.push(along(first) * (1.0 - wy) + along(second) * wy);
            }
        }
        SpreadAttention { size, small, map }
    }

    /// Calls `draw` for each row of a picture of the map's size, with the row's bytes (red, green and blue of each
    /// pixel) and the weights of its pixels. Rows are drawn in parallel.
    pub(crate) fn for_each_row(&self, picture: &mut RgbImage, draw: impl Fn(&mut [u8], &[f64]) + Sync) {
        let (width, height) = self.size;
        if self.map.is_empty() {
            return;
        }
        let (columns, rows) = (taps(self.small.0, width), taps(self.small.1, height));
        // The small map's rows, each enlarged to the picture's width.
        let mut wide = Vec::with_capacity(self.small.1 * width);
        for row in self.map.chunks(self.small.0) {
            wide.extend(columns.iter().map(|&(x1, x2, wx)| row[x1] * (1.0 - wx) + row[x2] * wx));
        }
        let wide_row = |y: usize| &wide[y * width..][..width];
        let draw_row = |weights: &mut Vec<f64>, (pixels, &(y1, y2, wy)): (&mut [u8], &(usize, usize, f64))| {
            for ((weight, a), b) in weights.iter_mut().zip(wide_row(y1)).zip(wide_row(y2)) {
                *weight = a * (1.0 - wy) + b * wy;
            }
            draw(pixels, weights);
        };
        let mut weights = vec![0.0; width];
        if rayon::current_thread_index().is_some() {
            // Each core draws a picture of its own. With parallel rows, a core waiting for its rows would start on
            // another picture, and have both in memory.
            picture.chunks_mut(3 * width).zip(&rows).for_each(|row| draw_row(&mut weights, row));
        } else {
            picture.par_chunks_mut(3 * width).zip(&rows).for_each_init(|| weights.clone(), draw_row);
        }
    }
}

/// For each of the `to` pixels along a side that is resized bilinearly, without an anti-aliasing filter, as in OpenCV:
/// its two source pixels and the weight of the second.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    (0..to)
        .map(|i| {
            let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
            let first = at as usize;
            (first, (first + 1).min(from - 1), at - first as f64)
        })
        .collect()
}

/// The number of pixels of the frame on either side of its middle line.
fn half_frame_width(width: usize, height: usize) -> i64 {
    /// `cv2.rectangle(…, 5)` draws seven pixels.
    const ARTICLE: i64 = 3;
    /// The shorter side of the smallest picture on which such a frame does not hide too much.
    const SMALLEST: i64 = 200;
    (ARTICLE * width.min(height) as i64 / SMALLEST).min(ARTICLE)
}

/// Draws the part of a frame that lies in the picture. Its middle line is the edge of the box: all pixels within `half`
/// of that line are drawn, so its corners are round.
pub(crate) fn draw_frame(picture: &mut RgbImage, [x1, y1, x2, y2]: [i64; 4], half: i64, color: Rgb<u8>) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    // Far outside, the frame is invisible: keep the corners near the picture, so that nothing overflows.
    let near = |corner: i64, length: i64| corner.clamp(-half - 1, length + half + 1);
    let (x1, x2) = (near(x1.min(x2), width), near(x1.max(x2), width));
    let (y1, y2) = (near(y1.min(y2), height), near(y1.max(y2), height));
    let columns = |first: i64, last: i64| (first - half).max(0)..=(last + half).min(width - 1);
    for y in (y1 - half).max(0)..=(y2 + half).min(height - 1) {
        let mut draw = |x: i64| {
            let beside = |at: i64, first: i64, last: i64| (first - at).max(at - last).max(0);
            let to_edges = |at: i64, first: i64, last: i64| (at - first).abs().min((at - last).abs());
            let horizontal = [beside(x, x1, x2), to_edges(y, y1, y2)];
            let vertical = [beside(y, y1, y2), to_edges(x, x1, x2)];
            if [horizontal, vertical].iter().any(|[a, b]| a * a + b * b <= half * half) {
                picture.put_pixel(x as u32, y as u32, color);
            }
        };
        // Rows across the middle of the box have only the two vertical edges to draw.
        if (y - y1).abs() <= half || (y - y2).abs() <= half {
            columns(x1, x2).for_each(draw);
        } else {
            columns(x1, x1).chain(columns(x2, x2)).for_each(&mut draw);
        }
    }
}

/// Boxes that are outside a picture of 40 x 30 pixels, empty, inverted, not finite, immense, or reach beyond it.
#[cfg(test)]
pub(crate) const ODD_BOXES: [[f32; 4]; 6] = [
    [-50.0, -50.0, -10.0, -10.0],
    [5.0, 5.0, 5.0, 20.0],
    [30.0, 20.0, 10.0, 10.0],
    [f32::NAN, 0.0, f32::INFINITY, f32::NEG_INFINITY],
    [1e30, -1e30, 1e30, 1e30],
    [20.0, 10.0, 400.0, 300.0],
];

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// The map computed literally as documented: every pixel's attention, shrunk and enlarged as OpenCV does it.
    fn plain_map((width, height): (usize, usize), boxes: &[[f32; 4]], attention: &[f32]) -> Vec<f64> {
        let mut map = vec![0.0f64; width * height];
        for (&[x1, y1, x2, y2], &attention) in boxes.iter().zip(attention) {
            for (i, pixel) in map.iter_mut().enumerate() {
                let (x, y) = ((i % width) as i64, (i / width) as i64);
                if (x1 as i64..x2 as i64).contains(&x) && (y1 as i64..y2 as i64).contains(&y) {
                    *pixel = pixel.max(f64::from(attention));
                }
            }
        }
        let max = map.iter().copied().fold(0.0, f64::max);
        for pixel in &mut map {
            let relative = if max > 0.0 { *pixel / max } else { 0.0 };
            *pixel = relative.powf(0.8) * 0.85 + (1.0 - 0.85);
        }
        let resize = |map: &[f64], from: (usize, usize), to: (usize, usize)| -> Vec<f64> {
            let (columns, rows) = (taps(from.0, to.0), taps(from.1, to.1));
            let at = |x: usize, y: usize| map[y * from.0 + x];
            let along = |y, (x1, x2, wx): (usize, usize, f64)| at(x1, y) * (1.0 - wx) + at(x2, y) * wx;
            let of_row = |&(y1, y2, wy): &(usize, usize, f64)| {
                columns.iter().map(move |&tap| along(y1, tap) * (1.0 - wy) + along(y2, tap) * wy).collect::<Vec<_>>()
            };
            rows.iter().flat_map(of_row).collect()
        };
        let small = ((width / 16).max(1), (height / 16).max(1));
        resize(&resize(&map, (width, height), small), small, (width, height))
    }

    /// Computing only the sampled pixels gives the same map, bit for bit.
    #[test]
    fn the_map_is_what_looking_at_every_pixel_gives() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..40 {
            let (width, height) = (rng.random_range(1..150), rng.random_range(1..150));
            let n = rng.random_range(0..12);
            let mut corner = |length: usize| rng.random_range(-20.0..length as f32 + 20.0);
            let boxes: Vec<[f32; 4]> =
                (0..n).map(|_| [corner(width), corner(height), corner(width), corner(height)]).collect();
            let attention: Vec<f32> = (0..n).map(|_| rng.random_range(0.0..1.0)).collect();
            let plain = plain_map((width, height), &boxes, &attention);
            let weight = |relative: f64| relative.powf(0.8) * 0.85 + (1.0 - 0.85);
            let map = SpreadAttention::new((width, height), &boxes, &attention, BLUR, weight);
            let mut marked = RgbImage::new(width as u32, height as u32);
            map.for_each_row(&mut marked, |pixels, weights| {
                let bits = weights.iter().map(|weight| weight.to_bits());
                pixels
                    .chunks_mut(3)
                    .zip(bits)
                    .for_each(|(pixel, bits)| pixel.copy_from_slice(&bits.to_le_bytes()[..3]));
            });
            for (pixel, plain) in marked.pixels().zip(&plain) {
                assert_eq!(pixel.0, plain.to_bits().to_le_bytes()[..3]);
            }
        }
    }

    #[test]
    fn odd_boxes_do_no_harm() {
        let picture = RgbImage::from_pixel(40, 30, Rgb([10, 20, 30]));
        let style = AttentionMapStyle::default();
        let odd = ODD_BOXES;
        for corners in odd {
            let drawn = attention_map(&picture, &[corners], &[1.0], &style);
            assert_eq!(drawn.dimensions(), (40, 30));
        }
        attention_map(&picture, &odd, &[0.1, 0.1, 0.3, 0.2, 0.2, 0.1], &style);
        attention_map(&picture, &odd, &[0.0; 6], &style);
        attention_map(&picture, &[], &[], &style);
        for (width, height) in [(1, 1), (3, 50), (0, 0)] {
            let tiny = RgbImage::new(width, height);
            assert_eq!(attention_map(&tiny, &odd, &[0.2; 6], &style).dimensions(), (width, height));
        }
    }

    /// The columns that a frame covers halfway down its box, in a picture of this size.
    fn framed_columns(size: u32) -> Vec<u32> {
        let picture = RgbImage::from_pixel(size, size, Rgb([0, 0, 0]));
        let [first, last] = [size / 4, size / 2].map(|corner| corner as f32);
        let boxes = [[0.0, 0.0, 10.0, 10.0], [first, first, last, last]];
        let drawn = attention_map(&picture, &boxes, &[0.3, 0.7], &AttentionMapStyle::default());
        (0..size).filter(|&x| *drawn.get_pixel(x, size * 3 / 8) == Rgb([226, 81, 65])).collect()
    }

    #[test]
    fn the_frame_leaves_enough_of_a_small_picture() {
        assert_eq!(framed_columns(200), [47, 48, 49, 50, 51, 52, 53, 97, 98, 99, 100, 101, 102, 103]);
        assert_eq!(framed_columns(400).len(), 14);
        assert_eq!(framed_columns(100), [24, 25, 26, 49, 50, 51]);
        assert_eq!(framed_columns(64), [16, 32]);
    }

    #[test]
    fn attended_parts_keep_their_colour_and_others_fade() {
        let picture = RgbImage::from_pixel(320, 320, Rgb([0, 100, 200]));
        let boxes = [[0.0, 0.0, 160.0, 320.0], [0.0, 0.0, 4.0, 4.0]];
        let drawn = attention_map(&picture, &boxes, &[0.4, 0.6], &AttentionMapStyle::default());
        // Fully white is 255; 15 % of the picture shows through where there is no attention.
        let faded = drawn.get_pixel(300, 160).0;
        assert_eq!(faded, [(0.85f64 * 255.0) as u8, ((0.15 * 100.0 / 255.0 + 0.85) * 255.0) as u8, 246]);
        assert!(drawn.get_pixel(40, 160).0[0] < faded[0]);
    }
}
