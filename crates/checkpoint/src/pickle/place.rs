//! The reference to a value of a pickle, in four bytes.

/// A value of the pickle: its kind in four bits, and in the others a small number or an index into the list of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// The kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// None, booleans, floats, bytes: values that a state dictionary does not need.
    Plain,
    List,
    EmptyTuple,
    /// A number of up to 28 bits, stored in the place.
    Small,
    Large,
    Text,
    /// One to three items from the index on.
    Tuple1,
    Tuple2,
    Tuple3,
    /// Any number of items.
    Tuple,
    Dict,
    /// A class or function, by the places of two texts.
    Global,
    /// The same, by a text of two lines.
    GlobalLines,
    /// A reference outside the pickle. PyTorch uses it for storages.
    Persistent,
    /// A global called with arguments.
    Applied,
}

const KINDS: [Kind; 15] = [
    Kind::Plain,
    Kind::List,
    Kind::EmptyTuple,
    Kind::Small,
    Kind::Large,
    Kind::Text,
    Kind::Tuple1,
    Kind::Tuple2,
    Kind::Tuple3,
    Kind::Tuple,
    Kind::Dict,
    Kind::Global,
    Kind::GlobalLines,
    Kind::Persistent,
    Kind::Applied,
];

impl Place {
    pub(super) const PAYLOAD_BITS: u32 = 28;
    pub(super) const PLAIN: Self = Self::constant(Kind::Plain);

    pub(super) const fn constant(kind: Kind) -> Self {
        Self((kind as u32) << Self::PAYLOAD_BITS)
    }

    /// A value of that kind: a small number, or an index into the list of its kind.
    pub(super) fn new(kind: Kind, payload: usize) -> Result<Self, String> {
        let payload = u32::try_from(payload).ok().filter(|payload| payload >> Self::PAYLOAD_BITS == 0);
        payload.map(|payload| Self(Self::constant(kind).0 | payload)).ok_or_else(|| "it has too many values".to_owned())
    }

    pub(super) fn kind(self) -> Kind {
        KINDS.get((self.0 >> Self::PAYLOAD_BITS) as usize).copied().unwrap_or(Kind::Plain)
    }

    pub(super) fn payload(self) -> usize {
        (self.0 & ((1 << Self::PAYLOAD_BITS) - 1)) as usize
    }
}
