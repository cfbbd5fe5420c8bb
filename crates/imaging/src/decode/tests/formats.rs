//! GIF, BMP and TIFF: variants, first pictures, truncated files.

use super::*;

fn all_formats(picture: &RgbImage) -> Vec<(ImageFormat, Vec<u8>)> {
    let picture = DynamicImage::ImageRgb8(picture.clone());
    [ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff].map(|format| (format, encoded(&picture, format))).into()
}

#[test]
fn gif_bmp_and_tiff_are_read() {
    for (format, bytes) in all_formats(&photo()) {
        let picture = decode(&bytes).unwrap();
        if format == ImageFormat::Gif {
            // The encoder reduces the colours to 256.
            assert_eq!(picture.dimensions(), photo().dimensions());
            let sum: u64 = picture.iter().zip(photo().iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            assert!(sum / (64 * 48 * 3) < 16, "{sum}");
        } else {
            assert_eq!(picture, photo(), "{format:?}");
        }
    }
}

#[test]
fn grey_and_sixteen_bits_and_transparency_of_tiff_are_read() {
    let tiff = |picture: DynamicImage| decode(&encoded(&picture, ImageFormat::Tiff)).unwrap();
    let grey = DynamicImage::ImageRgb8(photo()).to_luma8();
    assert_eq!(tiff(grey.clone().into()), DynamicImage::ImageLuma8(grey).to_rgb8());
    let wide = DynamicImage::ImageRgb8(photo()).to_rgb16();
    assert_eq!(tiff(wide.into()), photo());
    let clear = image::RgbaImage::from_pixel(2, 1, image::Rgba([10, 20, 30, 0]));
    assert_eq!(tiff(clear.into()).as_raw(), &[255; 6]);
}

#[test]
fn a_tiff_cut_off_anywhere_is_refused_and_a_gif_within_its_first_picture() {
    for (format, bytes) in all_formats(&photo()) {
        // A GIF may lack what follows the first picture; here one byte.
        let whole = if format == ImageFormat::Gif { bytes.len() - 1 } else { bytes.len() };
        assert!(decode(&bytes[..whole]).is_ok(), "{format:?}");
        for length in 0..whole {
            assert!(decode(&bytes[..length]).is_err(), "{format:?}: {length} of {whole} bytes");
        }
        assert!(error_of(&bytes[..whole / 2]).contains("ends too early"), "{format:?}");
    }
}

/// A GIF of 4 x 2 pixels whose picture of one colour has the given size, without compression to speak of.
fn gif(size: [u8; 2], transparent: bool) -> Vec<u8> {
    let control = [0x21, 0xF9, 4, u8::from(transparent), 0, 0, 1, 0];
    let screen = [4, 0, 2, 0, 0x80, 0, 0, 1, 2, 3, 200, 100, 50];
    let picture = [0x2C, 0, 0, 0, 0, size[0], 0, size[1], 0, 0, 2];
    // Clear (4), then the colour 1 and a clear again for each pixel, end (5), in codes of three bits.
    let codes: Vec<u8> = (0..size[0] as usize * size[1] as usize).flat_map(|_| [4, 1]).chain([5]).collect();
    let mut data = vec![0; codes.len() * 3 / 8 + 1];
    for (index, code) in codes.iter().enumerate() {
        for bit in 0..3 {
            data[(index * 3 + bit) / 8] |= (code >> bit & 1) << ((index * 3 + bit) % 8);
        }
    }
    [b"GIF89a", &screen[..], &control, &picture, &[data.len() as u8], &data, &[0, 0x3B]].concat()
}

#[test]
fn around_a_gifs_picture_and_through_its_transparent_colour_it_is_white() {
    let colour = [200, 100, 50];
    assert_eq!(decode(&gif([4, 2], false)).unwrap().as_raw(), &colour.repeat(8));
    let part = decode(&gif([1, 1], false)).unwrap();
    assert_eq!(part.as_raw(), &[&colour[..], &[255; 21]].concat());
    assert_eq!(decode(&gif([4, 2], true)).unwrap().as_raw(), &[255; 24]);
}

#[test]
fn of_a_gif_and_a_tiff_the_first_picture_is_taken() {
    let first = gif([4, 2], false);
    let second = &gif([4, 2], true)[19..];
    let both = [&first[..first.len() - 1], second].concat();
    assert_eq!(decode(&both).unwrap(), decode(&first).unwrap());
    // Whatever comes after the first picture.
    let broken = [&first[..first.len() - 1], b"\x2C\xFF\xFF\xFF"].concat();
    assert_eq!(decode(&broken).unwrap(), decode(&first).unwrap());

    let page = encoded(&DynamicImage::ImageRgb8(photo()), ImageFormat::Tiff);
    assert_eq!(decode(&[&page[..], b"more pages"].concat()).unwrap(), photo());
}

#[test]
fn headers_of_gif_bmp_and_tiff_are_held_to_the_limits() {
    let mut gif_screen = gif([4, 2], false);
    gif_screen[6..10].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF]);
    assert!(error_of(&gif_screen).starts_with("image is 65,535 x 65,535;"));
    let mut gif_picture = gif([4, 2], false);
    gif_picture[32..36].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF]);
    assert!(error_of(&gif_picture).starts_with("image is 65,535 x 65,535;"), "{}", error_of(&gif_picture));
    let mut bmp = encoded(&DynamicImage::ImageRgb8(photo()), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&30_000u32.to_le_bytes());
    assert!(error_of(&bmp).starts_with("image is 30,000 x 48;"));
    bmp[18..22].copy_from_slice(&(-30_000i32).to_le_bytes());
    assert!(decode(&bmp).is_err());
    let tiff = encoded(&DynamicImage::ImageRgb8(photo()), ImageFormat::Tiff);
    let width = tiff.windows(8).position(|entry| entry == [0, 1, 4, 0, 1, 0, 0, 0]).unwrap() + 8;
    let mut wide = tiff;
    wide[width..width + 4].copy_from_slice(&30_000u32.to_le_bytes());
    assert!(error_of(&wide).starts_with("image is 30,000 x 48;"));
}

