//! Decoding of picture files to 8-bit RGB, within bounds.
//!
//! Reads PNG, JPEG and WebP in all usual variants: grey, palette, transparency, 16 bits per channel, CMYK. Of an
//! animation the first frame is decoded. Colour profiles are ignored.

use std::io::Cursor;

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, RgbImage};

use crate::container::{Container, png_dimensions, png_profile_length, webp_frames};
use crate::error::ImageError;

/// Upper bound of decoding memory per pixel, in bytes. The largest cases are: PNG, 8 bytes (16-bit channels with
/// alpha) plus 3 bytes of result; JPEG with four components in several scans, 8 bytes of coefficients plus 3 bytes of
/// result; WebP, 12 bytes (animation, canvas and result, all with alpha). Applying the EXIF orientation needs less: it
/// holds the result twice. The remainder covers later copies of 3 bytes per pixel and the encoded file, made after the
/// decoder is dropped.
const BYTES_PER_PIXEL: u64 = 16;

/// Decoders work in blocks of at most this many pixels on a side, including blocks that the picture's edge cuts.
const BLOCK: u64 = 32;

/// The largest compression ratio of deflate.
const DEFLATE_RATIO: u64 = 1_032;

/// Limits that are checked before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Maximum length of a file in bytes.
    pub max_bytes: u64,
    /// Maximum side in pixels.
    pub max_side: u32,
    /// Maximum number of pixels. Decoding uses at most about 16 bytes of memory per pixel, see [`decoding_bytes`].
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

    /// Returns the limits for the decoders' own allocations: four 16-bit channels per pixel plus the file's extra
    /// chunks.
    fn for_decoder(&self) -> image::Limits {
        let mut limits = image::Limits::no_limits();
        limits.max_image_width = Some(self.max_side);
        limits.max_image_height = Some(self.max_side);
        limits.max_alloc = Some(self.max_pixels.saturating_mul(8).saturating_add(self.max_bytes));
        limits
    }

    /// Returns the limits for opening a PNG: opening allocates one row and the extra chunks, some of which are
    /// inflated.
    fn for_png_opening(&self) -> image::Limits {
        let mut limits = self.for_decoder();
        limits.max_alloc = Some(self.png_extras());
        limits
    }

    fn png_extras(&self) -> u64 {
        self.max_bytes.saturating_add(u64::from(self.max_side).saturating_mul(8))
    }
}

/// Decodes a picture as a viewer shows it: EXIF orientation applied, transparency composited on white, 16-bit channels
/// rounded to 8 bits.
///
/// # Errors
///
/// If the file is not a complete PNG, JPEG or WebP within `limits`. The size is read from the header, before any pixel
/// is decoded.
pub fn decode_image(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let (picture, orientation) = decode(bytes, limits)?;
    // Rotated last, as 8-bit RGB: a rotated copy of the decoder's output could be nearly three times as large.
    let mut upright = DynamicImage::ImageRgb8(to_rgb(picture, Reading::AsSeen));
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

/// Decodes a picture as the published code does (Pillow's `convert("RGB")`): orientation not applied, alpha dropped
/// without compositing, upper 8 of 16 bits.
///
/// # Errors
///
/// As [`decode_image`].
pub fn decode_as_published(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    Ok(to_rgb(decode(bytes, limits)?.0, Reading::AsPublished))
}

/// Returns an upper bound in bytes of the memory that [`decode_image`] uses for this file, computed from the header
/// without decoding a pixel. A caller that decodes concurrently can reserve that much first.
///
/// # Errors
///
/// As [`decode_image`], for faults that the header shows.
pub fn decoding_bytes(bytes: &[u8], limits: &ImageLimits) -> Result<u64, ImageError> {
    let container = accept(bytes, limits)?;
    let (size, profile) = match container {
        // The PNG is not opened, because that would inflate the colour profile.
        Container::Png => (png_size(bytes)?, png_profile_length(bytes).unwrap_or(0) as u64),
        Container::Jpeg | Container::Webp => {
            let decoder = open(container, bytes, limits).map_err(|failure| failure.explain(container))?;
            (decoder.dimensions(), 0)
        }
    };
    let frames = if container == Container::Webp { webp_frames(bytes) } else { Vec::new() };
    let pixels = frames.into_iter().fold(blocks_of(size), |most, frame| most.max(blocks_of(frame)));
    // Decoders hold up to two copies of the file or its parts.
    let file = (bytes.len() as u64).saturating_mul(2);
    let inflated = profile.saturating_mul(DEFLATE_RATIO).min(limits.png_extras());
    Ok(pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(file).saturating_add(inflated))
}

/// Number of pixels, rounded up to whole blocks on each side.
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

/// Detects the format of a file after checking its length and completeness.
fn accept(bytes: &[u8], limits: &ImageLimits) -> Result<Container, ImageError> {
    let container = Container::sniff(bytes)?;
    limits.check_bytes(bytes)?;
    if container == Container::Png {
        limits.check_size(png_size(bytes)?)?;
    }
    container.require_complete(bytes)?;
    Ok(container)
}

/// Opens a decoder, which reads the header, and checks the picture's size against the limits.
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

/// A rejection by this module, or an error of the decoder.
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

/// Replaces line breaks and shortens the text, because decoders may quote the file.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
}

/// How transparency and 16-bit channels are converted.
#[derive(Clone, Copy)]
enum Reading {
    AsSeen,
    AsPublished,
}

impl Reading {
    fn byte(self, value: u16) -> u8 {
        match self {
            // 65535 / 255 = 257 is odd, so adding half of it rounds to nearest and no ties occur.
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
                // Composites and narrows to 8 bits (a division by 257) in one rounding step.
                ((sum + 65_535 * 257 / 2) / (65_535 * 257)) as u8
            }
            Self::AsPublished => (value >> 8) as u8,
        }
    }
}

fn to_rgb(picture: DynamicImage, reading: Reading) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let grey = |value: u8| [value; 3];
    // Allocated once: a vector that grows byte by byte ends up with up to twice the capacity.
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
