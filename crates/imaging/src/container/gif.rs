//! GIF: a header, a table of colours, then extensions and pictures, whose data is split into sub-blocks of up to 255
//! bytes.

use std::{borrow::Cow, ops::Range};

use super::{Metadata, Profile, little_endian_16};

const TRAILER: u8 = 0x3B;
const EXTENSION: u8 = 0x21;
const IMAGE: u8 = 0x2C;

/// The extension that gives a picture its transparent colour.
const GRAPHIC_CONTROL: u8 = 0xF9;

/// Where the parts of the first picture lie.
pub(super) struct FirstPicture {
    header: usize,
    control: Option<Range<usize>>,
    image: Range<usize>,
}

pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    Some((little_endian_16(bytes, 6)?.into(), little_endian_16(bytes, 8)?.into()))
}

/// Returns width and height of the first picture, which may be larger than the screen.
pub(super) fn frame_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let start = first_picture(bytes)?.image.start;
    Some((little_endian_16(bytes, start + 5)?.into(), little_endian_16(bytes, start + 7)?.into()))
}

/// Finds the first picture, whose data must end within the file.
pub(super) fn first_picture(bytes: &[u8]) -> Option<FirstPicture> {
    let header = header_end(bytes)?;
    let (mut offset, mut control) = (header, None);
    loop {
        let start = offset;
        match *bytes.get(start)? {
            EXTENSION => {
                offset = sub_blocks_end(bytes, start + 2)?;
                if *bytes.get(start + 1)? == GRAPHIC_CONTROL {
                    control = Some(start..offset);
                }
            }
            IMAGE => {
                // Descriptor, table of colours, size of the codes, data.
                let data = start + 10 + colour_table(*bytes.get(start + 9)?) + 1;
                return Some(FirstPicture { header, control, image: start..sub_blocks_end(bytes, data)? });
            }
            TRAILER => return None,
            // Some writers pad.
            _ => offset += 1,
        }
    }
}

fn header_end(bytes: &[u8]) -> Option<usize> {
    Some(13 + colour_table(*bytes.get(10)?))
}

/// Returns the length in bytes of the table of colours that the flags announce.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn sub_blocks_end(bytes: &[u8], mut offset: usize) -> Option<usize> {
    loop {
        match *bytes.get(offset)? {
            0 => return Some(offset + 1),
            length => offset += usize::from(length) + 1,
        }
    }
}

pub(super) fn essential(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some(FirstPicture { header, control, image }) = first_picture(bytes) else { return Cow::Borrowed(bytes) };
    let control = control.unwrap_or(0..0);
    let mut file = Vec::with_capacity(header + control.len() + image.len() + 1);
    for part in [0..header, control, image] {
        file.extend_from_slice(&bytes[part]);
    }
    file.push(TRAILER);
    Cow::Owned(file)
}

pub(super) fn metadata(bytes: &[u8]) -> Metadata<'_> {
    Metadata { profile: profile(bytes), ..Metadata::default() }
}

/// Finds the application extension of a colour profile, which lies before the first picture.
fn profile(bytes: &[u8]) -> Option<Profile<'_>> {
    let mut offset = header_end(bytes)?;
    while *bytes.get(offset)? == EXTENSION {
        let end = sub_blocks_end(bytes, offset + 2)?;
        if let Some(blocks) = bytes[offset..end].strip_prefix(b"\x21\xFF\x0BICCRGBG1012") {
            return Some(Profile::SubBlocks(blocks));
        }
        offset = end;
    }
    None
}
