//! A reader of Python pickles that builds plain data and cannot execute code.
//!
//! It supports the opcodes that PyTorch's writer emits, for all protocols up to 5. A class or function is represented
//! by its name; calling one yields an opaque value unless `torch_file` recognises it.
//!
//! Only what a state dictionary needs is kept: the contents of lists, and entries of dictionaries that cannot hold a
//! tensor, are dropped as they are read. A value is a [`Place`] of four bytes; small numbers are stored in it, and
//! everything else in lists of its kind, as texts by their position in the file. So an instruction of one byte costs at
//! most eight bytes of memory. Values refer to each other by place, so shared and circular structures cost nothing extra;
//! code that traverses them must bound the traversal.

use crate::pieces::Pieces;
use machine::Machine;
use place::Kind;
pub(crate) use place::Place;

mod machine;
mod place;
#[cfg(test)]
mod tests;

/// Maximum length of a class's or function's name that is recognised, in bytes.
const MAX_GLOBAL_BYTES: u32 = 256;
/// Maximum length of a pickle in bytes: positions are stored in 32 bits.
const MAX_PICKLE_BYTES: usize = u32::MAX as usize;

/// A value as `torch_file` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Whatever a state dictionary does not need.
    Plain,
    Int(i64),
    Text(&'a str),
    /// A tuple of that many items; see [`Pickle::items`].
    Tuple(usize),
    Dict,
    /// A class or function, by module and name.
    Global(&'a str, &'a str),
    /// A reference outside the pickle.
    Persistent(Place),
    /// A global called with arguments.
    Applied {
        callable: Place,
        arguments: Place,
    },
}

/// An entry of a dictionary. The entries of one dictionary are a ring, and the dictionary knows the last one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Place,
    value: Place,
    next: u32,
}

/// A dictionary without entries.
const EMPTY: u32 = u32::MAX;

/// A part of the file.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    length: u32,
}

/// The values of a pickle, each list by the kind that it is of.
#[derive(Debug, Default)]
struct Values {
    large: Pieces<i64>,
    texts: Pieces<Span>,
    items: Pieces<Place>,
    /// The first item of a tuple, and how many there are.
    tuples: Pieces<(u32, u32)>,
    /// The last entry of each dictionary.
    dicts: Pieces<u32>,
    entries: Pieces<Entry>,
    globals: Pieces<(Place, Place)>,
    persistent: Pieces<Place>,
    applied: Pieces<(Place, Place)>,
}

/// A pickle that has been read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    bytes: &'a [u8],
    values: Values,
    root: Place,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle. Bytes after its end are ignored, as in Python.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.len() > MAX_PICKLE_BYTES {
            return Err(format!("its pickle of {} bytes is longer than any", bytes.len()));
        }
        let mut machine = Machine::new(bytes);
        loop {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Self { bytes, values: machine.values, root }),
                Err(reason) => return Err(format!("its pickle, at byte {at}: {reason}")),
            }
        }
    }

    pub(crate) fn root(&self) -> Place {
        self.root
    }

    /// The bytes that the values take in memory.
    pub(crate) fn memory(&self) -> usize {
        let Values { large, texts, items, tuples, dicts, entries, globals, persistent, applied } = &self.values;
        let references = globals.bytes() + persistent.bytes() + applied.bytes();
        large.bytes() + texts.bytes() + items.bytes() + tuples.bytes() + dicts.bytes() + entries.bytes() + references
    }

    /// Returns a value. The cost is constant but for a text, whose UTF-8 is checked again.
    pub(crate) fn get(&self, place: Place) -> Value<'a> {
        let (values, index) = (&self.values, place.payload());
        let found = match place.kind() {
            Kind::Plain | Kind::List => None,
            Kind::EmptyTuple => Some(Value::Tuple(0)),
            Kind::Small => i64::try_from(index).ok().map(Value::Int),
            Kind::Large => values.large.get(index).map(Value::Int),
            Kind::Text => self.text(index).map(Value::Text),
            Kind::Tuple1 => Some(Value::Tuple(1)),
            Kind::Tuple2 => Some(Value::Tuple(2)),
            Kind::Tuple3 => Some(Value::Tuple(3)),
            Kind::Tuple => values.tuples.get(index).map(|(_, length)| Value::Tuple(length as usize)),
            Kind::Dict => Some(Value::Dict),
            Kind::Global => self.global(index).map(|(module, name)| Value::Global(module, name)),
            Kind::GlobalLines => self.global_lines(index).map(|(module, name)| Value::Global(module, name)),
            Kind::Persistent => values.persistent.get(index).map(Value::Persistent),
            Kind::Applied => {
                values.applied.get(index).map(|(callable, arguments)| Value::Applied { callable, arguments })
            }
        };
        found.unwrap_or(Value::Plain)
    }

    /// Returns the first items of a tuple, at most `most`; none of any other value.
    pub(crate) fn items(&self, place: Place, most: usize) -> Vec<Place> {
        let index = place.payload();
        let (start, length) = match place.kind() {
            Kind::Tuple1 => (index, 1),
            Kind::Tuple2 => (index, 2),
            Kind::Tuple3 => (index, 3),
            Kind::Tuple => {
                let (start, length) = self.values.tuples.get(index).unwrap_or_default();
                (start as usize, length as usize)
            }
            _ => return Vec::new(),
        };
        (start..start + length.min(most)).map_while(|item| self.values.items.get(item)).collect()
    }

    /// Returns the number of the last entry of a dictionary; `None` if it has no entry, or is none.
    pub(crate) fn last_entry(&self, dict: Place) -> Option<u32> {
        let last = (dict.kind() == Kind::Dict).then(|| self.values.dicts.get(dict.payload()))??;
        (last != EMPTY).then_some(last)
    }

    /// Returns key, value and the number of the next entry. After the last entry of a dictionary the first one follows.
    pub(crate) fn entry(&self, number: u32) -> Option<(Place, Place, u32)> {
        self.values.entries.get(number as usize).map(|Entry { key, value, next }| (key, value, next))
    }

    /// Returns the length of a text in bytes; 0 for other values.
    pub(crate) fn text_length(&self, place: Place) -> usize {
        let span = (place.kind() == Kind::Text).then(|| self.values.texts.get(place.payload())).flatten();
        span.map_or(0, |span| span.length as usize)
    }

    fn text(&self, index: usize) -> Option<&'a str> {
        slice(self.bytes, self.values.texts.get(index)?)
    }

    fn global(&self, index: usize) -> Option<(&'a str, &'a str)> {
        let (module, name) = self.values.globals.get(index)?;
        let short = |place: Place| {
            let span = self.values.texts.get(place.payload()).filter(|span| span.length <= MAX_GLOBAL_BYTES);
            slice(self.bytes, span?)
        };
        Some((short(module)?, short(name)?))
    }

    fn global_lines(&self, index: usize) -> Option<(&'a str, &'a str)> {
        let span = self.values.texts.get(index).filter(|span| span.length <= 2 * MAX_GLOBAL_BYTES);
        slice(self.bytes, span?)?.split_once('\n')
    }
}

fn slice(bytes: &[u8], span: Span) -> Option<&str> {
    let (start, length) = (span.start as usize, span.length as usize);
    std::str::from_utf8(bytes.get(start..start.checked_add(length)?)?).ok()
}
