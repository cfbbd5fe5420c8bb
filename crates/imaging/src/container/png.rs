//! PNG: a signature, then chunks of length, type, data and checksum.

use std::{borrow::Cow, ops::Range};

use super::{Metadata, Profile, big_endian, metadata::Xmp, without};

/// A chunk whose data and checksum lie within the file.
#[derive(Clone)]
struct Chunk<'a> {
    kind: &'a [u8],
    data: &'a [u8],
    range: Range<usize>,
}

impl Chunk<'_> {
    /// Whether decoding the picture needs it: critical chunks begin with a capital letter, and `tRNS` is transparency.
    fn is_essential(&self) -> bool {
        self.kind[0].is_ascii_uppercase() || self.kind == b"tRNS"
    }
}

#[derive(Clone)]
struct Chunks<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let start = self.offset;
        let length = usize::try_from(big_endian(self.bytes, start)?).ok()?;
        let kind = self.bytes.get(start + 4..start + 8)?;
        let end = start.checked_add(12)?.checked_add(length)?;
        let data = self.bytes.get(start + 8..end - 4).filter(|_| end <= self.bytes.len())?;
        // Nothing is read behind the end of the picture.
        self.offset = if kind == b"IEND" { self.bytes.len() } else { end };
        Some(Chunk { kind, data, range: start..end })
    }
}

fn chunks(bytes: &[u8]) -> Chunks<'_> {
    Chunks { bytes, offset: 8 }
}

/// Returns width and height from the first chunk.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    if bytes.get(12..16)? != b"IHDR" {
        return None;
    }
    Some((big_endian(bytes, 16)?, big_endian(bytes, 20)?))
}

/// Returns the offset after `IEND`.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    chunks(bytes).find(|chunk| chunk.kind == b"IEND").map(|chunk| chunk.range.end)
}

pub(super) fn essential(bytes: &[u8]) -> Cow<'_, [u8]> {
    let end = end(bytes).unwrap_or(bytes.len());
    without(&bytes[..end], chunks(bytes).filter(|chunk| !chunk.is_essential()).map(|chunk| chunk.range))
}

/// Colour by order of precedence: `cICP`, `iCCP`, `sRGB`. `gAMA` and `cHRM` alone are ignored, as by Pillow: what
/// writers put there is unreliable.
pub(super) fn metadata(bytes: &[u8]) -> Metadata<'_> {
    let mut metadata = Metadata::default();
    for chunk in chunks(bytes) {
        match chunk.kind {
            b"cICP" => metadata.profile = code_points(chunk.data).or(metadata.profile),
            b"iCCP" if metadata.profile.is_none() => metadata.profile = compressed_profile(chunk.data),
            b"eXIf" if metadata.exif.is_none() => metadata.exif = Some(chunk.data),
            b"iTXt" if metadata.xmp.is_none() => metadata.xmp = xmp(chunk.data),
            _ => {}
        }
    }
    metadata
}

fn code_points(data: &[u8]) -> Option<Profile<'static>> {
    <[u8; 4]>::try_from(data).ok().map(Profile::CodePoints)
}

/// A name of up to 79 bytes, a zero, the method zero, then the compressed profile.
fn compressed_profile(data: &[u8]) -> Option<Profile<'_>> {
    let name = data.iter().take(80).position(|byte| *byte == 0)?;
    match data.get(name + 1..)? {
        [0, deflated @ ..] => Some(Profile::Deflated(deflated)),
        _ => None,
    }
}

/// Keyword, zero, whether it is compressed, method, language, zero, translated keyword, zero, text.
fn xmp(data: &[u8]) -> Option<Xmp<'_>> {
    let rest = data.strip_prefix(b"XML:com.adobe.xmp\0")?;
    let (flags, rest) = rest.split_at_checked(2)?;
    let mut parts = rest.splitn(3, |byte| *byte == 0);
    let text = parts.nth(2)?;
    Some(if flags[0] == 0 { Xmp::Plain(text) } else { Xmp::Deflated(text) })
}
