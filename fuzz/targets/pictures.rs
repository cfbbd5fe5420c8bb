//! Pictures of every format: what is announced, refused and decoded must agree.

use echogen_imaging::{ImageError, ImageLimits, decode_as_published, decode_image, decoding_bytes};

pub(crate) fn run(data: &[u8]) {
    let limits = ImageLimits { max_bytes: 1 << 20, max_side: 2_048, max_pixels: 1 << 20 };
    let announced = decoding_bytes(data, &limits);
    for picture in [decode_image(data, &limits), decode_as_published(data, &limits)] {
        match (&announced, picture) {
            (Ok(announced), Ok(picture)) => {
                let pixels = u64::from(picture.width()) * u64::from(picture.height());
                assert!(pixels <= limits.max_pixels && pixels * 3 <= *announced, "{pixels} pixels, {announced} bytes");
            }
            (Ok(_), Err(error)) => check(&error),
            (Err(early), Err(late)) => {
                check(early);
                assert_eq!(early.to_string(), late.to_string());
            }
            (Err(early), Ok(_)) => panic!("decoded although refused before: {early}"),
        }
    }
}

/// Checks that an error is one short line without invisible characters.
fn check(error: &ImageError) {
    let text = error.to_string();
    assert!(text.chars().count() < 400, "{text:?}");
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!text.contains(odd), "{text:?}");
}
