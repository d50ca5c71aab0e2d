//! The styles in which to draw where a model looked.

use std::fmt;

use image::RgbImage;

use crate::attention_map::{AttentionMapStyle, attention_map};
use crate::heat_map::heat_map;
use crate::numbered_boxes::numbered_boxes;

/// How attention over a picture's regions is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MapStyle {
    /// As in the article: unattended parts fade into white, and the most attended box has a frame. See
    /// [`attention_map`].
    #[default]
    Article,
    /// A heat map over the picture, from black where nothing is attended to yellow where most is, and a frame around
    /// the most attended box.
    Heat,
    /// Frames around the ten most attended boxes, numbered by rank.
    Boxes,
}

impl MapStyle {
    /// All styles.
    pub const ALL: [MapStyle; 3] = [MapStyle::Article, MapStyle::Heat, MapStyle::Boxes];

    /// Draws `attention` `[K]` over `boxes` `[K]`, x1 y1 x2 y2 in pixels, on a picture. Boxes may reach outside the
    /// picture or be empty. The result has the picture's size, except that [`MapStyle::Boxes`] enlarges a small picture
    /// by a whole factor to make room for the numbers.
    pub fn draw(self, picture: &RgbImage, boxes: &[[f32; 4]], attention: &[f32]) -> RgbImage {
        match self {
            MapStyle::Article => attention_map(picture, boxes, attention, &AttentionMapStyle::default()),
            MapStyle::Heat => heat_map(picture, boxes, attention),
            MapStyle::Boxes => numbered_boxes(picture, boxes, attention),
        }
    }

    /// The style's name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            MapStyle::Article => "article",
            MapStyle::Heat => "heat",
            MapStyle::Boxes => "boxes",
        }
    }
}

impl fmt::Display for MapStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::attention_map::ODD_BOXES;

    #[test]
    fn odd_boxes_and_pictures_of_any_size_do_no_harm() {
        let odd = ODD_BOXES;
        for style in MapStyle::ALL {
            for (width, height) in [(0, 0), (1, 1), (3, 50), (40, 30), (700, 2)] {
                let picture = RgbImage::from_pixel(width, height, Rgb([10, 20, 30]));
                for attention in [[0.1, 0.1, 0.3, 0.2, 0.2, 0.1], [0.0; 6], [f32::NAN; 6]] {
                    let drawn = style.draw(&picture, &odd, &attention);
                    assert!(drawn.width() >= width && drawn.height() >= height, "{style} {width} x {height}");
                    style.draw(&picture, &odd[..1], &attention);
                }
                style.draw(&picture, &[], &[]);
            }
        }
    }
}
