//! The entropy codes of a lossless WebP stream, counted without decoding the picture.
//!
//! A stream may announce 65,536 groups of five codes, in a few bytes each, and a decoder builds tables of kilobytes for
//! each. The number of groups follows from a small image that precedes them: the largest number in it. Pixels that are
//! copied or come from the cache of colours repeat earlier ones, so only those that are written out are looked at.
//!
//! The format: <https://www.rfc-editor.org/rfc/rfc9649.html#name-specification-for-the-webp-lo>.

/// Symbols of the five codes of a group: green with lengths of copies, red, blue, alpha, distance.
const ALPHABETS: [usize; 5] = [256 + LENGTHS, 256, 256, 256, 40];

/// Symbols that stand for the length of a copy.
const LENGTHS: usize = 24;

/// The longest code in bits.
const MAX_LENGTH: usize = 15;

/// Bytes of a decoder's lookup table for one code, and of its tree for each symbol.
const TABLE_BYTES: u64 = 4_096;
const NODE_BYTES: u64 = 32;

/// The codes of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    /// Groups of five.
    pub(super) groups: u32,
    /// Colours in the cache, which are symbols too.
    cached_colours: u64,
}

impl Codes {
    /// Returns a bound in bytes on the tables that a decoder builds.
    pub(super) fn bytes(self) -> u64 {
        let symbols = ALPHABETS.iter().sum::<usize>() as u64 + self.cached_colours;
        u64::from(self.groups) * (ALPHABETS.len() as u64 * TABLE_BYTES + symbols * NODE_BYTES + 1_024)
    }
}

/// Counts the codes of a stream that begins with its signature and its size; nothing if it is damaged.
pub(super) fn codes(stream: &[u8]) -> Option<Codes> {
    let sides = super::little_endian(stream, 1)?;
    let (width, height) = ((sides & 0x3FFF) + 1, ((sides >> 14) & 0x3FFF) + 1);
    codes_of_size(stream.get(5..)?, width, height)
}

/// Counts the codes of a stream whose size is known.
pub(super) fn codes_of_size(stream: &[u8], width: u32, height: u32) -> Option<Codes> {
    let mut bits = Bits { stream, position: 0 };
    let width = skip_transforms(&mut bits, width, height)?;
    let cached_colours = cache_size(&mut bits)?;
    let mut groups = 1;
    if bits.read(1)? == 1 {
        let shift = bits.read(3)? + 2;
        groups = largest_number(&mut bits, blocks(width, shift), blocks(height, shift))? + 1;
    }
    Some(Codes { groups, cached_colours })
}

/// Reads the transforms; returns the width of the picture that remains.
fn skip_transforms(bits: &mut Bits<'_>, mut width: u32, height: u32) -> Option<u32> {
    for _ in 0..4 {
        if bits.read(1)? == 0 {
            return Some(width);
        }
        match bits.read(2)? {
            // Predictor and colour: an image of parameters.
            0 | 1 => {
                let shift = bits.read(3)? + 2;
                largest_number(bits, blocks(width, shift), blocks(height, shift))?;
            }
            // Green is subtracted: no parameters.
            2 => {}
            // A table of colours; pixels are packed if there are few.
            _ => {
                let colours = bits.read(8)? + 1;
                largest_number(bits, colours, 1)?;
                let shift = match colours {
                    0..=2 => 3,
                    3..=4 => 2,
                    5..=16 => 1,
                    _ => 0,
                };
                width = blocks(width, shift);
            }
        }
    }
    // Each transform occurs once; the decoder refuses a fifth.
    (bits.read(1)? == 0).then_some(width)
}

fn blocks(side: u32, shift: u32) -> u32 {
    side.div_ceil(1 << shift)
}

fn cache_size(bits: &mut Bits<'_>) -> Option<u64> {
    Some(if bits.read(1)? == 1 { 1 << bits.read(4)?.min(11) } else { 0 })
}

/// Reads an image with one group of codes; returns the largest number that red and green of a pixel make.
fn largest_number(bits: &mut Bits<'_>, width: u32, height: u32) -> Option<u32> {
    let colours = cache_size(bits)?;
    let mut read = |extra: u64, symbols: usize| Code::read(bits, symbols + usize::try_from(extra).ok()?);
    let [green, red, blue, alpha, distance] = ALPHABETS;
    let green = read(colours, green)?;
    let (red, blue, alpha, distance) = (read(0, red)?, read(0, blue)?, read(0, alpha)?, read(0, distance)?);
    let (mut left, mut largest) = (u64::from(width) * u64::from(height), 0);
    while left > 0 {
        let symbol = green.symbol(bits)?;
        let pixels = match usize::from(symbol) {
            0..256 => {
                largest = largest.max(u32::from(red.symbol(bits)?) << 8 | u32::from(symbol));
                blue.symbol(bits)?;
                alpha.symbol(bits)?;
                1
            }
            place if place < 256 + LENGTHS => {
                let length = prefixed(bits, u32::from(symbol) - 256)?;
                let prefix = distance.symbol(bits)?;
                prefixed(bits, prefix.into())?;
                length
            }
            // A colour of the cache.
            _ => 1,
        };
        left = left.saturating_sub(pixels.into());
    }
    Some(largest)
}

