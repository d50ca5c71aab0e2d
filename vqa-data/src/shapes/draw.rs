//! Drawing the images.

use image::{Rgb, RgbImage};
use rand::Rng;

use crate::shapes::scene::{COLORS, IMAGE_SIZE, KINDS, Scene, Shape};

impl Scene {
    /// Draws the scene on a light background, with three by three samples per pixel.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> RgbImage {
        const SAMPLES: u32 = 3;
        let [width, height] = IMAGE_SIZE;
        let top: [f32; 3] = std::array::from_fn(|_| rng.random_range(0.80..0.97));
        let bottom: [f32; 3] = std::array::from_fn(|_| rng.random_range(0.68..0.90));
        let tints: Vec<[f32; 3]> = self
            .shapes
            .iter()
            .map(|shape| COLORS[shape.color].1.map(|c| (c + rng.random_range(-0.05..0.05)).clamp(0.0, 1.0)))
            .collect();
        let mut image = RgbImage::new(width, height);
        let mut near: Vec<(&Shape, &[f32; 3])> = Vec::new();
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            let ground: [f32; 3] = std::array::from_fn(|c| top[c] + (bottom[c] - top[c]) * y as f32 / height as f32);
            near.clear();
            near.extend(self.shapes.iter().zip(&tints).filter(|(shape, _)| shape.is_near(x as f32, y as f32)));
            // One sample is enough where there is only background.
            let samples = if near.is_empty() { 1 } else { SAMPLES };
            let mut sum = [0.0f32; 3];
            for sample in 0..samples * samples {
                let offset = |i: u32| (i as f32 + 0.5) / samples as f32;
                let (px, py) = (x as f32 + offset(sample % samples), y as f32 + offset(sample / samples));
                let mut color = ground;
                for &(shape, tint) in &near {
                    // A soft shadow to the lower right, then the shape with a darker rim.
                    if shape.covers(px - 2.5, py - 3.0, 1.0) {
                        color = color.map(|c| c * 0.82);
                    }
                    if shape.covers(px, py, 1.0) {
                        let rim = if shape.covers(px, py, 1.0 - 2.2 / shape.radius) { 1.0 } else { 0.72 };
                        color = tint.map(|c| c * rim);
                    }
                }
                for c in 0..3 {
                    sum[c] += color[c];
                }
            }
            let noise = rng.random_range(-0.012..0.012);
            *pixel =
                Rgb(sum.map(|c| ((c / (samples * samples) as f32 + noise) * 255.0).round().clamp(0.0, 255.0) as u8));
        }
        image
    }
}

impl Shape {
    /// Whether the shape or its shadow may reach the pixel.
    fn is_near(&self, px: f32, py: f32) -> bool {
        let reach = 1.2 * self.radius + 5.0;
        (px - self.x).abs() < reach && (py - self.y).abs() < reach
    }

    /// Whether the shape, scaled about its centre, covers a point of the image.
    fn covers(&self, px: f32, py: f32, scale: f32) -> bool {
        let (sin, cos) = self.turn;
        let (dx, dy) = ((px - self.x) / (self.radius * scale), (py - self.y) / (self.radius * scale));
        // In the shape's own frame, where it lies within the unit circle or close to it.
        let (x, y) = (dx * cos + dy * sin, dy * cos - dx * sin);
        match KINDS[self.kind] {
            "circle" => x * x + y * y < 0.9,
            "square" => x.abs().max(y.abs()) < 0.82,
            "triangle" => y < 0.75 && y > 1.9 * x.abs() - 1.0,
            "star" => {
                // Five points: the distance to the edge falls and rises five times around.
                let angle = x.atan2(-y).rem_euclid(std::f32::consts::TAU / 5.0) - std::f32::consts::PI / 5.0;
                let (outer, inner) = (1.08f32, 0.46f32);
                let step = std::f32::consts::PI / 5.0;
                // The edge runs straight from an inner corner (angle 0) to an outer one (angle ±step).
                let edge =
                    outer * inner * step.sin() / (outer * (step - angle.abs()).sin() + inner * angle.abs().sin());
                x.hypot(y) < edge
            }
            _ => (x.abs() < 0.32 && y.abs() < 0.98) || (y.abs() < 0.32 && x.abs() < 0.98),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The topmost shape has its own colour at its centre.
    #[test]
    fn shapes_are_drawn_in_their_colours() {
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let scene = Scene::random(&mut rng);
            let image = scene.draw(&mut rng);
            let top = scene.shapes.last().unwrap();
            let tint = COLORS[top.color].1.map(|c| c * 255.0);
            let pixel = image.get_pixel(top.x as u32, top.y as u32);
            let off = (0..3).map(|c| (f32::from(pixel.0[c]) - tint[c]).abs()).fold(0.0, f32::max);
            assert!(off < 20.0, "{top:?} {pixel:?}");
        }
    }
}
