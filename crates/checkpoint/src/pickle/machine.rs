//! The pickle machine, which executes the instructions of a pickle one by one.

use super::{EMPTY, Entry, Kind, MAX_GLOBAL_BYTES, Place, Span, Values, slice};
use crate::pieces::Pieces;
use std::collections::HashMap;

/// Marks on the stack that may be open at once. Python's own writer nests about a thousand levels deep.
const MAX_MARKS: usize = 4_096;

/// The pickle machine: values, a stack of places, marks on the stack, and a memo.
#[derive(Default)]
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) values: Values,
    stack: Pieces<Place>,
    marks: Vec<usize>,
    memo: Memo,
}

/// The memo. Python's writer numbers its entries one after the other.
#[derive(Default)]
struct Memo {
    numbered: Pieces<Place>,
    others: HashMap<u32, Place>,
}

impl Memo {
    fn get(&self, key: u32) -> Option<Place> {
        self.numbered.get(key as usize).or_else(|| self.others.get(&key).copied())
    }

    fn insert(&mut self, key: u32, place: Place) {
        let index = key as usize;
        if index < self.numbered.len() {
            self.numbered.set(index, place);
        } else if index == self.numbered.len() {
            self.numbered.push(place);
            self.others.remove(&key);
        } else {
            self.others.insert(key, place);
        }
    }

    fn len(&self) -> usize {
        self.numbered.len() + self.others.len()
    }
}

