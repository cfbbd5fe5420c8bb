//! What the fuzzer runs on files of its own; an ordinary test runs it on the committed corpus.

use crate::{ImageLimits, decode_as_published, decode_image, decoding_bytes};

/// Decodes a file in both ways and compares what is refused and how large the picture is with what was announced.
///
/// # Panics
///
/// If a promise of this crate does not hold for the file.
pub fn decode(bytes: &[u8]) {
    let limits = ImageLimits { max_bytes: 1 << 20, max_side: 2_048, max_pixels: 1 << 20 };
    let announced = decoding_bytes(bytes, &limits);
    let pictures = [decode_image(bytes, &limits), decode_as_published(bytes, &limits)];
    for picture in pictures {
        match (&announced, picture) {
            (Ok(announced), Ok(picture)) => {
                let pixels = u64::from(picture.width()) * u64::from(picture.height());
                assert!(pixels <= limits.max_pixels && pixels * 3 <= *announced, "{pixels} pixels, {announced} bytes");
            }
            (Ok(_), Err(error)) => {
                let text = error.to_string();
                assert!(text.len() < 400 && !text.contains(char::is_control), "{text:?}");
            }
            (Err(early), Err(late)) => assert_eq!(early.to_string(), late.to_string()),
            (Err(early), Ok(_)) => panic!("decoded although refused before: {early}"),
        }
    }
}
