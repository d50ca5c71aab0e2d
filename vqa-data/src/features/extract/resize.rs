//! Resizing of pictures.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use serde::{Deserialize, Serialize};

/// How the pixels of a resized picture are computed: as in Pillow's `Image.resize`, whose filters widen as the picture
/// shrinks, so that fine detail does not alias. Values are within 1 of Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// A triangle, `Image.BILINEAR`, as in torchvision's transforms.
    #[default]
    Bilinear,
    /// Cubics with a = -1/2, `Image.BICUBIC`.
    Bicubic,
}

impl Filter {
    /// Resizes a picture to this height and width, in pixels.
    ///
    /// # Panics
    ///
    /// When the picture has no pixels.
    pub fn resize(self, picture: &RgbImage, [height, width]: [u32; 2]) -> RgbImage {
        // In Pillow's order, with bytes in between: the other order rounds differently.
        let wide = self.resize_plainly(picture, width, picture.height());
        self.resize_plainly(&wide, width, height)
    }

    fn resize_plainly(self, picture: &RgbImage, width: u32, height: u32) -> RgbImage {
        if picture.dimensions() == (width, height) {
            return picture.clone();
        }
        // For one pixel type only, since the code for all of them takes minutes to compile.
        let from = TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture.as_raw())
            .expect("a picture has three bytes a pixel");
        let mut resized = RgbImage::new(width, height);
        let mut to = TypedImage::<U8x3>::from_buffer(width, height, &mut resized).expect("so has this");
        let filter = match self {
            Filter::Bilinear => FilterType::Bilinear,
            Filter::Bicubic => FilterType::CatmullRom,
        };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        Resizer::new().resize_typed(&from, &mut to, &options).expect("both pictures have pixels");
        resized
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Pillow 13.0: `Image.frombytes("RGB", (9, 7), …).resize((width, height), filter)`, with pixels as below.
    #[test]
    fn pictures_are_resized_as_pillow_does_it() {
        let picture = RgbImage::from_fn(9, 7, |x, y| {
            image::Rgb([x * 29 + y * 53, x * x * 7 + y * 31, x * y * 37].map(|value| value as u8))
        });
        let smaller: [(Filter, [u8; 36]); 2] = [
            (
                Filter::Bilinear,
                [
                    69, 36, 26, 128, 90, 77, 168, 155, 98, 111, 153, 41, 156, 102, 77, 145, 148, 136, 108, 119, 122,
                    114, 134, 79, 84, 168, 106, 103, 172, 133, 159, 107, 121, 151, 133, 99,
                ],
            ),
            (
                Filter::Bicubic,
                [
                    60, 26, 21, 131, 86, 75, 176, 159, 100, 107, 155, 35, 167, 98, 73, 147, 156, 145, 100, 118, 130,
                    113, 134, 79, 81, 175, 106, 98, 175, 138, 165, 100, 118, 153, 133, 100,
                ],
            ),
        ];
        // The first of five rows, wider than the picture is.
        let wider: [(Filter, [u8; 39]); 2] = [
            (
                Filter::Bilinear,
                [
                    18, 10, 0, 34, 14, 6, 54, 22, 15, 74, 36, 24, 94, 60, 32, 114, 88, 41, 134, 122, 49, 154, 166, 58,
                    174, 182, 67, 188, 171, 68, 148, 115, 18, 148, 145, 7, 164, 202, 13,
                ],
            ),
            (
                Filter::Bicubic,
                [
                    11, 7, 0, 26, 9, 4, 49, 18, 11, 69, 33, 16, 89, 55, 21, 109, 84, 33, 129, 119, 49, 148, 167, 56,
                    178, 192, 64, 199, 181, 63, 151, 104, 13, 151, 139, 1, 172, 205, 9,
                ],
            ),
        ];
        let close = |found: &[u8], expected: &[u8]| found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 1);
        for (filter, expected) in smaller {
            let found = filter.resize(&picture, [3, 4]);
            assert_eq!(found.dimensions(), (4, 3));
            assert!(close(&found, &expected), "{filter:?} {found:?}");
        }
        for (filter, expected) in wider {
            let found = filter.resize(&picture, [5, 13]);
            assert!(close(&found, &expected), "{filter:?} {found:?}");
        }
        assert_eq!(Filter::Bilinear.resize(&picture, [7, 9]), picture);
        let pixel = RgbImage::from_pixel(1, 1, image::Rgb([7, 8, 9]));
        assert_eq!(Filter::Bicubic.resize(&pixel, [2, 3]), RgbImage::from_pixel(3, 2, image::Rgb([7, 8, 9])));
    }
}
