//! WebP: a RIFF container, whose chunks have a type, a length and data that is padded to an even length.

use std::borrow::Cow;

use super::{
    Metadata, Profile, little_endian, little_endian_16,
    metadata::Xmp,
    webp_lossless::{self, Codes},
};
use crate::error::ImageError;

/// The decoder allocates a partition of coefficients by its stated length, in 24 bits, before it reads it.
const PARTITION: u64 = 1 << 24;

/// The most groups of entropy codes. The usual encoder makes up to 2,600 (`MAX_HUFF_IMAGE_SIZE` in libwebp).
const MAX_GROUPS: u32 = 4_096;

/// Iterates over RIFF chunks. Yields the type and all bytes from the start of the chunk's data.
fn riff_chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize, &[u8])> {
    std::iter::from_fn(move || {
        let (head, body) = bytes.split_at_checked(8)?;
        let length = usize::try_from(little_endian(head, 4)?).ok()?;
        bytes = body.get(length.checked_add(length % 2)?..).unwrap_or_default();
        Some((&head[..4], length, body))
    })
}

/// Iterates over the type and data of the container's chunks.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let inside = bytes.get(12..end(bytes).unwrap_or(bytes.len())).unwrap_or_default();
    riff_chunks(inside).map(|(kind, length, body)| (kind, body.get(..length).unwrap_or(body)))
}

/// Returns width and height of the canvas, or of the only frame.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let (kind, _, body) = riff_chunks(bytes.get(12..)?).next()?;
    if kind != b"VP8X" {
        return frame_size(kind, body);
    }
    let side = |offset: usize| Some((little_endian(body, offset)? & 0xFF_FFFF) + 1);
    // The last side has three bytes and may end the chunk, so it is read from one byte before.
    Some((side(4)?, (little_endian(body, 6)? >> 8) + 1))
}

/// Returns type and data of the chunks that the decoder reads pixels from: the first of each kind, and those of the
/// first frame of an animation.
fn pixel_chunks(bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    const KINDS: [&[u8]; 3] = [b"VP8 ", b"VP8L", b"ALPH"];
    let (mut found, mut seen) = (Vec::new(), [false; KINDS.len()]);
    let mut is_animated = false;
    for (kind, body) in chunks(bytes) {
        if kind == b"ANMF" && !std::mem::replace(&mut is_animated, true) {
            // An animation frame: a 16-byte header, then optionally an alpha chunk, then the pixels.
            let inner = riff_chunks(body.get(16..).unwrap_or_default());
            found.extend(inner.take(2).map(|(kind, length, body)| (kind, body.get(..length).unwrap_or(body))));
        } else if let Some(place) = KINDS.iter().position(|known| *known == kind)
            && !std::mem::replace(&mut seen[place], true)
        {
            found.push((kind, body));
        }
    }
    found
}

/// Returns width and height of the first picture's frames. The decoder allocates a frame's pixels before it compares
/// the frame's size with the canvas.
pub(super) fn frames(bytes: &[u8]) -> Vec<(u32, u32)> {
    pixel_chunks(bytes).into_iter().filter_map(|(kind, body)| frame_size(kind, body)).collect()
}

/// Returns the entropy codes of each lossless stream; nothing of a damaged one.
fn codes(bytes: &[u8]) -> impl Iterator<Item = Option<Codes>> {
    /// The bits of an alpha chunk's first byte that say how it is compressed, and the value for a lossless stream.
    const METHOD: u8 = 3;
    const LOSSLESS: u8 = 1;
    let chunks = pixel_chunks(bytes);
    // Of a file with a still picture and an animation, either may be decoded.
    let sizes: Vec<_> = chunks.iter().filter_map(|(kind, body)| frame_size(kind, body)).chain(size(bytes)).collect();
    chunks.into_iter().filter_map(move |(kind, body)| match (kind, body) {
        (b"VP8L", _) => Some(webp_lossless::codes(body)),
        (b"ALPH", [flags, stream @ ..]) if flags & METHOD == LOSSLESS => {
            let codes =
                sizes.iter().filter_map(|(width, height)| webp_lossless::codes_of_size(stream, *width, *height));
            Some(codes.max_by_key(|codes| codes.groups))
        }
        _ => None,
    })
}

/// Whether the first frame of an animation consists of what the decoder takes it for without looking: pixels, or
/// transparency and then lossy pixels, of the size that the frame's header states.
fn frame_is_sound(bytes: &[u8]) -> bool {
    let Some((_, frame)) = chunks(bytes).find(|(kind, _)| kind == b"ANMF") else { return true };
    // After the place, width and height less one in three bytes each.
    let side = |offset| little_endian(frame, offset).map(|side| (side & 0xFF_FFFF) + 1);
    let mut inner = riff_chunks(frame.get(16..).unwrap_or_default());
    let pixels = match inner.next() {
        Some((b"ALPH", _, _)) => inner.next().filter(|(kind, ..)| kind == b"VP8 "),
        first => first,
    };
    let stated = side(6).zip(side(9));
    stated.is_some() && pixels.and_then(|(kind, _, body)| frame_size(kind, body)) == stated
}

