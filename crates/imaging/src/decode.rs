//! From the bytes of a picture file to 8-bit RGB pixels, within bounds.
//!
//! PNG, JPEG and WebP in all usual flavours: grey, palette, transparent, 16 bits a channel, CMYK. Of an animation the
//! first picture is taken. Colour profiles are ignored.

use std::io::Cursor;

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, RgbImage};

use crate::container::{Container, png_dimensions, png_profile_length, webp_frames};
use crate::error::ImageError;

/// Memory that decoding takes for each pixel, at most. The hungriest are 8 bytes of 16-bit channels with transparency
/// and the 3 of the result (PNG), 8 of coefficients and the 3 of the result (JPEG of four colours in several scans), or
/// 12 (WebP: animation, canvas and result, all with transparency). Turning takes less: it holds the result twice. The
/// rest is for what is made of the picture once its decoder is gone: copies of 3 bytes a pixel, and their file.
const BYTES_PER_PIXEL: u64 = 16;

/// Decoders work in blocks, of at most this many pixels on a side, also where the picture's edge cuts through them.
const BLOCK: u64 = 32;

/// The most by which deflate can have shortened something.
const DEFLATE_RATIO: u64 = 1_032;

/// What is refused before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Longest file.
    pub max_bytes: u64,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Most pixels; memory while decoding is within about 16 bytes for each of them, see [`decoding_bytes`].
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_side: 16_384, max_pixels: 64_000_000 }
    }
}

impl ImageLimits {
    fn check_bytes(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let (bytes, limit) = (bytes.len() as u64, self.max_bytes);
        if bytes > limit { Err(ImageError::TooManyBytes { bytes, limit }) } else { Ok(()) }
    }

    fn check_size(&self, (width, height): (u32, u32)) -> Result<(), ImageError> {
        let Self { max_side, max_pixels, .. } = *self;
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
        if width.max(height) > max_side || u64::from(width) * u64::from(height) > max_pixels {
            return Err(ImageError::TooLarge { width, height, max_side, max_pixels });
        }
        Ok(())
    }

    /// The same for the decoders' own bookkeeping: four channels of 16 bits, and the file's extra chunks.
    fn for_decoder(&self) -> image::Limits {
        let mut limits = image::Limits::no_limits();
        limits.max_image_width = Some(self.max_side);
        limits.max_image_height = Some(self.max_side);
        limits.max_alloc = Some(self.max_pixels.saturating_mul(8).saturating_add(self.max_bytes));
        limits
    }

    /// The same for opening a PNG, where the bound is on what is not the picture: extra chunks, some of which inflate,
    /// and a row.
    fn for_png_opening(&self) -> image::Limits {
        let mut limits = self.for_decoder();
        limits.max_alloc = Some(self.png_extras());
        limits
    }

    fn png_extras(&self) -> u64 {
        self.max_bytes.saturating_add(u64::from(self.max_side).saturating_mul(8))
    }
}

/// Reads a picture as a person sees it: turned upright by its EXIF orientation, transparency put on white, 16-bit
/// channels rounded to 8.
///
/// # Errors
///
/// If the file is no complete PNG, JPEG or WebP within `limits`. The size is read from the header, before any pixel is
/// decoded.
pub fn decode_image(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let (picture, orientation) = decode(bytes, limits)?;
    // Turned last: a turned copy of what was decoded could be nearly three times as large.
    let mut upright = DynamicImage::ImageRgb8(to_rgb(picture, Reading::AsSeen));
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

/// Reads a picture as the published code does (Pillow's `convert("RGB")`): stored orientation, alpha dropped with the
/// colours below it untouched, upper 8 of 16 bits.
///
/// # Errors
///
/// As [`decode_image`].
pub fn decode_as_published(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    Ok(to_rgb(decode(bytes, limits)?.0, Reading::AsPublished))
}

/// Returns the most memory that [`decode_image`] takes for this file, from its header: no pixel is decoded. Whoever
/// decodes many at once can wait until there is room.
///
/// # Errors
///
/// As [`decode_image`], as far as the header tells.
pub fn decoding_bytes(bytes: &[u8], limits: &ImageLimits) -> Result<u64, ImageError> {
    let container = accept(bytes, limits)?;
    let (size, profile) = match container {
        // Not opened: that would inflate the colour profile.
        Container::Png => (png_size(bytes)?, png_profile_length(bytes).unwrap_or(0) as u64),
        Container::Jpeg | Container::Webp => {
            let decoder = open(container, bytes, limits).map_err(|failure| failure.explain(container))?;
            (decoder.dimensions(), 0)
        }
    };
    let frames = if container == Container::Webp { webp_frames(bytes) } else { Vec::new() };
    let pixels = frames.into_iter().fold(blocks_of(size), |most, frame| most.max(blocks_of(frame)));
    // Of the file, or of its parts, decoders have up to two copies.
    let file = (bytes.len() as u64).saturating_mul(2);
    let inflated = profile.saturating_mul(DEFLATE_RATIO).min(limits.png_extras());
    Ok(pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(file).saturating_add(inflated))
}

/// Pixels, with those of the blocks that the picture's edges cut through.
fn blocks_of((width, height): (u32, u32)) -> u64 {
    (u64::from(width) + BLOCK - 1).saturating_mul(u64::from(height) + BLOCK - 1)
}

fn png_size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    png_dimensions(bytes).ok_or(ImageError::Truncated { format: Container::Png.name() })
}

fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<(DynamicImage, Orientation), ImageError> {
    let container = accept(bytes, limits)?;
    let picture = open(container, bytes, limits).and_then(|decoder| decode_with(decoder, limits));
    picture.map_err(|failure| failure.explain(container))
}

/// The format of a file that is no longer than allowed, and is all there.
fn accept(bytes: &[u8], limits: &ImageLimits) -> Result<Container, ImageError> {
    let container = Container::sniff(bytes)?;
    limits.check_bytes(bytes)?;
    if container == Container::Png {
        limits.check_size(png_size(bytes)?)?;
    }
    container.require_complete(bytes)?;
    Ok(container)
}

/// A decoder that has read the header, of a picture no larger than allowed.
fn open<'a>(
    container: Container,
    bytes: &'a [u8],
    limits: &ImageLimits,
) -> Result<Box<dyn ImageDecoder + 'a>, Failure> {
    let input = Cursor::new(bytes);
    let decoder: Box<dyn ImageDecoder + 'a> = match container {
        Container::Png => Box::new(PngDecoder::with_limits(input, limits.for_png_opening())?),
        Container::Jpeg => Box::new(JpegDecoder::new(input)?),
        Container::Webp => Box::new(WebPDecoder::new(input)?),
    };
    limits.check_size(decoder.dimensions())?;
    if container == Container::Webp {
        for frame in webp_frames(bytes) {
            limits.check_size(frame)?;
        }
    }
    Ok(decoder)
}

fn decode_with(mut decoder: impl ImageDecoder, limits: &ImageLimits) -> Result<(DynamicImage, Orientation), Failure> {
    decoder.set_limits(limits.for_decoder())?;
    // Unreadable EXIF data does not make the picture unreadable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

/// Our own refusal, or the decoder's.
enum Failure {
    Ours(ImageError),
    Decoder(image::ImageError),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Ours(error)
    }
}

impl From<image::ImageError> for Failure {
    fn from(error: image::ImageError) -> Self {
        Self::Decoder(error)
    }
}

impl Failure {
    fn explain(self, container: Container) -> ImageError {
        let format = container.name();
        match self {
            Self::Ours(error) => error,
            Self::Decoder(image::ImageError::Unsupported(error)) => {
                ImageError::UnsupportedFlavour { format, reason: one_line(&error.to_string()) }
            }
            Self::Decoder(image::ImageError::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                ImageError::Truncated { format }
            }
            Self::Decoder(error) => ImageError::Damaged { format, reason: one_line(&error.to_string()) },
        }
    }
}

/// The text without line breaks, shortened: decoders may quote the file.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
}

/// What becomes of transparency and of 16-bit channels.
#[derive(Clone, Copy)]
enum Reading {
    AsSeen,
    AsPublished,
}

impl Reading {
    fn byte(self, value: u16) -> u8 {
        match self {
            // 65535 / 255 = 257, odd, so that adding half of it rounds to the nearest and there are no ties.
            Self::AsSeen => ((u32::from(value) + 128) / 257) as u8,
            Self::AsPublished => (value >> 8) as u8,
        }
    }

    fn on_white(self, value: u8, alpha: u8) -> u8 {
        match self {
            Self::AsSeen => ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8,
            Self::AsPublished => value,
        }
    }

    fn on_white_16(self, value: u16, alpha: u16) -> u8 {
        let (value, alpha) = (u64::from(value), u64::from(alpha));
        match self {
            Self::AsSeen => {
                let sum = value * alpha + 65_535 * (65_535 - alpha);
                // Blend and narrow in one rounding: to bytes is a division by 257.
                ((sum + 65_535 * 257 / 2) / (65_535 * 257)) as u8
            }
            Self::AsPublished => (value >> 8) as u8,
        }
    }
}

fn to_rgb(picture: DynamicImage, reading: Reading) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let grey = |value: u8| [value; 3];
    // Reserved at once: bytes that are collected one by one end up in up to twice the memory.
    let mut bytes = Vec::with_capacity(width as usize * height as usize * 3);
    match picture {
        DynamicImage::ImageRgb8(pixels) => return pixels,
        DynamicImage::ImageLuma8(pixels) => bytes.extend(pixels.iter().flat_map(|v| grey(*v))),
        DynamicImage::ImageLumaA8(pixels) => {
            bytes.extend(pixels.pixels().flat_map(|p| grey(reading.on_white(p.0[0], p.0[1]))));
        }
        DynamicImage::ImageRgba8(pixels) => {
            bytes.extend(pixels.pixels().flat_map(|p| [0, 1, 2].map(|c| reading.on_white(p.0[c], p.0[3]))));
        }
        DynamicImage::ImageLuma16(pixels) => bytes.extend(pixels.iter().flat_map(|v| grey(reading.byte(*v)))),
        DynamicImage::ImageLumaA16(pixels) => {
            bytes.extend(pixels.pixels().flat_map(|p| grey(reading.on_white_16(p.0[0], p.0[1]))));
        }
        DynamicImage::ImageRgb16(pixels) => bytes.extend(pixels.iter().map(|v| reading.byte(*v))),
        DynamicImage::ImageRgba16(pixels) => {
            bytes.extend(pixels.pixels().flat_map(|p| [0, 1, 2].map(|c| reading.on_white_16(p.0[c], p.0[3]))));
        }
        other => return other.to_rgb8(),
    }
    RgbImage::from_raw(width, height, bytes).expect("three bytes were made of every pixel")
}

#[cfg(test)]
mod tests;
