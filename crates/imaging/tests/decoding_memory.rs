//! Measures what decoding allocates, against what was announced. In a test binary of its own, with one test: the
//! allocator counts for the whole process.

#![expect(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Cursor, Write},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use echogen_imaging::{ImageLimits, decode_as_published, decode_image, decoding_bytes};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};

struct Counting;

static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request goes to the system's allocator as it is. `realloc` is the trait's own: it allocates, copies and
// frees, so a vector that grows counts twice while it is copied.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(CURRENT.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(CURRENT.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        CURRENT.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the most that the work had allocated at a time.
fn peak_of<T>(work: impl FnOnce() -> T) -> u64 {
    let before = CURRENT.load(Relaxed);
    PEAK.store(before, Relaxed);
    drop(work());
    (PEAK.load(Relaxed) - before) as u64
}

/// Checks a file's memory in all three functions; returns the most that decoding took.
fn check(name: &str, bytes: &[u8]) -> u64 {
    let limits = ImageLimits { max_bytes: 80 << 20, ..ImageLimits::default() };
    let announcing = peak_of(|| decoding_bytes(bytes, &limits));
    assert!(announcing < 1 << 16, "{name}: announcing took {announcing} bytes");
    // A file that is refused by its structure may use what looking at it takes.
    let announced = decoding_bytes(bytes, &limits).unwrap_or(1 << 16);
    let seen = peak_of(|| decode_image(bytes, &limits));
    let published = peak_of(|| decode_as_published(bytes, &limits));
    let most = seen.max(published);
    assert!(most <= announced, "{name}, {} bytes: announced {announced}, took {most}", bytes.len());
    most
}

fn png_of(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        let mut sum = flate2::Crc::new();
        sum.update(*kind);
        sum.update(data);
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(*kind);
        bytes.extend(*data);
        bytes.extend(sum.sum().to_be_bytes());
    }
    bytes
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A small PNG with chunks before its pixels.
fn png_with(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let header = [0, 0, 0, 4, 0, 0, 0, 4, 8, 2, 0, 0, 0];
    let pixels = zlib(&[0; 52]);
    png_of(&[&[(b"IHDR", &header[..])], chunks, &[(b"IDAT", &pixels), (b"IEND", &[])]].concat())
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn noise(width: u32, height: u32) -> DynamicImage {
    let level =
        |x: u32, y: u32, channel: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503) ^ (channel * 77)) as u8;
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([0, 1, 2].map(|channel| level(x, y, channel)))).into()
}

const MANY: usize = 60 << 20;

/// Checks that decoding a picture of a few pixels takes hardly more than a copy of what it needs.
fn check_small(name: &str, bytes: &[u8], most: u64) {
    let limits = ImageLimits { max_bytes: 80 << 20, ..ImageLimits::default() };
    assert!(bytes.len() > MANY - (4 << 20) && decode_image(bytes, &limits).is_ok(), "{name}");
    let took = check(name, bytes);
    assert!(took <= most, "{name}: {took} bytes for a picture of a few pixels");
}

/// Files of some 60 MB, all of it beside the picture.
fn ancillary() {
    check_small("texts in PNG", &png_with(&vec![(b"iTXt", &b"a\0\0\0\0\0"[..]); 3_400_000]), 1 << 20);
    check_small("EXIF in PNG", &png_with(&[(b"eXIf", &vec![0; MANY])]), 1 << 20);
    let jpeg = encoded(&noise(16, 16), ImageFormat::Jpeg);
    let segments = |data: &[u8]| {
        let segment = [&[0xFF, 0xE2, 0xFF, 0xFF][..], data, &vec![7; 0xFFFD - data.len()]].concat();
        [&jpeg[..2], &segment.repeat(MANY >> 16), &jpeg[2..]].concat()
    };
    check_small("profiles in JPEG", &segments(b"ICC_PROFILE\0\x01\x01"), 1 << 20);
    check_small("other data in JPEG", &segments(b"other"), 1 << 20);
    check_small("tail of JPEG", &[&jpeg[..], &vec![7; MANY]].concat(), 2 * MANY as u64 + (1 << 20));
    check_small("unknown chunks in WebP", &webp_with_unknown_chunks(), 1 << 20);
    check_small("XMP in GIF", &gif_with_extension(), 1 << 20);
    let mut tiff = Cursor::new(Vec::new());
    let mut encoder = image::codecs::tiff::TiffEncoder::new(&mut tiff);
    encoder.set_icc_profile(vec![0; MANY]).unwrap();
    encoder.write_image(&[0; 12], 2, 2, ExtendedColorType::Rgb8).unwrap();
    check_small("profile in TIFF", tiff.get_ref(), 1 << 20);
}

