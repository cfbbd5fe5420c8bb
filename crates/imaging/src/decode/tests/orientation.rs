//! Orientation, wherever a file may state it: all eight, in each of these places.

use super::*;
use crate::decode::tests::limits::webp_of;

/// Rows of a picture of 3 x 2 pixels with different colours.
const STORED: [[u8; 3]; 2] = [[10, 60, 110], [160, 210, 250]];

/// The rows of that picture for each orientation of EXIF, from 1 to 8.
const UPRIGHT: [&[&[u8]]; 8] = [
    &[&[10, 60, 110], &[160, 210, 250]],
    &[&[110, 60, 10], &[250, 210, 160]],
    &[&[250, 210, 160], &[110, 60, 10]],
    &[&[160, 210, 250], &[10, 60, 110]],
    &[&[10, 160], &[60, 210], &[110, 250]],
    &[&[160, 10], &[210, 60], &[250, 110]],
    &[&[250, 110], &[210, 60], &[160, 10]],
    &[&[110, 250], &[60, 210], &[10, 160]],
];

fn stored() -> RgbImage {
    RgbImage::from_fn(3, 2, |x, y| image::Rgb([STORED[y as usize][x as usize]; 3]))
}

/// EXIF data with only the orientation, as a number of 16 or 32 bits.
fn exif(orientation: u8, big_endian: bool, wide: bool) -> Vec<u8> {
    let kind = if wide { 4 } else { 3 };
    if big_endian {
        let value = if wide { [0, 0, 0, orientation] } else { [0, orientation, 0, 0] };
        [&b"MM\0*\0\0\0\x08\0\x01\x01\x12\0"[..], &[kind], &[0, 0, 0, 1], &value, &[0; 4]].concat()
    } else {
        [&b"II*\0\x08\0\0\0\x01\0\x12\x01"[..], &[kind, 0], &[1, 0, 0, 0], &[orientation, 0, 0, 0], &[0; 4]].concat()
    }
}

fn packet(orientation: u8) -> [Vec<u8>; 3] {
    [
        format!("<rdf:Description xmlns:tiff='x' tiff:Orientation=\"{orientation}\" a='1'/>"),
        format!("<rdf:Description><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>"),
        format!("<rdf:Description tiff:Orientation = '{orientation}'/>"),
    ]
    .map(String::into_bytes)
}

