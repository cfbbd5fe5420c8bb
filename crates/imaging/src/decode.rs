//! Decoding of picture files to 8-bit RGB, within bounds.
//!
//! Reads PNG, JPEG, WebP, GIF, BMP and TIFF in all usual variants: grey, palette, transparency, 16 bits per channel,
//! CMYK. Of an animation or a document the first picture is decoded.

use std::io::Cursor;

use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, jpeg::JpegDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder,
};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, RgbImage};

use crate::colour;
use crate::container::Container;
use crate::error::ImageError;

/// Upper bound of decoding memory per pixel, in bytes. The largest cases are: PNG, 8 bytes (16-bit channels with
/// alpha) plus 3 bytes of result; JPEG with four components in several scans, 8 bytes of coefficients plus 3 bytes of
/// result; WebP, 15 bytes (animation, canvas and result, all with alpha); GIF, 12 bytes (a frame in colours and codes,
/// canvas, result). Applying the orientation needs less: it holds the result twice. The remainder covers later copies
/// of 3 bytes per pixel and the encoded file, made after the decoder is dropped.
const BYTES_PER_PIXEL: u64 = 16;

/// Decoders work in blocks of at most this many pixels on a side, including blocks that the picture's edge cuts.
const BLOCK: u64 = 32;

/// What decoders allocate whatever the file: tables of codes, windows, buffers.
const DECODER_BYTES: u64 = 1 << 20;

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
}

/// Decodes a picture as a viewer shows it: colours converted to sRGB by the file's profile, orientation applied,
/// transparency composited on white, 16-bit channels rounded to 8 bits.
///
/// A profile that cannot be used is ignored, as is unreadable metadata.
///
/// # Errors
///
/// If the file is not a complete PNG, JPEG, WebP, GIF, BMP or TIFF within `limits`. The size is read from the header,
/// before any pixel is decoded.
pub fn decode_image(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let container = accept(bytes, limits)?;
    guarded(container, || decode_upright(container, bytes, limits))
}

fn decode_upright(container: Container, bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let mut picture = decode(container, bytes, limits)?;
    let metadata = container.metadata(bytes);
    if let Some(profile) = metadata.profile.as_ref().filter(|_| !metadata.has_inks()) {
        picture = colour::to_srgb(picture, profile);
    }
    // Rotated last, as 8-bit RGB: a rotated copy of the decoder's output could be nearly three times as large.
    let mut upright = DynamicImage::ImageRgb8(to_rgb(picture, Reading::AsSeen));
    let orientation = metadata.orientation().and_then(Orientation::from_exif);
    upright.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(upright.into_rgb8())
}

/// Decodes a picture as the published code does (Pillow's `convert("RGB")`): no profile and no orientation applied,
/// alpha dropped without compositing, upper 8 of 16 bits.
///
/// # Errors
///
/// As [`decode_image`].
pub fn decode_as_published(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let container = accept(bytes, limits)?;
    guarded(container, || Ok(to_rgb(decode(container, bytes, limits)?, Reading::AsPublished)))
}

/// Turns a panic of a decoder into an error: fuzzing finds new ones in every decoder, and the file causes the same one
/// each time it is tried again.
fn guarded<T>(container: Container, work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    // Nothing that the work changes outlives it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(ImageError::Damaged { format: container.name(), reason: "the decoder failed at it".to_owned() })
    })
}

/// Returns an upper bound in bytes of the memory that [`decode_image`] uses for this file, computed from its structure
/// without decoding a pixel. A caller that decodes concurrently can reserve that much first.
///
/// # Errors
///
/// As [`decode_image`], for faults that the structure shows.
pub fn decoding_bytes(bytes: &[u8], limits: &ImageLimits) -> Result<u64, ImageError> {
    let container = accept(bytes, limits)?;
    let frames = container.frames(bytes).into_iter().map(blocks_of);
    let pixels = frames.fold(blocks_of(container.size(bytes)?), u64::max);
    let metadata = container.metadata(bytes);
    let conversion = match &metadata.profile {
        Some(_) => metadata.bytes().saturating_mul(colour::PROFILE_FACTOR).saturating_add(colour::CONVERSION_BYTES),
        None => metadata.bytes(),
    };
    let per_pixel = container.bytes_per_pixel(bytes).max(BYTES_PER_PIXEL);
    let parts = [container.overhead(bytes), conversion, DECODER_BYTES];
    Ok(parts.into_iter().fold(pixels.saturating_mul(per_pixel), u64::saturating_add))
}

/// Number of pixels, rounded up to whole blocks on each side.
fn blocks_of((width, height): (u32, u32)) -> u64 {
    (u64::from(width) + BLOCK - 1).saturating_mul(u64::from(height) + BLOCK - 1)
}

/// Detects the format of a file after checking its length, its sizes and its completeness.
fn accept(bytes: &[u8], limits: &ImageLimits) -> Result<Container, ImageError> {
    let container = Container::sniff(bytes)?;
    limits.check_bytes(bytes)?;
    limits.check_size(container.size(bytes)?)?;
    container.require_complete(bytes)?;
    container.frames(bytes).into_iter().try_for_each(|frame| limits.check_size(frame))?;
    container.require_bounded(bytes)?;
    Ok(container)
}

fn decode(container: Container, bytes: &[u8], limits: &ImageLimits) -> Result<DynamicImage, ImageError> {
    let essential = container.essential(bytes);
    let size = container.size(bytes)?;
    let picture = open(container, &essential, limits).and_then(|mut decoder| {
        if decoder.dimensions() != size {
            let reason = "it states two sizes".to_owned();
            return Err(ImageError::Damaged { format: container.name(), reason }.into());
        }
        decoder.set_limits(limits.for_decoder())?;
        Ok(DynamicImage::from_decoder(decoder)?)
    });
    picture.map_err(|failure| failure.explain(container))
}

/// Opens a decoder, which reads the header.
fn open<'a>(
    container: Container,
    bytes: &'a [u8],
    limits: &ImageLimits,
) -> Result<Box<dyn ImageDecoder + 'a>, Failure> {
    let input = Cursor::new(bytes);
    Ok(match container {
        Container::Png => Box::new(PngDecoder::with_limits(input, limits.for_decoder())?),
        Container::Jpeg => Box::new(JpegDecoder::new(input)?),
        Container::Webp => Box::new(WebPDecoder::new(input)?),
        Container::Gif => Box::new(GifDecoder::new(input)?),
        Container::Bmp => Box::new(BmpDecoder::new(input)?),
        Container::Tiff => Box::new(TiffDecoder::new(input)?),
    })
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

/// Makes one line, shortens it and drops what is invisible or changes the direction, because decoders may quote the
/// file.
fn one_line(text: &str) -> String {
    let is_odd = |c: &char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !is_odd(c)).take(200).collect()
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

/// Returns the media type of a picture in one of the formats that can be read, by its first bytes.
pub fn media_type(bytes: &[u8]) -> Option<&'static str> {
    Some(match Container::sniff(bytes).ok()? {
        Container::Png => "image/png",
        Container::Jpeg => "image/jpeg",
        Container::Webp => "image/webp",
        Container::Gif => "image/gif",
        Container::Bmp => "image/bmp",
        Container::Tiff => "image/tiff",
    })
}

#[cfg(test)]
mod tests;
