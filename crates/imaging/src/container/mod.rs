//! The container structure of picture files: format, size, completeness, metadata, and the part that a decoder needs.
//!
//! Everything here reads the structure alone, allocates nothing but the copy that [`Container::essential`] makes, and
//! happens before anything is decoded. Decoders accept truncated files (a truncated JPEG is filled with grey), so
//! completeness is checked here. Bytes after the end of the picture are allowed.
//!
//! Decoders are given a file without its metadata: they would keep text, EXIF data and profiles in memory, some of them
//! inflated, in many times the size of the file.

use std::borrow::Cow;

use crate::error::ImageError;

mod bmp;
mod foreign;
mod gif;
mod jpeg;
mod metadata;
mod png;
mod tiff;
mod webp;
mod webp_lossless;

pub(crate) use metadata::{Metadata, Profile};

/// Supported input formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Png,
    Jpeg,
    Webp,
    Gif,
    Bmp,
    Tiff,
}

impl Container {
    /// Detects the format from the first bytes.
    pub(crate) fn sniff(bytes: &[u8]) -> Result<Self, ImageError> {
        match bytes {
            [] => Err(ImageError::Empty),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(Self::Png),
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::Webp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Self::Gif),
            [b'B', b'M', ..] if bmp::has_header(bytes) => Ok(Self::Bmp),
            [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] if !tiff::is_raw_photo(bytes) => {
                Ok(Self::Tiff)
            }
            _ => Err(foreign::explain(bytes)),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }

    /// Returns width and height from the header.
    pub(crate) fn size(self, bytes: &[u8]) -> Result<(u32, u32), ImageError> {
        let size = match self {
            Self::Png => png::size(bytes),
            Self::Jpeg => jpeg::size(bytes),
            Self::Webp => webp::size(bytes),
            Self::Gif => gif::size(bytes),
            Self::Bmp => bmp::size(bytes),
            Self::Tiff => tiff::size(bytes),
        };
        size.ok_or_else(|| self.without_header(bytes))
    }

    fn without_header(self, bytes: &[u8]) -> ImageError {
        let format = self.name();
        match self.require_complete(bytes) {
            Ok(()) => ImageError::Damaged { format, reason: "it states no size".to_owned() },
            Err(error) => error,
        }
    }

    /// Returns the sizes of the first picture's parts where a decoder allocates them before it compares them with the
    /// size of the whole.
    pub(crate) fn frames(self, bytes: &[u8]) -> Vec<(u32, u32)> {
        match self {
            Self::Webp => webp::frames(bytes),
            Self::Gif => gif::frame_size(bytes).into_iter().collect(),
            Self::Tiff => tiff::tile_size(bytes).into_iter().collect(),
            Self::Png | Self::Jpeg | Self::Bmp => Vec::new(),
        }
    }

    /// Rejects a file that ends before its first picture does, or that has parts longer than the file.
    pub(crate) fn require_complete(self, bytes: &[u8]) -> Result<(), ImageError> {
        let complete = match self {
            Self::Png => png::end(bytes).is_some(),
            Self::Jpeg => jpeg::is_complete(bytes),
            Self::Webp => webp::end(bytes).is_some(),
            Self::Gif => gif::first_picture(bytes).is_some(),
            Self::Bmp => bmp::is_complete(bytes),
            Self::Tiff => tiff::is_complete(bytes),
        };
        if complete { Ok(()) } else { Err(ImageError::Truncated { format: self.name() }) }
    }

    /// Rejects variants for which the decoder has no bounds.
    pub(crate) fn require_bounded(self, bytes: &[u8]) -> Result<(), ImageError> {
        match self {
            Self::Tiff => tiff::require_bounded(bytes),
            Self::Webp => webp::require_bounded(bytes),
            Self::Png | Self::Jpeg | Self::Gif | Self::Bmp => Ok(()),
        }
    }

    /// Returns colour profile and orientation as they are stored.
    pub(crate) fn metadata(self, bytes: &[u8]) -> Metadata<'_> {
        match self {
            Self::Png => png::metadata(bytes),
            Self::Jpeg => jpeg::metadata(bytes),
            Self::Webp => webp::metadata(bytes),
            Self::Gif => gif::metadata(bytes),
            Self::Bmp => bmp::metadata(bytes),
            Self::Tiff => tiff::metadata(bytes),
        }
    }

    /// Returns the file without what decoding the first picture does not need.
    pub(crate) fn essential(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Png => png::essential(bytes),
            Self::Jpeg => jpeg::essential(bytes),
            Self::Webp => webp::essential(bytes),
            Self::Gif => gif::essential(bytes),
            Self::Bmp | Self::Tiff => Cow::Borrowed(bytes),
        }
    }

    /// Returns a bound in bytes on the decoder's memory per pixel, if the file states more than usual.
    pub(crate) fn bytes_per_pixel(self, bytes: &[u8]) -> u64 {
        match self {
            Self::Tiff => tiff::bytes_per_pixel(bytes),
            _ => 0,
        }
    }

    /// Returns a bound in bytes on what the decoder keeps of the file, pixels and profile aside.
    pub(crate) fn overhead(self, bytes: &[u8]) -> u64 {
        let length = bytes.len() as u64;
        match self {
            // The essential part, and the JPEG decoder's copy of it.
            Self::Png | Self::Jpeg | Self::Gif | Self::Bmp => length.saturating_mul(2),
            Self::Webp => webp::overhead(bytes),
            Self::Tiff => length.saturating_add(tiff::directory_bytes(bytes)),
        }
    }
}

/// Copies the parts of a file that lie outside the given ranges, which are in order.
fn without<'a>(bytes: &'a [u8], dropped: impl Iterator<Item = std::ops::Range<usize>> + Clone) -> Cow<'a, [u8]> {
    let excess: usize = dropped.clone().map(|range| range.len()).sum();
    if excess == 0 {
        return Cow::Borrowed(bytes);
    }
    let mut kept = Vec::with_capacity(bytes.len().saturating_sub(excess));
    let mut start = 0;
    for range in dropped {
        kept.extend_from_slice(bytes.get(start..range.start).unwrap_or_default());
        start = range.end;
    }
    kept.extend_from_slice(bytes.get(start..).unwrap_or_default());
    Cow::Owned(kept)
}

fn big_endian(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

fn little_endian(bytes: &[u8], offset: usize) -> Option<u32> {
    big_endian(bytes, offset).map(u32::swap_bytes)
}

fn little_endian_16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}
