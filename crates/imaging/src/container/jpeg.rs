//! JPEG: markers, most of them with a length and data, and entropy-coded data after each start of scan.

use std::{borrow::Cow, ops::Range};

use super::{Metadata, Profile, metadata::Xmp, without};

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;

/// Application data that changes the meaning of the colours, by Adobe.
const ADOBE: u8 = 0xEE;

#[derive(Clone)]
struct Segment<'a> {
    marker: u8,
    /// What follows the length, without entropy-coded data.
    data: &'a [u8],
    range: Range<usize>,
}

impl Segment<'_> {
    /// Whether it is application data or a comment that decoding does not need.
    fn is_ancillary(&self) -> bool {
        matches!(self.marker, 0xE1..=0xEF | 0xFE) && self.marker != ADOBE
    }

    /// Whether it is a frame header: `SOF0` to `SOF15` without tables and the reserved marker among them.
    fn is_frame(&self) -> bool {
        matches!(self.marker, 0xC0..=0xCF) && !matches!(self.marker, 0xC4 | 0xC8 | 0xCC)
    }
}

#[derive(Clone)]
struct Segments<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let bytes = self.bytes;
        let mut offset = self.offset;
        // Fill bytes are allowed before a marker, and some encoders write other stray bytes there.
        while *bytes.get(offset)? != 0xFF || matches!(bytes.get(offset + 1)?, 0x00 | 0xFF) {
            offset += 1;
        }
        let (start, marker) = (offset, *bytes.get(offset + 1)?);
        offset += 2;
        let mut data: &[u8] = &[];
        // Markers without a length: temporary, restart, start of image, end of image.
        if !matches!(marker, 0x01 | 0xD0..=END_OF_IMAGE) {
            let length = usize::from(u16::from_be_bytes([*bytes.get(offset)?, *bytes.get(offset + 1)?]));
            data = bytes.get(offset + 2..offset + length).unwrap_or_default();
            offset += length;
        }
        if marker == START_OF_SCAN {
            offset = scan_end(bytes, offset)?;
        }
        // Nothing is read behind the end of the picture.
        self.offset = if marker == END_OF_IMAGE { bytes.len() } else { offset };
        Some(Segment { marker, data, range: start..offset.min(bytes.len()) })
    }
}

fn segments(bytes: &[u8]) -> Segments<'_> {
    Segments { bytes, offset: 2 }
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

pub(super) fn is_complete(bytes: &[u8]) -> bool {
    segments(bytes).any(|segment| segment.marker == END_OF_IMAGE)
}

/// Returns width and height of the first frame: after the precision, height and width in 16 bits each.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    match segments(bytes).find(Segment::is_frame)?.data {
        [_, a, b, c, d, ..] => Some((u16::from_be_bytes([*c, *d]).into(), u16::from_be_bytes([*a, *b]).into())),
        _ => None,
    }
}

pub(super) fn essential(bytes: &[u8]) -> Cow<'_, [u8]> {
    without(bytes, segments(bytes).filter(Segment::is_ancillary).map(|segment| segment.range))
}

pub(super) fn metadata(bytes: &[u8]) -> Metadata<'_> {
    let mut metadata = Metadata::default();
    // A profile is split over segments: identifier, number from 1, count, data.
    let mut parts: Vec<(u8, &[u8])> = Vec::new();
    for segment in segments(bytes) {
        match (segment.marker, segment.data) {
            (0xE1, [b'E', b'x', b'i', b'f', 0, _, exif @ ..]) if metadata.exif.is_none() => metadata.exif = Some(exif),
            (0xE1, data) if metadata.xmp.is_none() => {
                metadata.xmp = data.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0").map(Xmp::Plain);
            }
            (0xE2, data) => {
                if let Some([number, _, part @ ..]) = data.strip_prefix(b"ICC_PROFILE\0")
                    && parts.len() < usize::from(u8::MAX)
                {
                    parts.push((*number, part));
                }
            }
            _ if segment.is_frame() => metadata.components = segment.data.get(5).copied(),
            _ => {}
        }
    }
    parts.sort_by_key(|(number, _)| *number);
    if !parts.is_empty() {
        metadata.profile = Some(Profile::Parts(parts.into_iter().map(|(_, part)| part).collect()));
    }
    metadata
}
