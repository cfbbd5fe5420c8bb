//! Colour profiles: what is converted, what is left as it is, what is ignored.

use moxcms::{ColorProfile, DataColorSpace, ProfileClass};

use super::*;

/// Levels by which a converted picture may differ from its twin: rounding, and JPEG twice.
const NEAR: u8 = 6;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{PICTURES}/{name}")).unwrap()
}

/// Damaged profiles of each kind that are tried.
const HOSTILE: usize = 200;

/// Colours inside the gamut of sRGB.
fn colours() -> RgbImage {
    RgbImage::from_fn(40, 30, |x, y| image::Rgb([60 + (x * 3) as u8, 60 + (y * 4) as u8, 90 + ((x + y) % 64) as u8]))
}

/// Returns the profile, and the colours as a picture with that profile stores them.
fn stored_as(profile: &ColorProfile) -> (Vec<u8>, RgbImage) {
    let layout = moxcms::Layout::Rgb;
    let from = ColorProfile::new_srgb().create_transform_8bit(layout, profile, layout, Default::default()).unwrap();
    let mut stored = colours();
    from.transform(colours().as_raw(), &mut stored).unwrap();
    assert!(worst_difference(&stored, &colours()) > 3 * NEAR, "the profile matters");
    (profile.encode().unwrap(), stored)
}

/// Encodes pixels with a profile in all formats that the encoders can write.
fn with_profile(picture: &RgbImage, profile: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (width, height) = picture.dimensions();
    let mut files = Vec::new();
    macro_rules! write {
        ($name:expr, $encoder:path) => {
            let mut bytes = Vec::new();
            let mut encoder = $encoder(&mut bytes);
            encoder.set_icc_profile(profile.to_vec()).unwrap();
            encoder.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8).unwrap();
            files.push(($name, bytes));
        };
    }
    write!("png", image::codecs::png::PngEncoder::new);
    write!("webp", image::codecs::webp::WebPEncoder::new_lossless);
    let mut bytes = Vec::new();
    let mut jpeg = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
    jpeg.set_icc_profile(profile.to_vec()).unwrap();
    jpeg.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8).unwrap();
    files.push(("jpeg", bytes));
    let mut bytes = Cursor::new(Vec::new());
    let mut tiff = image::codecs::tiff::TiffEncoder::new(&mut bytes);
    tiff.set_icc_profile(profile.to_vec()).unwrap();
    tiff.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8).unwrap();
    files.push(("tiff", bytes.into_inner()));
    files
}

fn png_with(header: &[u8], chunk: (&[u8; 4], &[u8]), rows: &[u8]) -> Vec<u8> {
    png_of(&[(b"IHDR", header), chunk, (b"IDAT", &zlib(rows)), (b"IEND", &[])])
}

fn compressed(profile: &[u8]) -> Vec<u8> {
    [b"p\0\0", &zlib(profile)[..]].concat()
}

#[test]
fn pictures_with_a_profile_equal_their_twins_in_srgb() {
    for (stored, twin) in [("icc_display_p3.jpg", "icc_twin_srgb.jpg"), ("icc_adobe_rgb.png", "icc_twin_srgb.png")] {
        let worst = worst_difference(&decode(&file(stored)).unwrap(), &decode(&file(twin)).unwrap());
        assert!(worst <= NEAR, "{stored}: {worst} levels");
    }
}

#[test]
fn a_profile_is_applied_in_each_format() {
    for profile in [ColorProfile::new_display_p3(), ColorProfile::new_adobe_rgb(), ColorProfile::new_pro_photo_rgb()] {
        let (profile, stored) = stored_as(&profile);
        for (format, bytes) in with_profile(&stored, &profile) {
            let worst = worst_difference(&decode(&bytes).unwrap(), &colours());
            assert!(worst <= 2 * NEAR, "{format}: {worst} levels");
            let published = decode_as_published(&bytes, &ImageLimits::default()).unwrap();
            assert!(worst_difference(&published, &stored) <= NEAR, "{format}: the published reading applies none");
        }
    }
}

