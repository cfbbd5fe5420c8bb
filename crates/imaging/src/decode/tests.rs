//! Decoding of every supported variant, and of damaged and hostile files.

use std::io::Cursor;

use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};

use super::{ImageLimits, decode_as_published, decode_image, decoding_bytes};
use crate::ImageError;
use crate::{ImageFormat as Format, encode_image};

mod foreign;
mod formats;
mod limits;
mod orientation;
mod profiles;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/preprocess");
const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/pictures");

fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    decode_image(bytes, &ImageLimits::default())
}

fn error_of(bytes: &[u8]) -> String {
    let text = decode(bytes).unwrap_err().to_string();
    assert!(!text.contains('\n') && text.len() < 300, "{text}");
    text
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(width: u32, height: u32, pixels: &[u8], colour: ExtendedColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes).write_image(pixels, width, height, colour).unwrap();
    bytes
}

fn photo() -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, ((x * y) % 256) as u8]))
}

/// Builds a PNG from the given chunks.
fn png_of(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(*kind);
        bytes.extend(*data);
        bytes.extend(crc32(kind.iter().chain(*data)).to_be_bytes());
    }
    bytes
}

fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Returns the data as a zlib stream of stored blocks.
fn zlib(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = data.chunks(60_000).count();
    for (index, block) in data.chunks(60_000).enumerate() {
        stream.push(u8::from(index + 1 == blocks));
        stream.extend((block.len() as u16).to_le_bytes());
        stream.extend((!(block.len() as u16)).to_le_bytes());
        stream.extend(block);
    }
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

fn header(width: u32, height: u32, bits: u8, colour: u8) -> Vec<u8> {
    [&width.to_be_bytes()[..], &height.to_be_bytes(), &[bits, colour, 0, 0, 0]].concat()
}

/// Returns the decoded pixels that the fixture gives for a file.
fn published(name: &str) -> RgbImage {
    let tensors = candle_core::safetensors::load(format!("{FIXTURES}/io.safetensors"), &candle_core::Device::Cpu);
    let tensor = tensors.unwrap().remove(&format!("in.{name}.decoded")).unwrap();
    let (height, width, _) = tensor.dims3().unwrap();
    RgbImage::from_raw(width as u32, height as u32, tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
}

fn worst_difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn the_published_reading_equals_pillow() {
    // JPEG decoders may differ in the inverse transform and in chroma upsampling.
    for (file, tolerance) in
        [("grey.png", 0), ("landscape.png", 0), ("portrait.png", 0), ("rgba.png", 0), ("exif6.jpg", 6)]
    {
        let bytes = std::fs::read(format!("{FIXTURES}/{file}")).unwrap();
        let decoded = decode_as_published(&bytes, &ImageLimits::default()).unwrap();
        let worst = worst_difference(&decoded, &published(file.split('.').next().unwrap()));
        assert!(worst <= tolerance, "{file}: {worst} levels");
    }
}

#[test]
fn exif_orientation_turns_the_picture_upright() {
    let bytes = std::fs::read(format!("{FIXTURES}/exif6.jpg")).unwrap();
    let upright = decode(&bytes).unwrap();
    assert_eq!(upright.dimensions(), (75, 110));
    let stored = decode_as_published(&bytes, &ImageLimits::default()).unwrap();
    assert_eq!(upright, image::imageops::rotate90(&stored));
}

#[test]
fn exif_orientation_is_applied_to_wide_and_transparent_pictures_too() {
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let upright = |bits: u8, colour: u8, row: &[u8]| {
        let data = zlib(row);
        let header = header(2, 1, bits, colour);
        decode(&png_of(&[(b"IHDR", &header), (b"eXIf", exif), (b"IDAT", &data), (b"IEND", &[])])).unwrap()
    };
    let eight = upright(8, 6, &[0, 10, 20, 30, 0, 10, 20, 30, 255]);
    assert_eq!((eight.dimensions(), eight.as_raw().as_slice()), ((1, 2), &[255, 255, 255, 10, 20, 30][..]));
    let clear = [0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 0xFF, 0xFF, 0x80, 0x80, 0, 0, 0xFF, 0xFF];
    let sixteen = upright(16, 6, &clear);
    assert_eq!((sixteen.dimensions(), sixteen.as_raw().as_slice()), ((1, 2), &[127, 127, 127, 255, 128, 0][..]));
    let opaque = upright(16, 2, &[0, 0, 0, 0x80, 0x80, 0xFF, 0xFF, 0x01, 0x82, 0, 0, 0, 0xFF]);
    assert_eq!((opaque.dimensions(), opaque.as_raw().as_slice()), ((1, 2), &[0, 128, 255, 2, 0, 1][..]));
}

#[test]
fn damaged_exif_is_ignored() {
    let data = zlib(&[0, 1, 2, 3]);
    let bytes =
        png_of(&[(b"IHDR", &header(1, 1, 8, 2)), (b"eXIf", b"II*\0\xff\xff"), (b"IDAT", &data), (b"IEND", &[])]);
    assert_eq!(decode(&bytes).unwrap().as_raw(), &[1, 2, 3]);
}

#[test]
fn transparency_is_put_on_white_with_rounding() {
    let pixels = [10, 20, 30, 0, 10, 20, 30, 255, 0, 100, 255, 128, 0, 0, 0, 1];
    let picture = decode(&png(4, 1, &pixels, ExtendedColorType::Rgba8)).unwrap();
    // Alpha 128/255 on white: 255 * 127 / 255 = 127 and (100 * 128 + 255 * 127) / 255 = 177.2; nearly transparent:
    // 254.
    assert_eq!(picture.as_raw(), &[255, 255, 255, 10, 20, 30, 127, 177, 255, 254, 254, 254]);
    let published =
        decode_as_published(&png(4, 1, &pixels, ExtendedColorType::Rgba8), &ImageLimits::default()).unwrap();
    assert_eq!(&published.as_raw()[..3], &[10, 20, 30]);
}

#[test]
fn blending_is_the_nearest_level_for_every_value_and_alpha() {
    for value in 0..=255u8 {
        for alpha in 0..=255u8 {
            let exact = (f64::from(value) * f64::from(alpha) + 255.0 * (255.0 - f64::from(alpha))) / 255.0;
            assert_eq!(super::Reading::AsSeen.on_white(value, alpha), exact.round() as u8, "{value} {alpha}");
            let wide = super::Reading::AsSeen.on_white_16(u16::from(value) * 257, u16::from(alpha) * 257);
            assert_eq!(wide, exact.round() as u8, "{value} {alpha}");
        }
    }
}

#[test]
fn grey_and_grey_with_alpha() {
    assert_eq!(decode(&png(2, 1, &[7, 200], ExtendedColorType::L8)).unwrap().as_raw(), &[7, 7, 7, 200, 200, 200]);
    let picture = decode(&png(2, 1, &[7, 255, 100, 128], ExtendedColorType::La8)).unwrap();
    assert_eq!(picture.as_raw(), &[7, 7, 7, 177, 177, 177]);
}

#[test]
fn palette_with_and_without_transparency_and_below_eight_bits() {
    let palette = [1, 2, 3, 100, 110, 120, 7, 8, 9, 0, 0, 0];
    let data = zlib(&[0, 0b00_01_10_00]);
    let opaque = [(b"IHDR", &header(3, 1, 2, 3)[..]), (b"PLTE", &palette), (b"IDAT", &data), (b"IEND", &[])];
    assert_eq!(decode(&png_of(&opaque)).unwrap().as_raw(), &[1, 2, 3, 100, 110, 120, 7, 8, 9]);
    let clear = [opaque[0], opaque[1], (b"tRNS", &[0, 128]), opaque[2], opaque[3]];
    assert_eq!(decode(&png_of(&clear)).unwrap().as_raw(), &[255, 255, 255, 177, 182, 187, 7, 8, 9]);
}

#[test]
fn one_bit_grey_and_a_transparent_colour() {
    let data = zlib(&[0, 0b1010_0000]);
    let bytes = png_of(&[(b"IHDR", &header(3, 1, 1, 0)), (b"IDAT", &data), (b"IEND", &[])]);
    assert_eq!(decode(&bytes).unwrap().as_raw(), &[255, 255, 255, 0, 0, 0, 255, 255, 255]);
    let data = zlib(&[0, 9, 9, 9, 5, 6, 7]);
    let chunks: [(&[u8; 4], &[u8]); 4] =
        [(b"IHDR", &header(2, 1, 8, 2)), (b"tRNS", &[0, 9, 0, 9, 0, 9]), (b"IDAT", &data), (b"IEND", &[])];
    assert_eq!(decode(&png_of(&chunks)).unwrap().as_raw(), &[255, 255, 255, 5, 6, 7]);
}

#[test]
fn sixteen_bits_are_rounded_to_eight() {
    // 0x00FF / 257 = 0.99, 0x0180 / 257 = 1.49, 0x0182 / 257 = 1.502.
    let values = [0x00FFu16, 0x0180, 0x0182, 0xFFFF, 0, 0x8080].map(u16::to_ne_bytes).concat();
    let bytes = png(2, 1, &values, ExtendedColorType::Rgb16);
    assert_eq!(decode(&bytes).unwrap().as_raw(), &[1, 1, 2, 255, 0, 128]);
    assert_eq!(decode_as_published(&bytes, &ImageLimits::default()).unwrap().as_raw(), &[0, 1, 1, 255, 0, 128]);
    let grey = [0x00FFu16, 0xFFFF].map(u16::to_ne_bytes).concat();
    assert_eq!(decode(&png(2, 1, &grey, ExtendedColorType::L16)).unwrap().as_raw(), &[1, 1, 1, 255, 255, 255]);
    let clear = [0u16, 0, 0, 0x8080].map(u16::to_ne_bytes).concat();
    assert_eq!(decode(&png(1, 1, &clear, ExtendedColorType::Rgba16)).unwrap().as_raw(), &[127, 127, 127]);
    assert_eq!(decode(&png(1, 1, &clear[4..], ExtendedColorType::La16)).unwrap().as_raw(), &[127, 127, 127]);
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = [
        encode_image(&photo(), Format::Png, 90).unwrap(),
        encode_image(&photo(), Format::Jpeg, 90).unwrap(),
        encode_image(&photo(), Format::Webp, 90).unwrap(),
        std::fs::read(format!("{FIXTURES}/exif6.jpg")).unwrap(),
    ];
    for bytes in whole {
        assert!(decode(&bytes).is_ok());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        assert!(
            error_of(&bytes[..bytes.len() / 2])
                .contains("ends too early, it was probably cut off; send the whole file")
        );
    }
}

#[test]
fn pixel_data_that_ends_early_inside_a_whole_png_is_refused() {
    let bytes = png_of(&[(b"IHDR", &header(100, 100, 8, 2)), (b"IDAT", &zlib(&[0; 500])), (b"IEND", &[])]);
    assert!(decode(&bytes).is_err());
    assert!(decode(&png_of(&[(b"IHDR", &header(1, 1, 8, 2)), (b"IEND", &[])])).is_err());
}

#[test]
fn garbage_behind_the_picture_is_no_trouble() {
    for format in [Format::Png, Format::Jpeg, Format::Webp] {
        let bytes = encode_image(&photo(), format, 100).unwrap();
        let longer = [&bytes[..], b"and then some \xff\xd9 more"].concat();
        assert_eq!(decode(&longer).unwrap(), decode(&bytes).unwrap(), "{format:?}");
    }
}

#[test]
fn a_panic_of_a_decoder_is_an_error() {
    let failing =
        super::guarded(crate::container::Container::Webp, || -> Result<(), ImageError> { panic!("on purpose") });
    assert_eq!(failing.unwrap_err().to_string(), "webp file is damaged (the decoder failed at it); save it anew");
}

#[test]
fn every_error_is_permanent() {
    assert!(decode(b"").unwrap_err().is_permanent());
}

#[test]
fn of_an_animation_the_first_picture_is_taken() {
    let frame = |sequence: u8| {
        let mut control = vec![0, 0, 0, sequence];
        control.extend([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0]);
        control
    };
    let (first, second) = (zlib(&[0, 1, 2, 3]), [vec![0, 0, 0, 2], zlib(&[0, 7, 8, 9])].concat());
    let bytes = png_of(&[
        (b"IHDR", &header(1, 1, 8, 2)),
        (b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]),
        (b"fcTL", &frame(0)),
        (b"IDAT", &first),
        (b"fcTL", &frame(1)),
        (b"fdAT", &second),
        (b"IEND", &[]),
    ]);
    assert_eq!(decode(&bytes).unwrap().as_raw(), &[1, 2, 3]);
}

#[test]
fn a_hostile_byte_anywhere_is_an_error_or_a_picture_but_no_crash() {
    let limits = ImageLimits { max_bytes: 1 << 20, max_side: 512, max_pixels: 100_000 };
    let exif = std::fs::read(format!("{FIXTURES}/exif6.jpg")).unwrap();
    let rgba = encoded(&DynamicImage::ImageRgb8(photo()).to_rgba8().into(), ImageFormat::WebP);
    let files = [encode_image(&photo(), Format::Png, 90).unwrap(), exif, rgba];
    let mut state = 1u64;
    // Uniform in [0, 1): the upper bits of Knuth's linear congruential generator.
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    for bytes in files {
        for _ in 0..400 {
            let mut hostile = bytes.clone();
            for pair in [(); 3].map(|()| [draw(), draw()]) {
                // Half of the mutations are in the headers.
                let reach = if pair[1] < 0.5 { bytes.len().min(200) } else { bytes.len() };
                hostile[(pair[0] * reach as f32) as usize] = (pair[1] * 512.0) as u8;
            }
            if let Ok(picture) = decode_image(&hostile, &limits) {
                assert!(u64::from(picture.width()) * u64::from(picture.height()) <= limits.max_pixels);
            }
        }
    }
}