fn webp_with_unknown_chunks() -> Vec<u8> {
    let webp = encoded(&noise(16, 16), ImageFormat::WebP);
    let mut chunks: Vec<u8> = b"WEBPVP8X\x0A\0\0\0\x2C\0\0\0\x0F\0\0\x0F\0\0".to_vec();
    chunks.extend((0..MANY as u32 / 8).flat_map(|index| [index.to_le_bytes(), [0; 4]].concat()));
    chunks.extend(&webp[12..]);
    [b"RIFF", &(chunks.len() as u32).to_le_bytes()[..], &chunks].concat()
}

fn gif_with_extension() -> Vec<u8> {
    let gif = encoded(&noise(16, 16), ImageFormat::Gif);
    let table = 13 + if gif[10] & 0x80 == 0 { 0 } else { 3 << ((gif[10] & 7) + 1) };
    let block = [&[255][..], &[7; 255]].concat().repeat(MANY / 256);
    [&gif[..table], b"\x21\xFF\x0BXMP DataXMP", &block, &[0], &gif[table..]].concat()
}

/// Metadata that is inflated, and headers that announce more than the file has.
fn bombs() {
    let zeros = zlib(&vec![0; 200 << 20]);
    check("a profile that inflates to 200 MB", &png_with(&[(b"iCCP", &[b"p\0\0", &zeros[..]].concat())]));
    check(
        "XMP that inflates to 200 MB",
        &png_with(&[(b"iTXt", &[b"XML:com.adobe.xmp\0\x01\0\0\0", &zeros[..]].concat())]),
    );
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/pictures");
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        check(&path.file_name().unwrap().to_string_lossy(), &std::fs::read(&path).unwrap());
    }
    let tiff = encoded(&noise(4, 4), ImageFormat::Tiff);
    for (tag, count) in [273u16, 279, 258].into_iter().flat_map(|tag| [(tag, 8_000_000u32), (tag, 1 << 20)]) {
        let mut many = tiff.clone();
        let entry = many.windows(2).rposition(|pair| pair == tag.to_le_bytes()).unwrap();
        many[entry + 4..entry + 8].copy_from_slice(&count.to_le_bytes());
        check("a TIFF that announces millions of values", &many);
        many.resize(40 << 20, 0);
        check("a TIFF that has millions of values", &many);
    }
}

/// A profile with a table of colours, of nearly the greatest length that is read.
fn large_profile() -> Vec<u8> {
    const GRID: u8 = 85;
    let identity = (0..9).flat_map(|place| u32::to_be_bytes(if place % 4 == 0 { 0x1_0000 } else { 0 }));
    let mut table = [b"mft2\0\0\0\0".as_slice(), &[3, 3, GRID, 0]].concat();
    table.extend(identity.chain([0, 2, 0, 2]).chain([0, 0, 0xFF, 0xFF].repeat(3)));
    table.extend((0..usize::from(GRID).pow(3) * 6).map(|place| (place / 7) as u8));
    table.extend([0, 0, 0xFF, 0xFF].repeat(3));
    let header = moxcms::ColorProfile::new_srgb().encode().unwrap();
    let tag = |name: &[u8; 4]| [&name[..], &168u32.to_be_bytes(), &(table.len() as u32).to_be_bytes()].concat();
    let tags = [&3u32.to_be_bytes()[..], &tag(b"A2B0"), &tag(b"A2B1"), &tag(b"A2B2")].concat();
    [&header[..20], b"Lab ", &header[24..128], &tags, &table].concat()
}

/// Profiles whose tables are as large as can be.
fn profiles() {
    let profile = large_profile();
    let compressed = [b"p\0\0", &zlib(&profile)[..]].concat();
    let took = check("a PNG with a large profile", &png_with(&[(b"iCCP", &compressed)]));
    assert!(took as usize > 2 * profile.len(), "the table is read: {took}");
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
    encoder.set_icc_profile(profile).unwrap();
    encoder.write_image(&[0; 12], 2, 2, ExtendedColorType::Rgb8).unwrap();
    check("a JPEG with a large profile", &bytes);
}

