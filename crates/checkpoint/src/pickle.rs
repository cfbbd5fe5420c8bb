//! A reader of Python pickles that builds plain data and cannot execute code.
//!
//! It supports the opcodes that PyTorch's writer emits, for all protocols up to 5. A class or function is represented
//! by its name; calling one yields an opaque value unless `torch_file` recognises it. Every opcode creates at most one
//! value, and strings are borrowed from the file, so memory is bounded by a small multiple of the pickle's length.
//! Values are stored in one arena and refer to each other by index, so shared and circular structures cost nothing
//! extra; code that traverses them must bound the traversal.

use std::collections::HashMap;

/// Index of a value in the arena.
pub(crate) type Place = usize;

/// One value of the pickle.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    /// None, booleans, floats, bytes: values that a state dictionary does not need.
    Plain,
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Place>),
    List(Vec<Place>),
    Dict(Vec<(Place, Place)>),
    /// A class or function, by module and name.
    Global(&'a str, &'a str),
    /// A reference outside the pickle. PyTorch uses it for storages.
    Persistent(Place),
    /// A global called with arguments.
    Applied {
        callable: Place,
        arguments: Place,
    },
}

/// The values of a pickle, and the index of its root.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Place,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle. Bytes after its end are ignored, as in Python.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine { rest: bytes, ..Machine::default() };
        loop {
            let at = bytes.len() - machine.rest.len();
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Self { values: machine.values, root }),
                Err(reason) => return Err(format!("its pickle, at byte {at}: {reason}")),
            }
        }
    }

    pub(crate) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    pub(crate) fn get(&self, place: Place) -> &Value<'a> {
        self.values.get(place).unwrap_or(&Value::Plain)
    }
}

/// The pickle machine: values, a stack of indices, marks on the stack, and a memo.
#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Place>,
    marks: Vec<usize>,
    memo: HashMap<u32, Place>,
}

