//! Colour profile and orientation as files store them.

use std::{borrow::Cow, io::Read};

use super::tiff;

/// Metadata longer than this is ignored. The profiles of printing presses, with tables for every ink, have up to 3 MB.
pub(crate) const MAX_METADATA_BYTES: usize = 4 << 20;

/// What a file says about its picture.
#[derive(Default)]
pub(crate) struct Metadata<'a> {
    /// The colours' meaning.
    pub(crate) profile: Option<Profile<'a>>,
    /// Colour components per pixel, where the decoder does not return them as they are stored.
    pub(super) components: Option<u8>,
    /// Orientation as the format itself states it.
    pub(super) orientation: Option<u8>,
    /// EXIF data, with or without its identifier.
    pub(super) exif: Option<&'a [u8]>,
    pub(super) xmp: Option<Xmp<'a>>,
}

impl Metadata<'_> {
    /// Returns the orientation, from 1 to 8 as in EXIF: the format's own, that of EXIF, that of XMP.
    pub(crate) fn orientation(&self) -> Option<u8> {
        let known = |value: &u8| (1..=8).contains(value);
        let exif = || tiff::orientation(self.exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))?);
        let xmp = || orientation_in_xmp(&self.xmp.as_ref()?.read()?);
        self.orientation.filter(known).or_else(|| exif().filter(known)).or_else(|| xmp().filter(known))
    }

    /// Whether the file stores inks: the decoder converts them without a profile.
    pub(crate) fn has_inks(&self) -> bool {
        self.components == Some(4)
    }

    /// Returns a bound in bytes on the memory that reading the metadata takes.
    pub(crate) fn bytes(&self) -> u64 {
        let profile = self.profile.as_ref().map_or(0, Profile::max_length);
        let xmp = self.xmp.as_ref().map_or(0, Xmp::max_length);
        (profile as u64).saturating_add(xmp as u64)
    }
}

/// A colour profile as it is stored.
pub(crate) enum Profile<'a> {
    Whole(&'a [u8]),
    /// In several parts, in their order.
    Parts(Vec<&'a [u8]>),
    /// In parts of up to 255 bytes after their length, up to a zero.
    SubBlocks(&'a [u8]),
    /// Compressed with zlib.
    Deflated(&'a [u8]),
    /// Numbers for primaries, transfer function, matrix and range, as in ITU-T H.273.
    CodePoints([u8; 4]),
}

impl Profile<'_> {
    /// Returns the profile in one piece; nothing if it is too long or damaged, or not stored as a profile.
    pub(crate) fn read(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Whole(bytes) => (bytes.len() <= MAX_METADATA_BYTES).then_some(Cow::Borrowed(*bytes)),
            Self::Parts(parts) => join(parts.iter().copied()),
            Self::SubBlocks(blocks) => join(sub_blocks(blocks)),
            Self::Deflated(bytes) => inflate(bytes),
            Self::CodePoints(_) => None,
        }
    }

    fn max_length(&self) -> usize {
        let stored = match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Parts(parts) => parts.iter().map(|part| part.len()).sum(),
            Self::SubBlocks(blocks) => blocks.len(),
            Self::Deflated(bytes) => bytes.len().saturating_mul(DEFLATE_RATIO),
            Self::CodePoints(_) => 0,
        };
        stored.min(MAX_METADATA_BYTES)
    }
}

/// An XMP packet as it is stored.
pub(crate) enum Xmp<'a> {
    Plain(&'a [u8]),
    /// Compressed with zlib.
    Deflated(&'a [u8]),
}

impl Xmp<'_> {
    fn read(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Plain(bytes) => Some(Cow::Borrowed(*bytes)),
            Self::Deflated(bytes) => inflate(bytes),
        }
    }

    fn max_length(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Deflated(bytes) => bytes.len().saturating_mul(DEFLATE_RATIO).min(MAX_METADATA_BYTES) * GROWTH,
        }
    }
}

/// A vector that grows is copied into one of twice the size.
const GROWTH: usize = 3;

/// The largest compression ratio of deflate.
const DEFLATE_RATIO: usize = 1_032;

fn inflate(bytes: &[u8]) -> Option<Cow<'static, [u8]>> {
    let mut inflated = Vec::new();
    let mut stream = flate2::read::ZlibDecoder::new(bytes).take(MAX_METADATA_BYTES as u64 + 1);
    stream.read_to_end(&mut inflated).ok()?;
    (inflated.len() <= MAX_METADATA_BYTES).then_some(Cow::Owned(inflated))
}

fn join<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Cow<'static, [u8]>> {
    let length = parts.clone().map(<[u8]>::len).sum();
    if length > MAX_METADATA_BYTES {
        return None;
    }
    let mut whole = Vec::with_capacity(length);
    parts.for_each(|part| whole.extend_from_slice(part));
    Some(Cow::Owned(whole))
}

fn sub_blocks(mut blocks: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    std::iter::from_fn(move || {
        let (length, rest) = blocks.split_first()?;
        let (block, rest) = rest.split_at_checked(usize::from(*length))?;
        blocks = rest;
        (!block.is_empty()).then_some(block)
    })
}

/// Finds `tiff:Orientation` as an attribute or as an element.
fn orientation_in_xmp(packet: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let start = packet.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let value = packet.get(start..)?.trim_ascii_start();
    let value = value.strip_prefix(b"=").map_or(value, <[u8]>::trim_ascii_start);
    match value {
        [b'"' | b'\'' | b'>', rest @ ..] => match rest.trim_ascii_start() {
            [digit @ b'1'..=b'8', next, ..] if !next.is_ascii_digit() => Some(digit - b'0'),
            _ => None,
        },
        _ => None,
    }
}