/// Writes bits from the lowest of each byte.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn write(&mut self, value: u32, count: usize) {
        for index in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> index & 1) as u8) << (self.count % 8);
            self.count += 1;
        }
    }

    /// A code of one symbol.
    fn single(&mut self, symbol: u32) {
        self.write(0b101, 3);
        self.write(symbol, 8);
    }

    /// A code whose eleven symbols have lengths of 1 to 10 bits, for which the decoder makes the largest table.
    fn large(&mut self) {
        self.write(0, 1);
        self.write(15, 4);
        // Of the symbols 17, 18, 0, 1, ..., 5, 16, 6, ..., 15: six of three bits, four of four bits.
        for length in [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4, 0, 0, 0, 0, 0] {
            self.write(length, 3);
        }
        // Eleven lengths follow.
        self.write(1, 1);
        self.write(1, 3);
        self.write(9, 4);
        for length in (1..=10).chain([10]) {
            // Canonical codes, whose first bit is the highest.
            let (code, width) = if length <= 6 { (length - 1, 3) } else { (12 + length - 7, 4) };
            (0..width).rev().for_each(|bit| self.write(code >> bit & 1, 1));
        }
    }
}

/// A lossless WebP of 4 x 4 pixels whose groups of entropy codes follow, as many as it says.
fn webp_with_codes(groups: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.write(0x2F, 8);
    bits.write(3 | 3 << 14, 28);
    // No alpha, version 0, no transform, no cache, an image of numbers with blocks of four pixels: one number.
    bits.write(0, 4);
    bits.write(0b100, 3);
    bits.write(0, 3);
    bits.write(0, 1);
    for symbol in [(groups - 1) & 0xFF, (groups - 1) >> 8, 0, 0] {
        bits.single(symbol);
    }
    bits.write(0b1001, 4);
    for _ in 0..groups.min(30_000) * 5 {
        bits.large();
    }
    let mut data = bits.bytes;
    data.resize((data.len() + 100).next_multiple_of(2), 0);
    let chunk = [b"WEBPVP8L", &(data.len() as u32).to_le_bytes()[..], &data].concat();
    [b"RIFF", &(chunk.len() as u32).to_le_bytes()[..], &chunk].concat()
}

/// Streams that announce many entropy codes.
fn entropy_codes() {
    let limits = ImageLimits::default();
    assert!(check("a WebP with 4,000 groups of codes", &webp_with_codes(4_000)) > 4_000 * 5 * 4_096);
    let error = decode_image(&webp_with_codes(65_536), &limits).unwrap_err().to_string();
    assert!(error.contains("65536 groups of entropy codes"), "{error}");
    check("a WebP with 65,536 groups of codes", &webp_with_codes(65_536));
}

/// Pictures of all kinds of pixels.
fn pixels() {
    let picture = noise(700, 500);
    let wide = DynamicImage::ImageRgba16(picture.to_rgba16());
    let clear = DynamicImage::ImageRgba8(picture.to_rgba8());
    let files = [
        ("PNG", encoded(&picture, ImageFormat::Png)),
        ("PNG of 16 bits", encoded(&wide, ImageFormat::Png)),
        ("JPEG", encoded(&picture, ImageFormat::Jpeg)),
        ("WebP", encoded(&picture, ImageFormat::WebP)),
        ("WebP with transparency", encoded(&clear, ImageFormat::WebP)),
        ("GIF", encoded(&picture, ImageFormat::Gif)),
        ("BMP", encoded(&picture, ImageFormat::Bmp)),
        ("BMP with transparency", encoded(&clear, ImageFormat::Bmp)),
        ("TIFF", encoded(&picture, ImageFormat::Tiff)),
        ("TIFF of 16 bits", encoded(&wide, ImageFormat::Tiff)),
        ("TIFF of floating point", encoded(&DynamicImage::ImageRgba32F(picture.to_rgba32f()), ImageFormat::Tiff)),
    ];
    for (name, bytes) in &files {
        check(name, bytes);
    }
    let profile = moxcms::ColorProfile::new_display_p3().encode().unwrap();
    for colour in [ExtendedColorType::Rgb8, ExtendedColorType::Rgba16, ExtendedColorType::L16] {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.set_icc_profile(profile.clone()).unwrap();
        let data = vec![9; 20 * 20 * usize::from(colour.bits_per_pixel()) / 8];
        encoder.write_image(&data, 20, 20, colour).unwrap();
        check("a small PNG with a profile", &bytes);
    }
}

#[test]
fn decoding_takes_no_more_memory_than_announced() {
    ancillary();
    bombs();
    profiles();
    entropy_codes();
    pixels();
}
