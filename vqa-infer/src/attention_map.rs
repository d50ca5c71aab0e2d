//! A picture that shows where the model looked, drawn step by step as the seed draws it.

use image::{Rgb, RgbImage};

/// How an attention map looks. The defaults are the seed's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionMapStyle {
    /// Exponent on the relative attention: below 1 it lifts the weak regions.
    pub power: f64,
    /// Brightness of the ground that unattended parts fade into, 0 to 1.
    pub ground: f64,
    /// Share of the picture that attention decides; the rest shines through everywhere.
    pub compress: f64,
    /// Colour of the frame around the most attended box.
    pub frame: Rgb<u8>,
    /// Width of the frame in pixels, an odd number. If nothing is given it is the article's, 7, and less on pictures of
    /// fewer than 200 pixels, where that would hide what it frames.
    pub frame_width: Option<u32>,
}

impl Default for AttentionMapStyle {
    fn default() -> AttentionMapStyle {
        AttentionMapStyle { power: 0.8, ground: 1.0, compress: 0.85, frame: Rgb([226, 81, 65]), frame_width: None }
    }
}

/// The blur comes from shrinking the map by this factor and enlarging it again.
const BLUR: usize = 16;

/// Draws `attention` `[K]` over `boxes` `[K]`, x1 y1 x2 y2 in pixels, on a picture.
///
/// 1. Each pixel gets the highest attention of the boxes that cover it.
/// 2. Divided by the maximum, raised to the power, compressed towards 1.
/// 3. Blurred: shrunk to a sixteenth and enlarged again, bilinearly.
/// 4. The picture is blended by it onto the ground.
/// 5. The most attended box gets a frame.
///
/// Boxes may reach outside the picture or be empty; they count as far as they cover pixels.
pub fn attention_map(picture: &RgbImage, boxes: &[[f32; 4]], attention: &[f32], style: &AttentionMapStyle) -> RgbImage {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut map = vec![0.0f64; width * height];
    for (corners, &attention) in boxes.iter().zip(attention) {
        let clamp = |corner: f32, length: usize| (corner as i64).clamp(0, length as i64) as usize;
        let (x1, x2) = (clamp(corners[0], width), clamp(corners[2], width));
        let (y1, y2) = (clamp(corners[1], height), clamp(corners[3], height));
        if x1 < x2 {
            for row in map.chunks_mut(width).take(y2).skip(y1) {
                row[x1..x2].iter_mut().for_each(|pixel| *pixel = pixel.max(f64::from(attention)));
            }
        }
    }
    let max = map.iter().copied().fold(0.0, f64::max);
    for pixel in &mut map {
        // Nothing is attended where no box covers anything.
        let relative = if max > 0.0 { *pixel / max } else { 0.0 };
        *pixel = relative.powf(style.power) * style.compress + (1.0 - style.compress);
    }
    let small = ((width / BLUR).max(1), (height / BLUR).max(1));
    let map = resize(&resize(&map, (width, height), small), small, (width, height));

    let mut drawn = picture.clone();
    for (pixel, weight) in drawn.pixels_mut().zip(map) {
        let blend = |value: u8| {
            let blended = f64::from(value) / 255.0 * weight + style.ground * (1.0 - weight);
            (blended * 255.0) as u8
        };
        *pixel = Rgb(pixel.0.map(blend));
    }
    let most = attention.iter().take(boxes.len()).enumerate().fold(None, |most: Option<(usize, f32)>, (i, &a)| {
        if most.is_some_and(|(_, highest)| highest >= a) { most } else { Some((i, a)) }
    });
    if let Some((i, _)) = most {
        let half = style.frame_width.map_or_else(|| half_frame_width(width, height), |width| i64::from(width / 2));
        draw_frame(&mut drawn, boxes[i].map(|corner| corner as i64), half, style.frame);
    }
    drawn
}

/// Bilinear resizing with pixel centres at halves and no smoothing, as OpenCV's `INTER_LINEAR`.
fn resize(map: &[f64], from: (usize, usize), to: (usize, usize)) -> Vec<f64> {
    /// For each target pixel: its two source pixels, and the weight of the second.
    fn taps(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
        (0..to)
            .map(|i| {
                let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
                let first = at as usize;
                (first, (first + 1).min(from - 1), at - first as f64)
            })
            .collect()
    }
    if map.is_empty() {
        return Vec::new();
    }
    let (columns, rows) = (taps(from.0, to.0), taps(from.1, to.1));
    let mut resized = Vec::with_capacity(to.0 * to.1);
    for &(y1, y2, wy) in &rows {
        for &(x1, x2, wx) in &columns {
            let along = |y: usize| map[y * from.0 + x1] * (1.0 - wx) + map[y * from.0 + x2] * wx;
            resized.push(along(y1) * (1.0 - wy) + along(y2) * wy);
        }
    }
    resized
}

/// Pixels of the frame on either side of its middle line.
fn half_frame_width(width: usize, height: usize) -> i64 {
    /// `cv2.rectangle(…, 5)` draws seven pixels.
    const ARTICLE: i64 = 3;
    /// The shorter side of the smallest picture that such a frame leaves enough of.
    const SMALLEST: i64 = 200;
    (ARTICLE * width.min(height) as i64 / SMALLEST).min(ARTICLE)
}

/// Draws a frame whose middle line runs along the box, as far as it lies in the picture: all pixels within `half` of
/// that line, so that its corners are round.
fn draw_frame(picture: &mut RgbImage, [x1, y1, x2, y2]: [i64; 4], half: i64, color: Rgb<u8>) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    // Far outside, the frame is invisible: stay near the picture, whatever the corners are.
    let near = |corner: i64, length: i64| corner.clamp(-half - 1, length + half + 1);
    let (x1, x2) = (near(x1.min(x2), width), near(x1.max(x2), width));
    let (y1, y2) = (near(y1.min(y2), height), near(y1.max(y2), height));
    for y in (y1 - half).max(0)..=(y2 + half).min(height - 1) {
        for x in (x1 - half).max(0)..=(x2 + half).min(width - 1) {
            let beside = |at: i64, first: i64, last: i64| (first - at).max(at - last).max(0);
            let to_edges = |at: i64, first: i64, last: i64| (at - first).abs().min((at - last).abs());
            let horizontal = [beside(x, x1, x2), to_edges(y, y1, y2)];
            let vertical = [beside(y, y1, y2), to_edges(x, x1, x2)];
            if [horizontal, vertical].iter().any(|[a, b]| a * a + b * b <= half * half) {
                picture.put_pixel(x as u32, y as u32, color);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_boxes_do_no_harm() {
        let picture = RgbImage::from_pixel(40, 30, Rgb([10, 20, 30]));
        let style = AttentionMapStyle::default();
        let odd = [
            [-50.0, -50.0, -10.0, -10.0],
            [5.0, 5.0, 5.0, 20.0],
            [30.0, 20.0, 10.0, 10.0],
            [f32::NAN, 0.0, f32::INFINITY, f32::NEG_INFINITY],
            [1e30, -1e30, 1e30, 1e30],
            [20.0, 10.0, 400.0, 300.0],
        ];
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

    /// Columns of the frame along the middle of a box, in a picture of this size.
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
        // Fully white is 255; 15 % of the picture shines through where there is no attention.
        let faded = drawn.get_pixel(300, 160).0;
        assert_eq!(faded, [(0.85f64 * 255.0) as u8, ((0.15 * 100.0 / 255.0 + 0.85) * 255.0) as u8, 246]);
        assert!(drawn.get_pixel(40, 160).0[0] < faded[0]);
    }
}
