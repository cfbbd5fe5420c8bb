//! TIFF and BigTIFF: a directory of entries (tag, type, count, value or its offset) describes the first page; its
//! pixels lie in strips or tiles anywhere in the file.

use super::{Metadata, Profile, metadata::Xmp};
use crate::error::ImageError;

/// The tags that are read here, by their names in the specification.
mod tag {
    pub(super) const NEW_SUBFILE_TYPE: u16 = 254;
    pub(super) const IMAGE_WIDTH: u16 = 256;
    pub(super) const IMAGE_LENGTH: u16 = 257;
    pub(super) const BITS_PER_SAMPLE: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const ORIENTATION: u16 = 274;
    pub(super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(super) const STRIP_BYTE_COUNTS: u16 = 279;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_LENGTH: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_BYTE_COUNTS: u16 = 325;
    pub(super) const SUB_IFDS: u16 = 330;
    /// The largest tag whose values the decoder reads.
    pub(super) const LAST_READ: u16 = 532;
    pub(super) const XMP: u16 = 700;
    pub(super) const ICC_PROFILE: u16 = 34_675;
    pub(super) const DNG_VERSION: u16 = 50_706;
}

/// Bytes that the decoder keeps for each value of an entry, in whatever type it is stored.
const VALUE_BYTES: u64 = 64;

/// The most values of an entry that the decoder reads. The largest picture has a quarter of that in tiles of 16 x 16.
const MAX_VALUES: u64 = 1 << 20;

/// Bytes that the decoder keeps for an entry.
const ENTRY_BYTES: u64 = 64;

struct Entry<'a> {
    tag: u16,
    count: u64,
    /// Bytes of one value.
    width: usize,
    /// Absent if the values do not lie within the file.
    data: Option<&'a [u8]>,
    little: bool,
}

impl Entry<'_> {
    fn value(&self, index: usize) -> Option<u64> {
        number(self.data?.chunks_exact(self.width).nth(index)?, self.little)
    }

    fn values(&self) -> impl Iterator<Item = Option<u64>> {
        self.data.unwrap_or_default().chunks_exact(self.width).map(|bytes| number(bytes, self.little))
    }
}

/// Reads an unsigned number of up to eight bytes.
fn number(bytes: &[u8], little: bool) -> Option<u64> {
    let digit = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    let whole = if little { bytes.iter().rev().fold(0, digit) } else { bytes.iter().fold(0, digit) };
    (bytes.len() <= 8).then_some(whole)
}

/// The first directory of a file.
#[derive(Clone)]
struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    big: bool,
    entries: &'a [u8],
    is_whole: bool,
}

impl<'a> Directory<'a> {
    /// Finds the first directory.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (little, big) = match bytes.get(..4)? {
            b"II*\0" => (true, false),
            b"II+\0" => (true, true),
            b"MM\0*" => (false, false),
            b"MM\0+" => (false, true),
            _ => return None,
        };
        let read = |offset: usize, length: usize| number(bytes.get(offset..offset.checked_add(length)?)?, little);
        let (start, count_length, entry_length) = if big { (read(8, 8)?, 8, 20) } else { (read(4, 4)?, 2, 12) };
        let start = usize::try_from(start).ok()?;
        let count = usize::try_from(read(start, count_length)?).ok()?;
        let first = start.checked_add(count_length)?;
        let entries = bytes.get(first..first.checked_add(count.checked_mul(entry_length)?)?);
        let is_whole = entries.is_some();
        Some(Self { bytes, little, big, entries: entries.or_else(|| bytes.get(first..))?, is_whole })
    }

    fn iter(&self) -> impl Iterator<Item = Entry<'a>> {
        let directory = self.clone();
        let length = if self.big { 20 } else { 12 };
        self.entries.chunks_exact(length).filter_map(move |entry| directory.entry(entry))
    }

    fn entry(&self, entry: &'a [u8]) -> Option<Entry<'a>> {
        let (count, value) = if self.big { (&entry[4..12], &entry[12..20]) } else { (&entry[4..8], &entry[8..12]) };
        let count = number(count, self.little)?;
        let width = value_width(number(&entry[2..4], self.little)?);
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
        let data = match length {
            Some(length) if length <= value.len() => value.get(..length),
            Some(length) => number(value, self.little)
                .and_then(|offset| usize::try_from(offset).ok())
                .and_then(|offset| self.bytes.get(offset..offset.checked_add(length)?)),
            None => None,
        };
        let tag = u16::try_from(number(&entry[..2], self.little)?).ok()?;
        Some(Entry { tag, count, width, data, little: self.little })
    }

    fn find(&self, tag: u16) -> Option<Entry<'a>> {
        self.iter().find(|entry| entry.tag == tag)
    }

    fn number(&self, tag: u16) -> Option<u64> {
        self.find(tag)?.value(0)
    }
}

/// Returns the bytes of one value of a type.
fn value_width(kind: u64) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}