const XMP_OF_JPEG: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Inserts segments behind the start of a JPEG.
fn jpeg_with(segments: &[&[u8]]) -> Vec<u8> {
    let bytes = encode_image(&stored(), Format::Jpeg, 100).unwrap();
    let segment = |data: &&[u8]| [&[0xFF, 0xE1][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat();
    [&bytes[..2], &segments.iter().flat_map(segment).collect::<Vec<_>>(), &bytes[2..]].concat()
}

/// A PNG with a chunk before the pixels, or after them.
fn png_with(chunk: (&[u8; 4], &[u8]), is_after: bool) -> Vec<u8> {
    let rows: Vec<u8> = STORED.iter().flat_map(|row| [0].into_iter().chain(row.iter().copied())).collect();
    let (header, pixels) = (header(3, 2, 8, 0), zlib(&rows));
    let mut chunks = vec![(b"IHDR", &header[..]), (b"IDAT", &pixels[..]), (b"IEND", &[])];
    chunks.insert(if is_after { 2 } else { 1 }, chunk);
    png_of(&chunks)
}

/// A WebP with a chunk of metadata after the pixels.
fn webp_with(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let simple = encode_image(&stored(), Format::Webp, 100).unwrap();
    let length = u32::from_le_bytes(simple[16..20].try_into().unwrap()) as usize;
    let pixels = [&simple[20..20 + length], &[0; 1][..length % 2]].concat();
    let padded = [data, &b" "[..data.len() % 2]].concat();
    webp_of(&[(b"VP8X", &[0x0C, 0, 0, 0, 2, 0, 0, 1, 0, 0]), (b"VP8L", &pixels), (kind, &padded)])
}

/// A TIFF with an entry in its directory, which the encoder cannot write.
fn tiff_with(orientation: u8) -> Vec<u8> {
    let plain = encoded(&DynamicImage::ImageRgb8(stored()), ImageFormat::Tiff);
    let start = u32::from_le_bytes(plain[4..8].try_into().unwrap()) as usize;
    let count = u16::from_le_bytes(plain[start..start + 2].try_into().unwrap());
    let entries = &plain[start + 2..start + 2 + usize::from(count) * 12];
    let place = entries.chunks(12).take_while(|entry| u16::from_le_bytes([entry[0], entry[1]]) < 274).count() * 12;
    let added = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
    let directory = [&(count + 1).to_le_bytes()[..], &entries[..place], &added, &entries[place..], &[0; 4]].concat();
    [&plain[..4], &(plain.len() as u32).to_le_bytes(), &plain[8..], &directory].concat()
}

fn check(what: &str, orientation: u8, bytes: &[u8]) {
    let upright = decode(bytes).unwrap();
    let rows = UPRIGHT[usize::from(orientation) - 1];
    let expected = RgbImage::from_fn(rows[0].len() as u32, rows.len() as u32, |x, y| {
        image::Rgb([rows[y as usize][x as usize]; 3])
    });
    // JPEG is not exact.
    assert!(worst_difference(&upright, &expected) <= 3, "{what}, orientation {orientation}: {upright:?}");
}

#[test]
fn all_eight_orientations_are_applied_wherever_they_are_written() {
    for orientation in 1..=8 {
        let check = |what: &str, bytes: &[u8]| check(what, orientation, bytes);
        for (big_endian, wide) in [(false, false), (true, false), (false, true), (true, true)] {
            let plain = exif(orientation, big_endian, wide);
            let prefixed = [b"Exif\0\0", &plain[..]].concat();
            check("EXIF in JPEG", &jpeg_with(&[&prefixed]));
            for data in [&plain, &prefixed] {
                check("EXIF in PNG", &png_with((b"eXIf", data), false));
                check("EXIF in PNG after the pixels", &png_with((b"eXIf", data), true));
                check("EXIF in WebP", &webp_with(b"EXIF", data));
            }
        }
        for packet in packet(orientation) {
            check("XMP in JPEG", &jpeg_with(&[&[XMP_OF_JPEG, &packet].concat()]));
            check("XMP in WebP", &webp_with(b"XMP ", &packet));
            let text = [b"XML:com.adobe.xmp\0\0\0en\0\0", &packet[..]].concat();
            check("XMP in PNG", &png_with((b"iTXt", &text), false));
            let compressed = [b"XML:com.adobe.xmp\0\x01\0\0\0", &zlib(&packet)[..]].concat();
            check("compressed XMP in PNG", &png_with((b"iTXt", &compressed), true));
        }
        check("TIFF", &tiff_with(orientation));
    }
}

#[test]
fn exif_counts_before_xmp_and_xmp_where_exif_has_none() {
    let xmp = [XMP_OF_JPEG, &packet(3)[0]].concat();
    let exif = |orientation| [b"Exif\0\0", &exif(orientation, false, false)[..]].concat();
    check("both", 6, &jpeg_with(&[&xmp, &exif(6)]));
    check("none in EXIF", 3, &jpeg_with(&[&exif(0), &xmp]));
    check("an impossible one in EXIF", 3, &jpeg_with(&[&exif(9), &xmp]));
    check("EXIF that breaks off", 3, &jpeg_with(&[b"Exif\0\0II*\0\x08\0\0", &xmp]));
    check("no valid one", 1, &jpeg_with(&[&[XMP_OF_JPEG, b"tiff:Orientation=\"12\""].concat()]));
}

#[test]
fn webp_with_and_without_the_identifier_before_exif_is_turned() {
    for file in ["exif_6.webp", "exif_6_prefixed.webp"] {
        let bytes = std::fs::read(format!("{PICTURES}/{file}")).unwrap();
        let limits = ImageLimits::default();
        let stored = decode_as_published(&bytes, &limits).unwrap();
        assert_eq!(decode(&bytes).unwrap(), image::imageops::rotate90(&stored), "{file}");
    }
}
