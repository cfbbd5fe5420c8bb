//! Names what a file is that is not read, by its content: a client often sees only the error's text.

use crate::error::ImageError;

/// Magic bytes of pictures in other formats: offset, bytes, name.
const PICTURES: &[(usize, &[u8], &str)] = &[
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\0\0\x01\0", "icon (ICO)"),
    (0, b"\0\0\x02\0", "cursor (CUR)"),
    (0, b"\0\0\0\x0CjP  ", "JPEG 2000"),
    (0, b"\xFF\x4F\xFF\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0CJXL ", "JPEG XL"),
    (0, b"\xFF\x0A", "JPEG XL"),
    (0, b"II\xBC\x01", "JPEG XR"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"qoif", "QOI"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"\x76\x2F\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x8BJNG", "JNG"),
    (0, b"\x8AMNG", "MNG"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\xD7\xCD\xC6\x9A", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"IIU\0", RAW),
    (0, b"FOVb", RAW),
    (6, b"HEAPCCDR", RAW),
];

/// Magic bytes of everything else: offset, bytes, what it is.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xC5\xD0\xD3\xC6", "a PostScript document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1F\x8B", "compressed with gzip"),
    (0, b"7z\xBC\xAF", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x28\xB5\x2F\xFD", "compressed with zstd"),
    (0, b"\x1A\x45\xDF\xA3", "a video"),
    (8, b"AVI ", "a video"),
    (0, b"FLV\x01", "a video"),
    (0, b"\0\0\x01\xBA", "a video"),
    (0, b"\0\0\x01\xB3", "a video"),
    (8, b"WAVE", "an audio file"),
    (0, b"ID3", "an audio file"),
    (0, b"OggS", "an audio or video file"),
    (0, b"fLaC", "an audio file"),
    (257, b"ustar", "a tar archive"),
];

const RAW: &str = "camera raw";

/// Returns the error for a file that is none of the supported formats.
pub(super) fn explain(bytes: &[u8]) -> ImageError {
    if let Some(error) = media_container(bytes) {
        return error;
    }
    if let Some(format) = named(PICTURES, bytes) {
        return ImageError::UnsupportedFormat { format };
    }
    if let Some(found) = named(OTHERS, bytes) {
        return ImageError::NotAPicture { found };
    }
    match bytes {
        // The TIFF-based ones that reach this function.
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => ImageError::UnsupportedFormat { format: RAW },
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] => ImageError::UnsupportedFormat { format: "PNM" },
        _ => text(bytes).unwrap_or(ImageError::NotAnImage),
    }
}

fn named(table: &[(usize, &[u8], &'static str)], bytes: &[u8]) -> Option<&'static str> {
    let matches =
        |(offset, magic, _): &&(usize, &[u8], &str)| bytes.get(*offset..).is_some_and(|b| b.starts_with(magic));
    table.iter().find(matches).map(|(_, _, name)| *name)
}

/// ISO base media files, by their brands: HEIC, AVIF, camera raw files, videos.
fn media_container(bytes: &[u8]) -> Option<ImageError> {
    /// A list of brands longer than this is no picture's.
    const MAX_BRANDS_BYTES: usize = 256;
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let brands = bytes.get(8..length.min(bytes.len()).min(MAX_BRANDS_BYTES)).unwrap_or_default();
    // The second four bytes are a version, and no brand is like one.
    let has = |wanted: &[&[u8]]| brands.chunks(4).any(|brand| wanted.contains(&brand));
    let picture = |format| Some(ImageError::UnsupportedFormat { format });
    if has(&[b"avif", b"avis"]) {
        return picture("AVIF");
    }
    if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"]) {
        return picture("HEIC");
    }
    if has(&[b"mif1", b"msf1", b"miaf"]) {
        return picture("HEIF");
    }
    if has(&[b"crx "]) {
        return picture(RAW);
    }
    let found = if has(&[b"M4A ", b"M4B "]) { "an audio file" } else { "a video" };
    Some(ImageError::NotAPicture { found })
}

/// Pages, drawings and other text.
fn text(bytes: &[u8]) -> Option<ImageError> {
    /// This much is looked at.
    const START: usize = 4_096;
    let start = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let start = start.get(..START).unwrap_or(start).trim_ascii_start().to_ascii_lowercase();
    let contains = |word: &[u8]| start.windows(word.len()).any(|window| window == word);
    let begins = |words: &[&[u8]]| words.iter().any(|word| start.starts_with(word));
    let page = |found| Some(ImageError::Page { found });
    if start.starts_with(b"<") {
        let is_page =
            begins(&[b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title", b"<meta", b"<center"]);
        if is_page || contains(b"<html") {
            return page("a web page (HTML)");
        }
        if contains(b"<svg") {
            return Some(ImageError::UnsupportedFormat { format: "SVG" });
        }
        if begins(&[b"<?xml", b"<!--"]) || start.get(1).is_some_and(u8::is_ascii_alphabetic) {
            return page("an XML document");
        }
    }
    if begins(&[b"{", b"["]) && start[1..].trim_ascii_start().first().is_none_or(|byte| b"\"{}[]".contains(byte)) {
        return page("a JSON document");
    }
    let is_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    (!start.is_empty() && start.iter().all(is_text) && is_utf8_so_far(&start))
        .then_some(ImageError::NotAPicture { found: "text" })
}

/// Whether the bytes are UTF-8, the last character of which may be cut.
fn is_utf8_so_far(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}