/// Whether it is a camera's raw file: its first page is a small preview, or its pixels are the sensor's.
pub(super) fn is_raw_photo(bytes: &[u8]) -> bool {
    let Some(directory) = Directory::of(bytes) else { return false };
    let is_preview = directory.number(tag::NEW_SUBFILE_TYPE).is_some_and(|kind| kind & 1 == 1);
    let is_canon = bytes.get(8..10) == Some(b"CR") && bytes.starts_with(b"II*\0");
    is_canon || directory.find(tag::DNG_VERSION).is_some() || is_preview && directory.find(tag::SUB_IFDS).is_some()
}

pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let directory = Directory::of(bytes)?;
    let side = |tag| u32::try_from(directory.number(tag)?).ok();
    Some((side(tag::IMAGE_WIDTH)?, side(tag::IMAGE_LENGTH)?))
}

/// Returns the orientation that a directory states, which may be that of EXIF data.
pub(super) fn orientation(bytes: &[u8]) -> Option<u8> {
    u8::try_from(Directory::of(bytes)?.number(tag::ORIENTATION)?).ok()
}

/// Returns width and height of a tile.
pub(super) fn tile_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let directory = Directory::of(bytes)?;
    let side = |tag| directory.number(tag).map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    Some((side(tag::TILE_WIDTH)?, side(tag::TILE_LENGTH)?))
}

/// Whether every value that the decoder reads, every strip and every tile lies within the file.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let Some(directory) = Directory::of(bytes) else { return false };
    let has_values = |entry: Entry<'_>| entry.data.is_some() || entry.tag > tag::LAST_READ;
    let pixels = [(tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS), (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS)];
    directory.is_whole
        && directory.iter().all(has_values)
        && pixels.into_iter().all(|(offsets, lengths)| {
            let (Some(offsets), Some(lengths)) = (directory.find(offsets), directory.find(lengths)) else {
                return true;
            };
            offsets.values().zip(lengths.values()).all(|(offset, length)| {
                let end = offset.zip(length).and_then(|(offset, length)| offset.checked_add(length));
                end.is_some_and(|end| end <= bytes.len() as u64)
            })
        })
}

/// Refuses what the decoder does not bound: JPEG data in strips, whose own header may announce any number of pixels;
/// more values than the strips of any picture; and tags that occur twice, of which the decoder might read the other.
pub(super) fn require_bounded(bytes: &[u8]) -> Result<(), ImageError> {
    const JPEG: [u64; 2] = [6, 7];
    let Some(directory) = Directory::of(bytes) else { return Ok(()) };
    if directory.number(tag::COMPRESSION).is_some_and(|compression| JPEG.contains(&compression)) {
        let reason = "its pixels are compressed as JPEG".to_owned();
        return Err(ImageError::UnsupportedFlavour { format: "tiff", reason });
    }
    let mut seen = [false; tag::LAST_READ as usize + 1];
    for entry in directory.iter() {
        let Some(seen) = seen.get_mut(usize::from(entry.tag)) else { continue };
        if std::mem::replace(seen, true) || entry.count > MAX_VALUES {
            let reason = format!("its directory has the tag {} twice or with too many values", entry.tag);
            return Err(ImageError::Damaged { format: "tiff", reason });
        }
    }
    Ok(())
}

pub(super) fn metadata(bytes: &[u8]) -> Metadata<'_> {
    let Some(directory) = Directory::of(bytes) else { return Metadata::default() };
    let data = |tag| directory.find(tag).and_then(|entry| entry.data);
    Metadata {
        profile: data(tag::ICC_PROFILE).map(Profile::Whole),
        orientation: orientation(bytes),
        xmp: data(tag::XMP).map(Xmp::Plain),
        ..Metadata::default()
    }
}

/// Returns a bound in bytes on the memory per pixel: the decoder's buffer, the copy of it that it returns, the result.
pub(super) fn bytes_per_pixel(bytes: &[u8]) -> u64 {
    const RESULT: u64 = 3;
    let Some(directory) = Directory::of(bytes) else { return 0 };
    let value = |tag| directory.number(tag).unwrap_or(1).max(1);
    let pixel = value(tag::BITS_PER_SAMPLE).saturating_mul(value(tag::SAMPLES_PER_PIXEL)).div_ceil(8);
    pixel.saturating_mul(2).saturating_add(RESULT)
}

/// Returns a bound in bytes on what the decoder keeps of the directory.
pub(super) fn directory_bytes(bytes: &[u8]) -> u64 {
    let Some(directory) = Directory::of(bytes) else { return 0 };
    let bytes = |entry: Entry<'_>| {
        let values = if entry.tag <= tag::LAST_READ { entry.count } else { 0 };
        values.saturating_mul(VALUE_BYTES).saturating_add(ENTRY_BYTES)
    };
    directory.iter().map(bytes).fold(0, u64::saturating_add)
}
