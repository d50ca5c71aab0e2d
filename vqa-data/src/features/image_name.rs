//! Image ids in file names.

/// The file extensions of pictures, in lower case.
pub(crate) const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Returns the image id in the name of a file, with or without directories and a picture's extension: the number that
/// the name ends in, such as 42 in `val2014/COCO_val2014_000000000042.jpg`. The number must be the whole name, or
/// follow `_` or `-`: the digits at the end of `003a8ae2ef43b901` belong to a hash.
pub(crate) fn image_id(name: &str) -> Option<u64> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let stem = match name.rsplit_once('.') {
        Some((stem, extension)) if is_picture_extension(extension) => stem,
        _ => name,
    };
    let before = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    // "-3" alone is a negative number, not an id.
    let is_number = before.is_empty() || (before.ends_with(['_', '-']) && before != "-");
    if is_number { stem[before.len()..].parse().ok() } else { None }
}

/// Whether this is a picture's extension, in upper or lower case.
pub(crate) fn is_picture_extension(extension: &str) -> bool {
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_of_their_own() {
        for (name, id) in [
            ("COCO_val2014_000000000042", 42),
            ("COCO_val2014_000000000042.jpg", 42),
            ("val2014/COCO_val2014_000000000042.JPG", 42),
            ("VizWiz_train_00000009.jpg", 9),
            ("2343", 2343),
            ("a\\photo-7.jpeg", 7),
            ("2012_000003.tiff", 3),
            ("0.png", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(image_id(name), Some(id), "{name}");
        }
        let hashes = ["003a8ae2ef43b901", "2b538a43dd933fc1.jpg", "b9dc400eb20bad64", "img_003a8ae2ef43b901"];
        let others = ["", ".jpg", "logo.png", "n161313.jpg", "12a", "9.npy", "x_18446744073709551616", "9/", "-3", "١"];
        for name in hashes.into_iter().chain(others) {
            assert_eq!(image_id(name), None, "{name}");
        }
    }
}
