//! Limits that apply before decoding, and the memory that decoding uses.

use super::*;

#[test]
fn a_bomb_is_refused_before_it_is_decoded() {
    // The header announces 2.7 GB of pixels but the data is a few bytes, so decoding would give a different error.
    let bytes = png_of(&[(b"IHDR", &header(30_000, 30_000, 8, 2)), (b"IDAT", &zlib(&[0; 2_000])), (b"IEND", &[])]);
    assert!(bytes.len() < 4_000);
    assert_eq!(error_of(&bytes), "image is 30,000 x 30,000; the limit is 16,384 on a side / 64 megapixels");
    let wide = png_of(&[(b"IHDR", &header(u32::MAX, 1, 8, 2)), (b"IDAT", &zlib(&[0])), (b"IEND", &[])]);
    assert!(error_of(&wide).starts_with("image is 4,294,967,295 x 1;"));
    let many = png_of(&[(b"IHDR", &header(10_000, 10_000, 8, 2)), (b"IDAT", &zlib(&[0])), (b"IEND", &[])]);
    assert!(error_of(&many).starts_with("image is 10,000 x 10,000;"));
}

#[test]
fn jpeg_and_webp_bombs_are_refused_by_their_headers() {
    let mut jpeg = encode_image(&photo(), Format::Jpeg, 90).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    assert!(error_of(&jpeg).starts_with("image is 60,000 x 60,000;"), "{}", error_of(&jpeg));
    let mut webp = encode_image(&photo(), Format::Webp, 90).unwrap();
    let header = webp.windows(4).position(|four| four == b"VP8L").unwrap() + 9;
    let dimensions = 16_382u32 | 16_382 << 14;
    webp[header..header + 4].copy_from_slice(&dimensions.to_le_bytes());
    assert!(error_of(&webp).starts_with("image is 16,383 x 16,383;"), "{}", error_of(&webp));
}

/// Builds a WebP from the given chunks, each of an even length.
pub(super) fn webp_of(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let body = riff_of(chunks);
    [&b"RIFF"[..], &(body.len() as u32 + 4).to_le_bytes(), b"WEBP", &body[..]].concat()
}

fn riff_of(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    chunks.iter().flat_map(|(kind, data)| [&kind[..], &(data.len() as u32).to_le_bytes(), *data].concat()).collect()
}

/// Builds the header of a lossy frame without pixels.
fn lossy_frame(width: u16, height: u16) -> Vec<u8> {
    [&[0x10, 0, 0, 0x9D, 0x01, 0x2A][..], &width.to_le_bytes(), &height.to_le_bytes()].concat()
}

#[test]
fn a_large_frame_on_a_small_canvas_is_refused() {
    // One pixel: width and height are stored minus one.
    let still = (b"VP8X", &[0u8; 10][..]);
    let lossy = lossy_frame(16_383, 16_383);
    assert!(error_of(&webp_of(&[still, (b"VP8 ", &lossy)])).starts_with("image is 16,383 x 16,383;"));
    let lossless = [&[0x2F][..], &(16_382u32 | 16_382 << 14).to_le_bytes(), &[0]].concat();
    assert!(error_of(&webp_of(&[still, (b"VP8L", &lossless)])).starts_with("image is 16,383 x 16,383;"));
    // A chunk after the container's end is not read.
    let tail = riff_of(&[(b"VP8 ", &lossy)]);
    let long = [still.1, &[0; 100]].concat();
    assert!(error_of(&[webp_of(&[(b"VP8X", &long)]), tail].concat()).starts_with("webp file is damaged"));
    let picture = [vec![0; 16], riff_of(&[(b"VP8 ", &lossy)])].concat();
    let moving = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let animation = webp_of(&[(b"VP8X", &moving), (b"ANIM", &[0; 6]), (b"ANMF", &picture)]);
    assert!(error_of(&animation).starts_with("image is 16,383 x 16,383;"), "{}", error_of(&animation));
}

#[test]
fn the_memory_for_a_picture_is_known_from_its_header() {
    let limits = ImageLimits::default();
    let claiming = png_of(&[(b"IHDR", &header(4_000, 3_000, 16, 6)), (b"IDAT", b"rubbish"), (b"IEND", &[])]);
    assert!(decode(&claiming).is_err());
    let mut jpeg = encode_image(&photo(), Format::Jpeg, 90).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x0B, 0xB8, 0x0F, 0xA0]);
    let webp = encode_image(&RgbImage::new(4_000, 3_000), Format::Webp, 90).unwrap();
    // The frame determines the memory, not the canvas.
    let inner = webp_of(&[(b"VP8X", &[0; 10]), (b"VP8 ", &lossy_frame(4_000, 3_000))]);
    for bytes in [claiming, jpeg, webp, inner] {
        let needed = decoding_bytes(&bytes, &limits).unwrap();
        assert!((12_000_000 * 12..(1 << 30) / 5).contains(&needed), "{needed}");
    }
    let largest = png_of(&[(b"IHDR", &header(16_384, 3_906, 16, 6)), (b"IDAT", b"rubbish"), (b"IEND", &[])]);
    assert!(decoding_bytes(&largest, &limits).unwrap() <= 1 << 30);
}