type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    /// Executes one opcode. Returns the root at the end of the pickle.
    fn step(&mut self) -> Step<Option<Place>> {
        let [opcode] = self.take_array()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => self.take(1).map(drop)?, // protocol
            0x95 => self.take(8).map(drop)?, // frame
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.pop_mark().map(drop)?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Plain),
            b'G' => self.plain(8)?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(opcode)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e => self.string(opcode)?,
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'l' | b'd' => self.build_from_mark(opcode)?,
            b'a' | b'e' | b's' | b'u' => self.extend(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 => self.apply()?,
            // The state of an object is discarded: for an OrderedDict it is only `_metadata`.
            b'b' => self.pop().map(drop)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memoise(opcode)?,
            // Sets and extended construction do not occur in state dictionaries.
            other => return Err(format!("instruction {other:#04x} is not one that PyTorch's writer emits")),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends too early (truncated?)")?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or("it ends too early (truncated?)")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn take_length<const N: usize>(&mut self) -> Step<usize> {
        let mut wide = [0u8; 8];
        let bytes = self.take_array::<N>()?;
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length overflows".to_owned())
    }

    fn take_line(&mut self) -> Step<&'a str> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("it ends within a name")?;
        let line = self.take(end)?;
        self.take(1)?;
        text(line)
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Values below an open mark are not accessible, as in Python.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Place> {
        let top = self.stack.get(self.floor()..).and_then(<[_]>::last);
        top.copied().ok_or_else(|| "its stack is empty".to_owned())
    }

    fn pop(&mut self) -> Step<Place> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Step<Vec<Place>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        if mark > self.stack.len() {
            return Err("a mark lies above the stack".to_owned());
        }
        Ok(self.stack.split_off(mark))
    }

    fn plain(&mut self, bytes: usize) -> Step {
        self.take(bytes)?;
        self.push(Value::Plain);
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
        self.push(Value::Int(value));
        Ok(())
    }

    /// Little-endian two's complement of any length. Values that exceed 64 bits cannot be sizes and stay opaque.
    fn long(&mut self, length: usize) -> Step {
        let bytes = self.take(length)?;
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        self.push(if length <= 8 { Value::Int(i64::from_le_bytes(wide)) } else { Value::Plain });
        Ok(())
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
                let value = Value::Text(text(self.take(length)?)?);
                self.push(value);
                Ok(())
            }
        }
    }

    fn tuple(&mut self, opcode: u8) -> Step {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_mark()?,
            _ => {
                let mut items = (0x85..=opcode).map(|_| self.pop()).collect::<Step<Vec<_>>>()?;
                items.reverse();
                items
            }
        };
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn build_from_mark(&mut self, opcode: u8) -> Step {
        let items = self.pop_mark()?;
        let value = if opcode == b'l' { Value::List(items) } else { Value::Dict(pairs(&items)?) };
        self.push(value);
        Ok(())
    }

    /// Appends to the list, or inserts into the dictionary, on top of the stack. Opaque objects accept and discard
    /// both.
    fn extend(&mut self, opcode: u8) -> Step {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        match self.values.get_mut(target) {
            Some(Value::List(list)) if matches!(opcode, b'a' | b'e') => list.extend(items),
            Some(Value::Dict(entries)) if matches!(opcode, b's' | b'u') => entries.extend(pairs(&items)?),
            Some(Value::Applied { .. }) => {}
            _ => return Err("items are added to something that is neither list nor dictionary".to_owned()),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Step {
        let (module, name) = if opcode == b'c' {
            (self.take_line()?, self.take_line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (self.values.get(module), self.values.get(name)) {
                (Some(Value::Text(module)), Some(Value::Text(name))) => (*module, *name),
                _ => return Err("a class is not named by text".to_owned()),
            }
        };
        self.push(Value::Global(module, name));
        Ok(())
    }

    fn apply(&mut self) -> Step {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let value = match self.values.get(callable) {
            Some(Value::Global("collections", "OrderedDict" | "defaultdict")) => Value::Dict(Vec::new()),
            _ => Value::Applied { callable, arguments },
        };
        self.push(value);
        Ok(())
    }

    fn memoise(&mut self, opcode: u8) -> Step {
        let key = match opcode {
            b'q' | b'h' => self.take_length::<1>()? as u32,
            b'r' | b'j' => self.take_length::<4>()? as u32,
            _ => u32::try_from(self.memo.len()).map_err(|_| "its memo overflows".to_owned())?,
        };
        if matches!(opcode, b'h' | b'j') {
            let place = *self.memo.get(&key).ok_or_else(|| format!("memo {key} was never written"))?;
            self.stack.push(place);
        } else {
            let top = self.top()?;
            self.memo.insert(key, top);
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Step<&str> {
    std::str::from_utf8(bytes).map_err(|_| "its text is not UTF-8".to_owned())
}

fn pairs(items: &[Place]) -> Step<Vec<(Place, Place)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a dictionary has a key without value".to_owned());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_of_every_protocol() {
        // pickle.dumps({"a": (1, -2), "b": [300, 70000]}, protocol=…)
        let protocol_2: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xff\x86q\x02X\x01\x00\x00\x00bq\x03]q\x04(M,\x01Jp\x11\x01\x00eu.";
        let protocol_4: &[u8] = b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01J\xfe\xff\xff\xff\x86\x94\x8c\x01b\x94]\x94(M,\x01Jp\x11\x01\x00eu.";
        for bytes in [protocol_2, protocol_4] {
            let pickle = Pickle::read(bytes).unwrap();
            let Value::Dict(entries) = pickle.root() else { panic!("not a dictionary") };
            let [(a, pair), (b, list)] = entries[..] else { panic!("not two entries") };
            assert!(matches!(pickle.get(a), Value::Text("a")) && matches!(pickle.get(b), Value::Text("b")));
            let (Value::Tuple(pair), Value::List(list)) = (pickle.get(pair), pickle.get(list)) else {
                panic!("wrong values")
            };
            let integers: Vec<i64> = pair.iter().chain(list).map(|&place| integer(&pickle, place)).collect();
            assert_eq!(integers, [1, -2, 300, 70000]);
        }
    }

    fn integer(pickle: &Pickle, place: Place) -> i64 {
        match pickle.get(place) {
            Value::Int(value) => *value,
            other => panic!("{other:?} is not an integer"),
        }
    }

    #[test]
    fn long_integers_keep_their_sign() {
        for (bytes, expected) in [(&b"\x8a\x00."[..], 0), (b"\x8a\x01\xff.", -1), (b"\x8a\x02\xff\x00.", 255)] {
            let pickle = Pickle::read(bytes).unwrap();
            assert_eq!(integer(&pickle, pickle.root), expected);
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_file_is_refused() {
        for bytes in [&b"X\xff\xff\xff\xffabc"[..], b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc", b"\x8b\xff\xff\xff\x7f"]
        {
            assert!(Pickle::read(bytes).unwrap_err().contains("ends too early"));
        }
    }

    #[test]
    fn unbalanced_stacks_are_refused() {
        for bytes in [&b"."[..], b"R", b"]a", b"u", b"(0(t", b"K\x01(K\x02s.", b"h\x07", b"(K\x01d.", b"K\x01K\x02a."] {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_list_that_holds_itself_is_read_once() {
        assert!(Pickle::read(b"]q\x00h\x00a.").is_ok());
    }
}