#[test]
fn a_bitmap_stored_from_the_top_and_one_of_os2_are_read() {
    let rows = [[3, 2, 1, 6, 5, 4, 0, 0], [9, 8, 7, 12, 11, 10, 0, 0]].concat();
    let header = |height: i32| {
        let size = [&2i32.to_le_bytes()[..], &height.to_le_bytes(), &[1, 0, 24, 0], &[0; 24]].concat();
        [b"BM", &[0; 8][..], &54u32.to_le_bytes(), &40u32.to_le_bytes(), &size].concat()
    };
    let top_down = decode(&[header(-2), rows.clone()].concat()).unwrap();
    assert_eq!(top_down.as_raw(), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let bottom_up = decode(&[header(2), rows.clone()].concat()).unwrap();
    assert_eq!(bottom_up, image::imageops::flip_vertical(&top_down));
    let os2 = [b"BM", &[0; 8][..], &26u32.to_le_bytes(), &12u32.to_le_bytes(), &[2, 0, 2, 0, 1, 0, 24, 0]].concat();
    assert_eq!(decode(&[os2, rows].concat()).unwrap(), bottom_up);
}

#[test]
fn a_hostile_byte_in_gif_bmp_or_tiff_is_an_error_or_a_picture() {
    let limits = ImageLimits { max_bytes: 1 << 20, max_side: 512, max_pixels: 100_000 };
    let mut state = 3u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (_, bytes) in all_formats(&photo()) {
        for _ in 0..3_000 {
            let mut hostile = bytes.clone();
            for _ in 0..1 + draw(3) {
                // The headers are at the start, and those of TIFF at the end.
                let place = draw(hostile.len().min(200));
                let place = if draw(2) == 0 { place } else { hostile.len() - 1 - place };
                hostile[place] = [0, 1, 0x7F, 0xFF, draw(256) as u8][draw(5)];
            }
            if let Ok(picture) = decode_image(&hostile, &limits) {
                assert!(u64::from(picture.width()) * u64::from(picture.height()) <= limits.max_pixels);
            }
        }
    }
}

#[test]
fn a_tiff_with_jpeg_inside_or_with_a_tag_twice_is_refused() {
    let tiff = encoded(&DynamicImage::ImageRgb8(photo()), ImageFormat::Tiff);
    let compression = tiff.windows(8).position(|entry| entry == [3, 1, 3, 0, 1, 0, 0, 0]).unwrap();
    let mut jpeg = tiff.clone();
    jpeg[compression + 8] = 7;
    assert!(error_of(&jpeg).starts_with("this flavour of tiff is not supported"), "{}", error_of(&jpeg));
    let mut twice = tiff;
    twice.copy_within(compression..compression + 12, compression + 12);
    assert!(error_of(&twice).contains("the tag 259 twice"), "{}", error_of(&twice));
}