#[test]
fn a_compressed_profile_counts_as_memory() {
    let (header, data, limits) = (header(1, 1, 8, 2), zlib(&[0, 1, 2, 3]), ImageLimits::default());
    let needed = |profile: &[u8]| {
        let chunks: [(&[u8; 4], &[u8]); 4] = [(b"IHDR", &header), (b"iCCP", profile), (b"IDAT", &data), (b"IEND", &[])];
        decoding_bytes(&png_of(&chunks), &limits).unwrap()
    };
    assert!(needed(&[0; 1_000]) > 1_000_000);
    assert!(needed(&[0; 1_000_000]) < 2 * limits.max_bytes, "no more than the decoder may inflate");
}

#[test]
fn without_decoding_the_same_is_refused() {
    let limits = ImageLimits::default();
    let huge = png_of(&[(b"IHDR", &header(30_000, 30_000, 8, 2)), (b"IDAT", &zlib(&[0])), (b"IEND", &[])]);
    let inner = webp_of(&[(b"VP8X", &[0; 10]), (b"VP8 ", &lossy_frame(16_383, 16_383))]);
    for bytes in [huge, inner, Vec::new(), b"hello".to_vec(), b"\x89PNG\r\n\x1a\n".to_vec()] {
        assert_eq!(decoding_bytes(&bytes, &limits).unwrap_err().to_string(), error_of(&bytes));
    }
    let small = ImageLimits { max_bytes: 10, ..limits };
    let bytes = encode_image(&photo(), Format::Png, 90).unwrap();
    assert!(matches!(decoding_bytes(&bytes, &small), Err(ImageError::TooManyBytes { .. })));
}

#[test]
fn the_limits_themselves_are_allowed() {
    let bytes = png(40, 30, &[9; 3_600], ExtendedColorType::Rgb8);
    let limits = ImageLimits { max_bytes: bytes.len() as u64, max_side: 40, max_pixels: 1_200 };
    assert!(decode_image(&bytes, &limits).is_ok());
    for tighter in [
        ImageLimits { max_side: 39, ..limits },
        ImageLimits { max_pixels: 1_199, ..limits },
        ImageLimits { max_bytes: limits.max_bytes - 1, ..limits },
    ] {
        assert!(decode_image(&bytes, &tighter).is_err(), "{tighter:?}");
    }
}

#[test]
fn a_compressed_profile_cannot_blow_up() {
    // A colour profile of 40 MB of zeros, which exceeds the limits (files of 1 MB, 1,000 pixels).
    let profile = [b"x\0\0".to_vec(), zlib(&vec![0; 40 << 20])].concat();
    let data = zlib(&[0, 1, 2, 3]);
    let bytes = png_of(&[(b"IHDR", &header(1, 1, 8, 2)), (b"iCCP", &profile), (b"IDAT", &data), (b"IEND", &[])]);
    assert!(error_of(&bytes[..bytes.len() - 4]).contains("cut off"));
    let limits = ImageLimits { max_bytes: 1 << 20, max_side: 100, max_pixels: 1_000 };
    assert!(matches!(decode_image(&bytes, &limits), Err(ImageError::TooManyBytes { .. })));
}

#[test]
fn an_animation_whose_frame_has_other_pixels_is_refused() {
    // With transparency the decoder compares neither the size nor the kind.
    let frame = |width: u8, kind: &[u8; 4]| {
        let picture = riff_of(&[(b"ALPH", &[0; 14]), (kind, &lossy_frame(4, 3))]);
        let header = [0, 0, 0, 0, 0, 0, width - 1, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        let moving = [0x12, 0, 0, 0, 3, 0, 0, 2, 0, 0];
        webp_of(&[(b"VP8X", &moving), (b"ANIM", &[0; 6]), (b"ANMF", &[&header[..], &picture].concat())])
    };
    let refused = |bytes: &[u8]| error_of(bytes).contains("a frame has no pixels of its size");
    assert!(refused(&frame(3, b"VP8 ")) && refused(&frame(4, b"VP9 ")) && !refused(&frame(4, b"VP8 ")));
}