/// Refuses more entropy codes than the largest picture has use for, and frames that the decoder would not check.
pub(super) fn require_bounded(bytes: &[u8]) -> Result<(), ImageError> {
    let (format, mut groups) = ("webp", 0);
    if !frame_is_sound(bytes) {
        return Err(ImageError::Damaged { format, reason: "a frame has no pixels of its size".to_owned() });
    }
    for codes in codes(bytes) {
        let damaged = || ImageError::Damaged { format, reason: "its entropy codes cannot be read".to_owned() };
        groups = groups.max(codes.ok_or_else(damaged)?.groups);
    }
    if groups > MAX_GROUPS {
        let reason = format!("it has {groups} groups of entropy codes");
        return Err(ImageError::UnsupportedFlavour { format, reason });
    }
    Ok(())
}

/// Returns the size in the header of a lossy or lossless frame; each side has 14 bits.
fn frame_size(kind: &[u8], body: &[u8]) -> Option<(u32, u32)> {
    const SIDE: u32 = 0x3FFF;
    match kind {
        b"VP8 " => {
            let (width, height) = (little_endian_16(body, 6)?, little_endian_16(body, 8)?);
            Some((u32::from(width) & SIDE, u32::from(height) & SIDE))
        }
        b"VP8L" => {
            let sides = little_endian(body, 1)?;
            Some(((sides & SIDE) + 1, ((sides >> 14) & SIDE) + 1))
        }
        _ => None,
    }
}

/// Returns the offset after the container, whose chunks must lie within it.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
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

/// Keeps the first chunk of each kind that the first picture consists of.
pub(super) fn essential(bytes: &[u8]) -> Cow<'_, [u8]> {
    const KINDS: [&[u8]; 6] = [b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"];
    let mut kept: [Option<(&[u8], &[u8])>; 6] = [None; 6];
    let mut order = Vec::with_capacity(KINDS.len());
    let mut dropped = false;
    for (kind, data) in chunks(bytes) {
        match KINDS.iter().position(|known| *known == kind) {
            Some(place) if kept[place].is_none() => {
                kept[place] = Some((kind, data));
                order.push(place);
            }
            _ => dropped = true,
        }
    }
    if !dropped {
        return Cow::Borrowed(&bytes[..end(bytes).unwrap_or(bytes.len())]);
    }
    let length: usize = kept.iter().flatten().map(|(_, data)| data.len() + 9).sum();
    let mut file = Vec::with_capacity(length + 12);
    file.extend_from_slice(b"RIFF\0\0\0\0WEBP");
    for (kind, data) in order.into_iter().filter_map(|place| kept[place]) {
        write_chunk(&mut file, kind, data);
    }
    let length = u32::try_from(file.len() - 8).unwrap_or(u32::MAX);
    file[4..8].copy_from_slice(&length.to_le_bytes());
    Cow::Owned(file)
}

fn write_chunk(file: &mut Vec<u8>, kind: &[u8], data: &[u8]) {
    /// The flags of `VP8X` that announce a profile, EXIF data and XMP data.
    const METADATA: u8 = 0x20 | 0x08 | 0x04;
    file.extend_from_slice(kind);
    file.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    let start = file.len();
    file.extend_from_slice(data);
    if kind == b"VP8X"
        && let Some(flags) = file.get_mut(start)
    {
        *flags &= !METADATA;
    }
    if data.len() % 2 == 1 {
        file.push(0);
    }
}

pub(super) fn metadata(bytes: &[u8]) -> Metadata<'_> {
    let mut metadata = Metadata::default();
    for (kind, data) in chunks(bytes) {
        match kind {
            b"ICCP" if metadata.profile.is_none() => metadata.profile = Some(Profile::Whole(data)),
            b"EXIF" if metadata.exif.is_none() => metadata.exif = Some(data),
            b"XMP " if metadata.xmp.is_none() => metadata.xmp = Some(Xmp::Plain(data)),
            _ => {}
        }
    }
    metadata
}

/// The essential part, the coefficients in a vector that grows by doubling, and their copy; one partition whose stated
/// length is longer than the file; tables of entropy codes.
pub(super) fn overhead(bytes: &[u8]) -> u64 {
    let tables = codes(bytes).flatten().map(Codes::bytes).fold(0, u64::saturating_add);
    (bytes.len() as u64).saturating_mul(5).saturating_add(PARTITION).saturating_add(tables)
}
