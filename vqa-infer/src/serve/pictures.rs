//! Pictures as the model sees them.

use sha2::{Digest, Sha256};
use vqa_data::features::ImageRegions;

/// Identifies a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ImageKey {
    /// An image of the split, by its id.
    OfSplit(u64),
    /// A picture that somebody sent, by its SHA-256.
    Sent([u8; 32]),
}

/// The regions of a picture.
#[derive(Debug)]
pub(super) struct Picture {
    pub regions: ImageRegions,
    /// Width and height in pixels, if known.
    pub size: Option<[u32; 2]>,
}

impl Picture {
    /// Its size in memory.
    pub fn n_bytes(&self) -> usize {
        size_of::<Picture>() + 4 * (self.regions.features.len() + self.regions.boxes.len())
    }
}

impl ImageKey {
    /// The key of a sent picture with these bytes.
    pub fn of_content(bytes: &[u8]) -> ImageKey {
        ImageKey::Sent(Sha256::digest(bytes).into())
    }

    /// The key of a sent picture, from the name that clients know it by.
    pub fn from_name(name: &str) -> Option<ImageKey> {
        let mut digest = [0; 32];
        if name.len() != 64 || !name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&name[pair..pair + 2], 16).ok()?;
        }
        Some(ImageKey::Sent(digest))
    }

    /// The name that clients know a picture by: the id of an image, or 64 hexadecimal digits.
    pub fn name(&self) -> String {
        match self {
            ImageKey::OfSplit(image_id) => image_id.to_string(),
            ImageKey::Sent(digest) => digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1: the digest of "abc".
    #[test]
    fn pictures_are_known_by_their_content() {
        let key = ImageKey::of_content(b"abc");
        assert_eq!(key.name(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(ImageKey::from_name(&key.name()), Some(key));
        for no_name in ["", "ba78", &"g".repeat(64), &"é".repeat(32), &"A".repeat(64)] {
            assert_eq!(ImageKey::from_name(no_name), None, "{no_name}");
        }
    }
}
