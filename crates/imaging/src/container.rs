//! The container structure of picture files: format, size and completeness.
//!
//! Decoders accept truncated files (a truncated JPEG is filled with grey), so completeness is checked here, from the
//! structure alone and before anything is decoded. Bytes after the end of the picture are allowed.

use crate::error::ImageError;

/// Supported input formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Png,
    Jpeg,
    Webp,
}

impl Container {
    /// Detects the format from the first bytes.
    pub(crate) fn sniff(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        match image::guess_format(bytes) {
            Ok(image::ImageFormat::Png) => Ok(Self::Png),
            Ok(image::ImageFormat::Jpeg) => Ok(Self::Jpeg),
            Ok(image::ImageFormat::WebP) => Ok(Self::Webp),
            Ok(other) => {
                Err(ImageError::UnsupportedFormat { format: other.extensions_str().first().unwrap_or(&"other") })
            }
            Err(_) => Err(ImageError::NotAnImage),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }

    /// Rejects a file that ends before its format's end marker, or that has chunks longer than the file.
    pub(crate) fn require_complete(self, bytes: &[u8]) -> Result<(), ImageError> {
        let end = match self {
            Self::Png => png_end(bytes),
            Self::Jpeg => jpeg_end(bytes),
            Self::Webp => webp_end(bytes),
        };
        end.map(|_| ()).ok_or(ImageError::Truncated { format: self.name() })
    }
}

/// Returns width and height from a PNG's first chunk. Parsed here because the `image` decoder allocates rows before it
/// reports the size.
pub(crate) fn png_dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    if bytes.get(12..16)? != b"IHDR" {
        return None;
    }
    Some((big_endian(bytes, 16)?, big_endian(bytes, 20)?))
}

/// Returns the compressed length in bytes of a PNG's colour profile.
pub(crate) fn png_profile_length(bytes: &[u8]) -> Option<usize> {
    let mut offset = 8;
    loop {
        let length = usize::try_from(big_endian(bytes, offset)?).ok()?;
        match bytes.get(offset + 4..offset + 8)? {
            b"iCCP" => return Some(length),
            // The decoder ignores profiles after the first pixel data.
            b"IDAT" => return None,
            _ => {}
        }
        offset = offset.checked_add(12)?.checked_add(length)?;
    }
}

/// Returns width and height of every frame in a WebP from the frames' headers. The decoder allocates a frame's pixels
/// before it compares the frame's size with the picture's, so the sizes must be checked first.
pub(crate) fn webp_frames(bytes: &[u8]) -> Vec<(u32, u32)> {
    let mut frames = Vec::new();
    // Chunks after the container's end are included, because the decoder may read them.
    for (kind, body) in riff_chunks(bytes.get(12..).unwrap_or_default()) {
        frames.extend(webp_frame_size(kind, body));
        if kind == b"ANMF" {
            // An animation frame: a 16-byte header, then optionally an alpha chunk, then the pixels.
            let inner = riff_chunks(body.get(16..).unwrap_or_default());
            frames.extend(inner.take(2).filter_map(|(kind, body)| webp_frame_size(kind, body)));
        }
    }
    frames
}

/// Returns the size in the header of a lossy or lossless frame; each side has 14 bits.
fn webp_frame_size(kind: &[u8], body: &[u8]) -> Option<(u32, u32)> {
    const SIDE: u32 = 0x3FFF;
    match kind {
        b"VP8 " => {
            let sides = little_endian(body, 6)?;
            Some((sides & SIDE, (sides >> 16) & SIDE))
        }
        b"VP8L" => {
            let sides = little_endian(body, 1)?;
            Some(((sides & SIDE) + 1, ((sides >> 14) & SIDE) + 1))
        }
        _ => None,
    }
}

/// Iterates over RIFF chunks (type, length, data, padded to an even length). Yields the type and all bytes from the
/// start of the chunk's data.
fn riff_chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (head, body) = bytes.split_at_checked(8)?;
        let length = usize::try_from(little_endian(head, 4)?).ok()?;
        bytes = body.get(length.checked_add(length % 2)?..).unwrap_or_default();
        Some((&head[..4], body))
    })
}

/// Returns the offset after `IEND`, following the chunks (length, type, data, checksum).
fn png_end(bytes: &[u8]) -> Option<usize> {
    let mut offset = 8;
    loop {
        let length = usize::try_from(big_endian(bytes, offset)?).ok()?;
        let kind = bytes.get(offset + 4..offset + 8)?;
        let next = offset.checked_add(12)?.checked_add(length)?;
        if next > bytes.len() {
            return None;
        }
        if kind == b"IEND" {
            return Some(next);
        }
        offset = next;
    }
}

/// Returns the offset after the end-of-image marker, following the markers.
fn jpeg_end(bytes: &[u8]) -> Option<usize> {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let mut offset = 2;
    loop {
        // Fill bytes are allowed before a marker, and some encoders write other stray bytes there.
        while *bytes.get(offset)? != 0xFF || matches!(bytes.get(offset + 1)?, 0x00 | 0xFF) {
            offset += 1;
        }
        let marker = *bytes.get(offset + 1)?;
        offset += 2;
        match marker {
            END_OF_IMAGE => return Some(offset),
            // Markers without a length: temporary, restart, start of image.
            0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*bytes.get(offset)?, *bytes.get(offset + 1)?]));
        offset += length;
        if marker == START_OF_SCAN {
            offset = scan_end(bytes, offset)?;
        }
    }
}

/// Returns the offset of the first marker in entropy-coded data that is neither a stuffed zero nor a restart.
fn scan_end(bytes: &[u8], mut offset: usize) -> Option<usize> {
    loop {
        offset += bytes.get(offset..)?.iter().position(|byte| *byte == 0xFF)?;
        match bytes.get(offset + 1)? {
            0x00 | 0xD0..=0xD7 => offset += 2,
            0xFF => offset += 1,
            _ => return Some(offset),
        }
    }
}

/// Returns the offset after the RIFF container, whose chunks must lie within it.
fn webp_end(bytes: &[u8]) -> Option<usize> {
    let end = usize::try_from(little_endian(bytes, 4)?).ok()?.checked_add(8)?;
    if end > bytes.len() {
        return None;
    }
    let mut offset = 12;
    while offset + 8 <= end {
        let length = usize::try_from(little_endian(bytes, offset + 4)?).ok()?;
        offset = offset.checked_add(8)?.checked_add(length)?;
        if offset > end {
            return None;
        }
        offset += length % 2;
    }
    Some(end)
}

fn big_endian(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

fn little_endian(bytes: &[u8], offset: usize) -> Option<u32> {
    big_endian(bytes, offset).map(u32::swap_bytes)
}