type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Executes one opcode. Returns the root at the end of the pickle.
    pub(super) fn step(&mut self) -> Step<Option<Place>> {
        let [opcode] = self.take_array()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => self.take(1).map(drop)?, // protocol
            0x95 => self.take(8).map(drop)?, // frame
            b'(' => self.mark()?,
            b'0' => self.pop().map(drop)?,
            b'1' => self.pop_mark().map(|from| self.stack.truncate(from))?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 => self.stack.push(Place::PLAIN),
            b'G' => self.plain(8)?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(opcode)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e => self.string(opcode)?,
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b']' => self.stack.push(Place::constant(Kind::List)),
            b'}' => self.push_dict()?,
            b'l' | b'd' => self.build_from_mark(opcode)?,
            b'a' | b'e' | b's' | b'u' => self.extend(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 => self.apply()?,
            // The state of an object is discarded: for an OrderedDict it is only `_metadata`.
            b'b' => self.pop().map(drop)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Kind::Persistent, self.values.persistent.len())?;
                self.values.persistent.push(id);
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memoise(opcode)?,
            // Sets and extended construction do not occur in state dictionaries.
            other => return Err(format!("instruction {other:#04x} is not one that PyTorch's writer emits")),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("it ends too early (truncated?)")?;
        self.at += count;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take_length<const N: usize>(&mut self) -> Step<usize> {
        let mut wide = [0u8; 8];
        let bytes = self.take_array::<N>()?;
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length overflows".to_owned())
    }

    /// Passes over text and returns where it is.
    fn take_text(&mut self, count: usize) -> Step<Span> {
        let start = self.at;
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes).map_err(|_| "its text is not UTF-8")?;
        let fits = |number: usize| u32::try_from(number).map_err(|_| "a length overflows");
        Ok(Span { start: fits(start)?, length: fits(count)? })
    }

    fn line_length(&self, from: usize) -> Step<usize> {
        let rest = self.bytes.get(from..).unwrap_or_default();
        rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| "it ends within a name".to_owned())
    }

    /// Puts the value on the stack that is the next one of its kind.
    fn push(&mut self, kind: Kind, payload: usize) -> Step {
        self.stack.push(Place::new(kind, payload)?);
        Ok(())
    }

    fn push_dict(&mut self) -> Step {
        self.push(Kind::Dict, self.values.dicts.len())?;
        self.values.dicts.push(EMPTY);
        Ok(())
    }

    fn mark(&mut self) -> Step {
        if self.marks.len() >= MAX_MARKS {
            return Err(format!("it nests deeper than {MAX_MARKS} levels"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Values below an open mark are not accessible, as in Python.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Place> {
        let top = self.stack.len().checked_sub(1).filter(|top| *top >= self.floor());
        top.and_then(|top| self.stack.get(top)).ok_or_else(|| "its stack is empty".to_owned())
    }

    fn pop(&mut self) -> Step<Place> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Closes a mark and returns from where on the stack holds what was pushed after it.
    fn pop_mark(&mut self) -> Step<usize> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        if mark > self.stack.len() {
            return Err("a mark lies above the stack".to_owned());
        }
        Ok(mark)
    }

    fn plain(&mut self, bytes: usize) -> Step {
        self.take(bytes)?;
        self.stack.push(Place::PLAIN);
        Ok(())
    }

    fn integer(&mut self, opcode: u8) -> Step {
        let value = match opcode {
            b'K' => i64::from(u8::from_le_bytes(self.take_array()?)),
            b'M' => i64::from(u16::from_le_bytes(self.take_array()?)),
            b'J' => i64::from(i32::from_le_bytes(self.take_array()?)),
            0x8a => {
                let length = self.take_length::<1>()?;
                return self.long(length);
            }
            _ => {
                let length = self.take_length::<4>()?;
                return self.long(length);
            }
        };
        self.push_integer(value)
    }

    fn push_integer(&mut self, value: i64) -> Step {
        let small = usize::try_from(value).ok().filter(|value| value >> Place::PAYLOAD_BITS == 0);
        if let Some(small) = small {
            return self.push(Kind::Small, small);
        }
        self.push(Kind::Large, self.values.large.len())?;
        self.values.large.push(value);
        Ok(())
    }

    /// Little-endian two's complement of any length. Values that exceed 64 bits cannot be sizes and stay opaque.
    fn long(&mut self, length: usize) -> Step {
        let bytes = self.take(length)?;
        if length > 8 {
            self.stack.push(Place::PLAIN);
            return Ok(());
        }
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        self.push_integer(i64::from_le_bytes(wide))
    }

    fn string(&mut self, opcode: u8) -> Step {
        let length = match opcode {
            0x8c | b'U' | b'C' => self.take_length::<1>()?,
            0x8d | 0x8e => self.take_length::<8>()?,
            _ => self.take_length::<4>()?,
        };
        match opcode {
            b'C' | b'B' | 0x8e => self.plain(length),
            _ => {
                let span = self.take_text(length)?;
                self.push(Kind::Text, self.values.texts.len())?;
                self.values.texts.push(span);
                Ok(())
            }
        }
    }

    fn tuple(&mut self, opcode: u8) -> Step {
        let from = match opcode {
            b')' => self.stack.len(),
            b't' => self.pop_mark()?,
            _ => {
                let from = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                from.filter(|from| *from >= self.floor()).ok_or("its stack is empty")?
            }
        };
        let (first, length) = (self.values.items.len(), self.stack.len() - from);
        for index in from..self.stack.len() {
            self.values.items.push(self.stack.get(index).unwrap_or(Place::PLAIN));
        }
        self.stack.truncate(from);
        match length {
            0 => self.stack.push(Place::constant(Kind::EmptyTuple)),
            1 => self.push(Kind::Tuple1, first)?,
            2 => self.push(Kind::Tuple2, first)?,
            3 => self.push(Kind::Tuple3, first)?,
            _ => {
                let fits = |number: usize| u32::try_from(number).map_err(|_| "it has too many values");
                self.push(Kind::Tuple, self.values.tuples.len())?;
                self.values.tuples.push((fits(first)?, fits(length)?));
            }
        }
        Ok(())
    }

    fn build_from_mark(&mut self, opcode: u8) -> Step {
        let from = self.pop_mark()?;
        if opcode == b'l' {
            self.stack.truncate(from);
            self.stack.push(Place::constant(Kind::List));
            return Ok(());
        }
        let dict = Place::new(Kind::Dict, self.values.dicts.len())?;
        self.values.dicts.push(EMPTY);
        self.insert_pairs(dict, from)?;
        self.stack.push(dict);
        Ok(())
    }

    /// Appends to the list, or inserts into the dictionary, below the new items on the stack. Opaque objects accept and
    /// discard both.
    fn extend(&mut self, opcode: u8) -> Step {
        let from = match opcode {
            b'a' => self.stack.len().checked_sub(1),
            b's' => self.stack.len().checked_sub(2),
            _ => Some(self.pop_mark()?),
        };
        let floor = self.floor();
        let from = from.filter(|from| *from > floor).ok_or("its stack is empty")?;
        let target = self.stack.get(from - 1).unwrap_or(Place::PLAIN);
        match (target.kind(), opcode) {
            (Kind::List, b'a' | b'e') | (Kind::Applied, _) => self.stack.truncate(from),
            (Kind::Dict, b's' | b'u') => self.insert_pairs(target, from)?,
            _ => return Err("items are added to something that is neither list nor dictionary".to_owned()),
        }
        Ok(())
    }

    /// Moves keys and values from the stack into a dictionary. Only entries that may hold a tensor are kept.
    fn insert_pairs(&mut self, dict: Place, from: usize) -> Step {
        if !(self.stack.len() - from).is_multiple_of(2) {
            return Err("a dictionary has a key without value".to_owned());
        }
        for index in (from..self.stack.len()).step_by(2) {
            let pair = self.stack.get(index).zip(self.stack.get(index + 1));
            let Some((key, value)) = pair else { break };
            let is_name = matches!(key.kind(), Kind::Text | Kind::Small | Kind::Large);
            if is_name && matches!(value.kind(), Kind::Dict | Kind::Applied) {
                self.insert(dict, key, value)?;
            }
        }
        self.stack.truncate(from);
        Ok(())
    }

    fn insert(&mut self, dict: Place, key: Place, value: Place) -> Step {
        let values = &mut self.values;
        let new = u32::try_from(values.entries.len()).ok().filter(|new| *new != EMPTY);
        let new = new.ok_or("it has too many values")?;
        let last = values.dicts.get(dict.payload()).unwrap_or(EMPTY);
        let before = values.entries.get(last as usize);
        // The new entry is followed by the first one, which is itself if there is no other.
        values.entries.push(Entry { key, value, next: before.map_or(new, |before| before.next) });
        if let Some(before) = before {
            values.entries.set(last as usize, Entry { next: new, ..before });
        }
        values.dicts.set(dict.payload(), new);
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Step {
        if opcode == b'c' {
            let module = self.line_length(self.at)?;
            let name = self.line_length(self.at + module + 1)?;
            let span = self.take_text(module + 1 + name)?;
            self.take(1)?;
            self.push(Kind::GlobalLines, self.values.texts.len())?;
            self.values.texts.push(span);
            return Ok(());
        }
        let (name, module) = (self.pop()?, self.pop()?);
        if module.kind() != Kind::Text || name.kind() != Kind::Text {
            return Err("a class is not named by text".to_owned());
        }
        self.push(Kind::Global, self.values.globals.len())?;
        self.values.globals.push((module, name));
        Ok(())
    }

    fn apply(&mut self) -> Step {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        if self.is_dictionary_class(callable) {
            return self.push_dict();
        }
        self.push(Kind::Applied, self.values.applied.len())?;
        self.values.applied.push((callable, arguments));
        Ok(())
    }

    /// Whether a class is a dictionary. Long names are not looked at, so that the cost is constant.
    fn is_dictionary_class(&self, callable: Place) -> bool {
        let known = |module: &str, name: &str| module == "collections" && matches!(name, "OrderedDict" | "defaultdict");
        let text = |index: usize| {
            let span = self.values.texts.get(index).filter(|span| span.length <= MAX_GLOBAL_BYTES);
            span.and_then(|span| slice(self.bytes, span)).unwrap_or_default()
        };
        match callable.kind() {
            Kind::GlobalLines => {
                text(callable.payload()).split_once('\n').is_some_and(|(module, name)| known(module, name))
            }
            Kind::Global => self
                .values
                .globals
                .get(callable.payload())
                .is_some_and(|(module, name)| known(text(module.payload()), text(name.payload()))),
            _ => false,
        }
    }

    fn memoise(&mut self, opcode: u8) -> Step {
        let key = match opcode {
            b'q' | b'h' => self.take_length::<1>()?,
            b'r' | b'j' => self.take_length::<4>()?,
            _ => self.memo.len(),
        };
        let key = u32::try_from(key).map_err(|_| "its memo overflows")?;
        if matches!(opcode, b'h' | b'j') {
            let place = self.memo.get(key).ok_or_else(|| format!("memo {key} was never written"))?;
            self.stack.push(place);
        } else {
            let top = self.top()?;
            self.memo.insert(key, top);
        }
        Ok(())
    }
}
