//! BMP: a file header, an information header that begins with its own length, colours, rows padded to four bytes.

use super::{Metadata, Profile, little_endian, little_endian_16};

/// The length of the file header.
const FILE_HEADER: usize = 14;

/// The information header that can embed a profile.
const VERSION_5: u32 = 124;

/// The lengths of information headers: OS/2 and Windows 2 to 5.
const INFORMATION_HEADERS: [u32; 7] = [12, 16, 40, 52, 56, 108, VERSION_5];

/// Whether an information header of a known length follows: two letters alone begin many texts.
pub(super) fn has_header(bytes: &[u8]) -> bool {
    little_endian(bytes, FILE_HEADER).is_some_and(|length| INFORMATION_HEADERS.contains(&length))
}

pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    if little_endian(bytes, FILE_HEADER)? == 12 {
        return Some((little_endian_16(bytes, 18)?.into(), little_endian_16(bytes, 20)?.into()));
    }
    // A negative height means that rows are stored from the top.
    let side = |offset| Some(little_endian(bytes, offset)?.cast_signed().unsigned_abs());
    Some((side(18)?, side(22)?))
}

/// Whether all rows lie within the file. Of compressed rows only the decoder knows.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let end = rows_end(bytes);
    end.is_some_and(|end| end <= bytes.len() as u64)
}

fn rows_end(bytes: &[u8]) -> Option<u64> {
    /// Run-length encoding of 8 and 4 bits.
    const COMPRESSED: [u32; 2] = [1, 2];
    let (width, height) = size(bytes)?;
    let start = u64::from(little_endian(bytes, 10)?);
    let is_core = little_endian(bytes, FILE_HEADER)? == 12;
    if !is_core && COMPRESSED.contains(&little_endian(bytes, 30)?) {
        return Some(start);
    }
    let bits = little_endian_16(bytes, if is_core { 24 } else { 28 })?;
    let row = u64::from(width).checked_mul(bits.into())?.div_ceil(32).checked_mul(4)?;
    start.checked_add(row.checked_mul(height.into())?)
}

pub(super) fn metadata(bytes: &[u8]) -> Metadata<'_> {
    Metadata { profile: embedded_profile(bytes), ..Metadata::default() }
}

/// A profile's place is counted from the information header.
fn embedded_profile(bytes: &[u8]) -> Option<Profile<'_>> {
    let header = bytes.get(FILE_HEADER..)?;
    if little_endian(header, 0)? != VERSION_5 || header.get(56..60)? != b"DEBM" {
        return None;
    }
    let (start, length) = (little_endian(header, 112)? as usize, little_endian(header, 116)? as usize);
    Some(Profile::Whole(header.get(start..start.checked_add(length)?)?))
}