#[test]
fn a_profile_of_gif_and_of_bmp_is_applied() {
    let (profile, stored) = stored_as(&ColorProfile::new_display_p3());
    let plain = encoded(&DynamicImage::ImageRgb8(stored.clone()), ImageFormat::Gif);
    let blocks: Vec<u8> = profile.chunks(255).flat_map(|block| [&[block.len() as u8], block].concat()).collect();
    let end = 13 + if plain[10] & 0x80 == 0 { 0 } else { 3 << ((plain[10] & 7) + 1) };
    let gif = [&plain[..end], b"\x21\xFF\x0BICCRGBG1012", &blocks, &[0], &plain[end..]].concat();
    let without = decode(&plain).unwrap();
    assert!(worst_difference(&decode(&gif).unwrap(), &without) > NEAR);

    let rows = encoded(&DynamicImage::ImageRgb8(stored), ImageFormat::Bmp)[54..].to_vec();
    let mut header = vec![0; 14 + 124];
    header[..2].copy_from_slice(b"BM");
    for (offset, value) in
        [(10, 138), (14, 124), (18, 40), (22, 30), (26, 1 | 24 << 16), (14 + 112, 124 + rows.len() as u32)]
    {
        header[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    header[14 + 56..14 + 60].copy_from_slice(b"DEBM");
    header[14 + 116..14 + 120].copy_from_slice(&(profile.len() as u32).to_le_bytes());
    let bmp = [header, rows, profile].concat();
    assert!(worst_difference(&decode(&bmp).unwrap(), &colours()) <= NEAR);
}

#[test]
fn sixteen_bits_and_transparency_are_converted_too() {
    let (profile, stored) = stored_as(&ColorProfile::new_adobe_rgb());
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for row in stored.rows() {
        rows.iter_mut().for_each(|row| row.push(0));
        for image::Rgb(colour) in row {
            rows[0].extend(colour.iter().flat_map(|value| [*value; 2]));
            rows[1].extend(colour.iter().chain([&255]));
            rows[2].extend(colour.iter().chain([&255]).flat_map(|value| [*value; 2]));
        }
    }
    for ((bits, colour), rows) in [(16, 2), (8, 6), (16, 6)].into_iter().zip(rows) {
        let bytes = png_with(&header(40, 30, bits, colour), (b"iCCP", &compressed(&profile)), &rows);
        let worst = worst_difference(&decode(&bytes).unwrap(), &colours());
        assert!(worst <= NEAR, "{bits} bits, colour type {colour}: {worst} levels");
    }
}

#[test]
fn code_points_of_png_are_applied_before_a_profile() {
    let (_, stored) = stored_as(&ColorProfile::new_display_p3());
    let rows: Vec<u8> = stored.rows().flat_map(|row| [0].into_iter().chain(row.flat_map(|pixel| pixel.0))).collect();
    let (header, pixels) = (header(40, 30, 8, 2), zlib(&rows));
    let adobe = compressed(&ColorProfile::new_adobe_rgb().encode().unwrap());
    let with = |code_points: &[u8]| {
        let chunks = [(b"cICP", code_points), (b"iCCP", &adobe), (b"IDAT", &pixels), (b"IEND", &[])];
        decode(&png_of(&[&[(b"IHDR", &header[..])], &chunks[..]].concat())).unwrap()
    };
    assert!(worst_difference(&with(&[12, 13, 0, 1]), &colours()) <= NEAR);
    // High dynamic range, a narrow range, unknown numbers: read as without.
    for code_points in [[9, 16, 0, 1], [12, 13, 0, 0], [12, 13, 1, 1], [200, 13, 0, 1], [12, 200, 0, 1]] {
        assert_eq!(with(&code_points), stored, "{code_points:?}");
    }
}

#[test]
fn a_profile_of_srgb_changes_nothing() {
    let mut other_maker = ColorProfile::new_srgb();
    other_maker.cicp = None;
    for profile in [ColorProfile::new_srgb(), other_maker] {
        for (format, bytes) in with_profile(&photo(), &profile.encode().unwrap()) {
            let published = decode_as_published(&bytes, &ImageLimits::default()).unwrap();
            assert_eq!(decode(&bytes).unwrap(), published, "{format}");
        }
    }
    let code_points = png_with(&header(2, 1, 8, 2), (b"cICP", &[1, 13, 0, 1]), &[0, 1, 2, 3, 200, 100, 50]);
    assert_eq!(decode(&code_points).unwrap().as_raw(), &[1, 2, 3, 200, 100, 50]);
}

#[test]
fn grey_pictures_are_converted_by_profiles_of_grey_and_of_colours() {
    let levels: Vec<u8> = [0].into_iter().chain(0..=255).collect();
    let grey = |profile: &ColorProfile| {
        let profile = compressed(&profile.encode().unwrap());
        let eight = decode(&png_with(&header(256, 1, 8, 0), (b"iCCP", &profile), &levels)).unwrap();
        let wide: Vec<u8> = [0].into_iter().chain((0..=255).flat_map(|level| [level; 2])).collect();
        let sixteen = decode(&png_with(&header(256, 1, 16, 0), (b"iCCP", &profile), &wide)).unwrap();
        assert!(worst_difference(&eight, &sixteen) <= 1);
        eight
    };
    let unchanged: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    assert_eq!(grey(&ColorProfile::new_srgb()).as_raw(), &unchanged);
    // Linear light: a middle amount of light is a light grey.
    let linear = grey(&ColorProfile::new_gray_with_gamma(1.0));
    assert!(linear.get_pixel(128, 0).0.iter().all(|level| level.abs_diff(188) <= 1), "{:?}", linear.get_pixel(128, 0));
    assert_eq!((linear.get_pixel(0, 0).0, linear.get_pixel(255, 0).0), ([0; 3], [255; 3]));
    let gamma = grey(&ColorProfile::new_gray_with_gamma(1.8));
    assert!((139..=151).contains(&gamma.get_pixel(128, 0).0[0]), "{:?}", gamma.get_pixel(128, 0));
    let adobe = grey(&ColorProfile::new_adobe_rgb());
    assert!(adobe.get_pixel(128, 0).0[0].abs_diff(128) <= 2, "{:?}", adobe.get_pixel(128, 0));
}

#[test]
fn a_profile_that_cannot_be_used_is_ignored() {
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let mut inks = ColorProfile::new_display_p3();
    inks.color_space = DataColorSpace::Cmyk;
    let mut link = ColorProfile::new_display_p3();
    link.profile_class = ProfileClass::DeviceLink;
    let long = [&p3[..], &vec![0; 5 << 20]].concat();
    let many_tags = [&p3[..128], &[0, 0xFF, 0xFF, 0xFF], &p3[132..]].concat();
    let profiles: [&[u8]; 9] = [
        b"",
        b"no profile at all",
        &p3[..100],
        &p3[..p3.len() / 2],
        &long,
        &many_tags,
        &inks.encode().unwrap(),
        &link.encode().unwrap(),
        &ColorProfile::new_gray_with_gamma(1.0).encode().unwrap(),
    ];
    for profile in profiles {
        for (format, bytes) in with_profile(&photo(), profile) {
            let published = decode_as_published(&bytes, &ImageLimits::default()).unwrap();
            assert_eq!(decode(&bytes).unwrap(), published, "{format}, {} bytes", profile.len());
        }
    }
    // A stream that is no zlib, and one that never ends.
    for damaged in [&b"p\0\0 no zlib"[..], &compressed(&p3)[..40], b"no zero"] {
        let bytes = png_with(&header(1, 1, 8, 2), (b"iCCP", damaged), &[0, 1, 2, 3]);
        assert_eq!(decode(&bytes).unwrap().as_raw(), &[1, 2, 3]);
    }
}

/// A profile whose table gives each colour the lightness of its green and no hue.
fn table_of_greys(grid: u8) -> Vec<u8> {
    let mut table = [b"mft2\0\0\0\0".as_slice(), &[3, 3, grid, 0]].concat();
    for row in 0..3 {
        table.extend((0..3).flat_map(|column| u32::to_be_bytes(if row == column { 0x1_0000 } else { 0 })));
    }
    table.extend([0, 2, 0, 2]);
    let curves = [0, 0, 0xFF, 0xFF].repeat(3);
    table.extend(&curves);
    for point in 0..usize::from(grid).pow(3) {
        let green = point / usize::from(grid) % usize::from(grid);
        let lightness = 0xFF00 * green / (usize::from(grid) - 1);
        table.extend([lightness as u16, 0x8000, 0x8000].into_iter().flat_map(u16::to_be_bytes));
    }
    table.extend(&curves);
    let header = ColorProfile::new_srgb().encode().unwrap();
    let tag = [&1u32.to_be_bytes()[..], b"A2B0", &144u32.to_be_bytes(), &(table.len() as u32).to_be_bytes()].concat();
    [&header[..20], b"Lab ", &header[24..128], &tag, &table].concat()
}

#[test]
fn a_profile_with_a_table_is_applied() {
    for grid in [2, 17, 33] {
        for (format, bytes) in with_profile(&colours(), &table_of_greys(grid)) {
            let shown = decode(&bytes).unwrap();
            for (image::Rgb([red, green, blue]), image::Rgb(stored)) in shown.pixels().zip(colours().pixels()) {
                assert!(red.abs_diff(*green) <= 3 && blue.abs_diff(*green) <= 3, "{format}: {red}, {green}, {blue}");
                // Lightness and levels of grey are nearly proportional.
                assert!(green.abs_diff(stored[1]) <= 24, "{format}: {green} of {stored:?}");
            }
        }
    }
}

#[test]
fn a_hostile_byte_in_a_profile_is_no_trouble() {
    let profiles = [ColorProfile::new_display_p3(), ColorProfile::new_gray_with_gamma(1.8)]
        .map(|profile| profile.encode().unwrap());
    let profiles = [&profiles[0], &profiles[1], &table_of_greys(2)];
    let mut state = 7u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (profile, (colour, row)) in
        profiles.iter().zip([(2, &[0, 9, 80, 200][..]), (0, &[0, 80]), (2, &[0, 9, 80, 200])])
    {
        for _ in 0..HOSTILE {
            let mut hostile = profile.to_vec();
            for _ in 0..1 + draw(4) {
                let place = draw(hostile.len());
                hostile[place] = [0, 1, 0x7F, 0x80, 0xFF, draw(256) as u8][draw(6)];
            }
            decode(&png_with(&header(1, 1, 8, colour), (b"iCCP", &compressed(&hostile)), row)).unwrap();
        }
    }
}

#[test]
fn tags_that_share_their_data_are_read_once() {
    // 300,000 tags for the same table of 64 kB.
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let (count, table) = (300_000u32, 64 << 10);
    let start = 132 + count * 12;
    let tag = [&b"A2B0"[..], &start.to_be_bytes(), &u32::to_be_bytes(table)].concat();
    let tags = tag.repeat(count as usize);
    let profile =
        [&p3[..128], &count.to_be_bytes(), &tags, b"mft2\0\0\0\0\x03\x03\x10\0", &vec![1; table as usize]].concat();
    let bytes = png_with(&header(1, 1, 8, 2), (b"iCCP", &compressed(&profile)), &[0, 1, 2, 3]);
    let began = std::time::Instant::now();
    decode(&bytes).unwrap();
    // All of them would be 20 GB of numbers.
    assert!(began.elapsed().as_secs() < 20);
}