/// Reads a number of which a symbol gives the magnitude.
fn prefixed(bits: &mut Bits<'_>, prefix: u32) -> Option<u32> {
    if prefix < 4 {
        return Some(prefix + 1);
    }
    let extra = (prefix - 2) >> 1;
    Some(((2 + (prefix & 1)) << extra) + bits.read(extra)? + 1)
}

/// A canonical prefix code: how many symbols have each length, and the symbols by length.
struct Code {
    counts: [u16; MAX_LENGTH + 1],
    symbols: Vec<u16>,
}

impl Code {
    fn read(bits: &mut Bits<'_>, alphabet: usize) -> Option<Self> {
        if bits.read(1)? == 0 {
            let mut lengths = vec![0u8; alphabet];
            read_lengths(bits, &mut lengths)?;
            return Self::of(&lengths);
        }
        // One symbol, or two of one bit each, in the order in which they are written.
        let is_pair = bits.read(1)? == 1;
        let width = if bits.read(1)? == 1 { 8 } else { 1 };
        let mut symbols = vec![u16::try_from(bits.read(width)?).ok()?];
        let mut counts = [0; MAX_LENGTH + 1];
        if is_pair {
            symbols.push(u16::try_from(bits.read(8)?).ok()?);
            counts[1] = 2;
        }
        symbols.iter().all(|symbol| usize::from(*symbol) < alphabet).then_some(Self { counts, symbols })
    }

    /// Refuses lengths that no complete code has, as the decoder does; one symbol alone takes no bits.
    fn of(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0u16; MAX_LENGTH + 1];
        lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        counts[0] = 0;
        let used: u16 = counts.iter().sum();
        let space: u32 = (1..=MAX_LENGTH).map(|length| u32::from(counts[length]) << (MAX_LENGTH - length)).sum();
        if used == 0 || used > 1 && space != 1 << MAX_LENGTH {
            return None;
        }
        let mut symbols: Vec<u16> = (0u16..).zip(lengths).filter(|(_, length)| **length > 0).map(|(s, _)| s).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Some(Self { counts, symbols })
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Option<u16> {
        if self.symbols.len() == 1 {
            return self.symbols.first().copied();
        }
        let (mut code, mut first, mut place) = (0u32, 0u32, 0u32);
        for count in &self.counts[1..] {
            let count = u32::from(*count);
            code |= bits.read(1)?;
            if code < first + count {
                return self.symbols.get((place + code - first) as usize).copied();
            }
            place += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// Reads the lengths of a code's symbols, which are themselves coded.
fn read_lengths(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Option<()> {
    const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut coded = [0u8; 19];
    let count = 4 + bits.read(4)? as usize;
    for place in &ORDER[..count] {
        coded[*place] = u8::try_from(bits.read(3)?).ok()?;
    }
    let code = Code::of(&coded)?;
    let mut left = lengths.len();
    if bits.read(1)? == 1 {
        let width = 2 + 2 * bits.read(3)?;
        left = 2 + bits.read(width)? as usize;
    }
    let (mut place, mut previous) = (0, 8);
    while place < lengths.len() && left > 0 {
        left -= 1;
        let (length, times) = match code.symbol(bits)? {
            16 => (previous, 3 + bits.read(2)?),
            17 => (0, 3 + bits.read(3)?),
            18 => (0, 11 + bits.read(7)?),
            length => (u8::try_from(length).ok()?, 1),
        };
        if length > 0 {
            previous = length;
        }
        let end = place + times as usize;
        lengths.get_mut(place..end)?.fill(length);
        place = end;
    }
    Some(())
}

/// Reads bits from the lowest of each byte.
struct Bits<'a> {
    stream: &'a [u8],
    position: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for index in 0..count {
            let byte = *self.stream.get(self.position / 8)?;
            value |= u32::from(byte >> (self.position % 8) & 1) << index;
            self.position += 1;
        }
        Some(value)
    }
}
