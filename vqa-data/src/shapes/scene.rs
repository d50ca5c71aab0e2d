//! The content of an image.

use rand::Rng;
use rand::seq::SliceRandom;

/// Width and height of an image in pixels.
pub(super) const IMAGE_SIZE: [u32; 2] = [200, 160];

/// Side of a grid cell in pixels. A cell has at most one shape, near its centre. Neighbours may overlap.
pub(super) const CELL: u32 = 40;

pub(super) const COLORS: [(&str, [f32; 3]); 6] = [
    ("red", [0.86, 0.16, 0.18]),
    ("green", [0.20, 0.63, 0.27]),
    ("blue", [0.18, 0.38, 0.86]),
    ("yellow", [0.97, 0.83, 0.15]),
    ("purple", [0.56, 0.24, 0.70]),
    ("black", [0.13, 0.13, 0.16]),
];

pub(super) const KINDS: [&str; 5] = ["circle", "square", "triangle", "star", "cross"];

/// Each with its radius in pixels.
pub(super) const SIZES: [(&str, f32); 2] = [("small", 11.0), ("large", 19.0)];

/// The largest count that is asked for.
pub(super) const MAX_COUNT: usize = 4;

/// One shape in an image. `kind`, `color` and `size` are indices into the tables above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) kind: usize,
    pub(super) color: usize,
    pub(super) size: usize,
    pub(super) x: f32,
    pub(super) y: f32,
    /// Half the extent in pixels.
    pub(super) radius: f32,
    /// Sine and cosine of its angle of rotation.
    pub(super) turn: (f32, f32),
}

/// What a question says about a shape. `None` leaves an attribute open.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Description {
    pub(super) size: Option<usize>,
    pub(super) color: Option<usize>,
    pub(super) kind: Option<usize>,
}

impl Description {
    pub(super) fn fits(&self, shape: &Shape) -> bool {
        self.size.is_none_or(|size| size == shape.size)
            && self.color.is_none_or(|color| color == shape.color)
            && self.kind.is_none_or(|kind| kind == shape.kind)
    }

    /// "small red star", "blue shape".
    pub(super) fn words(&self) -> String {
        let size = self.size.map(|size| SIZES[size].0);
        let color = self.color.map(|color| COLORS[color].0);
        let kind = self.kind.map_or("shape", |kind| KINDS[kind]);
        size.into_iter().chain(color).chain([kind]).collect::<Vec<_>>().join(" ")
    }
}

/// An image's content.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scene {
    pub(super) shapes: Vec<Shape>,
    /// What the counting question asks for: a colour or a kind, placed with a count drawn uniformly from 0 to 4.
    pub(super) counted: Description,
}

impl Scene {
    pub(super) fn random(rng: &mut impl Rng) -> Scene {
        let counted = if rng.random() {
            Description { color: Some(rng.random_range(0..COLORS.len())), ..Description::default() }
        } else {
            Description { kind: Some(rng.random_range(0..KINDS.len())), ..Description::default() }
        };
        let n_counted = rng.random_range(0..=MAX_COUNT);
        let n_others = rng.random_range(if n_counted < 2 { 2..=4 } else { 0..=3 });
        let mut shapes: Vec<Shape> = Vec::new();
        for (i, (x, y)) in shape_centers(rng).into_iter().take(n_counted + n_others).enumerate() {
            let wanted = i < n_counted;
            shapes.push(loop {
                let size = rng.random_range(0..SIZES.len());
                let angle: f32 = rng.random_range(-0.25..0.25);
                let shape = Shape {
                    kind: counted.kind.filter(|_| wanted).unwrap_or_else(|| rng.random_range(0..KINDS.len())),
                    color: counted.color.filter(|_| wanted).unwrap_or_else(|| rng.random_range(0..COLORS.len())),
                    size,
                    x,
                    y,
                    radius: SIZES[size].1 * rng.random_range(0.9..1.1),
                    turn: angle.sin_cos(),
                };
                if counted.fits(&shape) == wanted {
                    break shape;
                }
            });
        }
        // Later shapes lie on top: shuffle, so that this does not depend on what is asked.
        shapes.shuffle(rng);
        Scene { shapes, counted }
    }

    pub(super) fn count(&self, description: Description) -> usize {
        self.shapes.iter().filter(|shape| description.fits(shape)).count()
    }

    /// Whether exactly one shape fits.
    pub(super) fn is_unique(&self, description: Description) -> bool {
        self.count(description) == 1
    }
}

/// The centres of all cells, in random order, each slightly shifted.
pub(super) fn shape_centers(rng: &mut impl Rng) -> Vec<(f32, f32)> {
    const JITTER: f32 = 6.0;
    let [columns, rows] = IMAGE_SIZE.map(|length| length / CELL);
    let mut centers: Vec<(f32, f32)> = (0..columns * rows)
        .map(|cell| {
            let middle = |i: u32| (i as f32 + 0.5) * CELL as f32;
            let mut shifted = |i: u32| middle(i) + rng.random_range(-JITTER..JITTER);
            (shifted(cell % columns), shifted(cell / columns))
        })
        .collect();
    centers.shuffle(rng);
    centers
}
